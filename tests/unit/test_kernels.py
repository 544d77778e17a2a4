"""Every kernel set gives the bits of the lane order, and the forced one is the one that runs."""

import os
import subprocess
import sys

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import constann
from constann import _core

SETS = [implementation.name for implementation in constann.kernels.available()]
FUNCTIONS = {
    "inner_product": reference.inner_product,
    "squared_euclidean": reference.squared_euclidean,
    "manhattan": reference.manhattan,
}
CODE_LENGTHS = [32, 64, 96, 128, 160, 384, 1536, 65_536]
DIMS = [*range(1, 67), 95, 96, 97, 127, 128, 200, 384, 768, 1536]


def bits(array: np.ndarray) -> np.ndarray:
    """The array's bits, with every NaN made the same: payloads are not part of the promise."""
    return np.where(np.isnan(array), np.uint32(0x7FC00000), array.view(np.uint32))


def rows_of(dim: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kernels", SETS)
def test_every_set_gives_the_bits_of_the_reference_at_every_dim(kernels: str, function: str) -> None:
    for dim in DIMS:
        query, rows = rows_of(dim, 1, dim)[0], rows_of(dim, 19, dim + 1)
        expected = FUNCTIONS[function](query, rows)
        for many in (False, True):
            got = _core.kernel_answers(kernels, function, reference.padded(query), reference.padded(rows), many)
            np.testing.assert_array_equal(bits(got), bits(expected), f"dim {dim}, many {many}")


def moved(array: np.ndarray, by: int) -> np.ndarray:
    """A copy whose first byte is so many bytes after a whole page."""
    space = np.empty(array.nbytes + 8_192, np.uint8)
    begin = -space.ctypes.data % 4_096 + by
    copy: np.ndarray = space[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("kernels", SETS)
def test_memory_may_begin_anywhere(kernels: str) -> None:
    """Files are mapped and buffers handed over as they are: no kernel may load as from aligned memory."""
    query, rows = reference.padded(rows_of(100, 1, 5)[0]), reference.padded(rows_of(100, 19, 6))
    for function in FUNCTIONS:
        for many in (False, True):
            expected = _core.kernel_answers(kernels, function, query, rows, many)
            for by in (4, 8, 16, 32, 52):
                given_query, given_rows = moved(query, by), moved(rows, 64 - by)
                got = _core.kernel_answers(kernels, function, given_query, given_rows, many)
                np.testing.assert_array_equal(bits(got), bits(expected), f"{function}, {by} bytes on, many {many}")


any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_every_set_agrees_on_any_finite_numbers_however_large_or_small(data: st.DataObject) -> None:
    dim, count = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 18))
    numbers = hnp.arrays(np.float32, (count + 1, dim), elements=any_float32, fill=any_float32)
    drawn = data.draw(numbers)
    query, rows = drawn[0], drawn[1:]
    for function, expected in FUNCTIONS.items():
        for kernels in SETS:
            for many in (False, True):
                got = _core.kernel_answers(kernels, function, reference.padded(query), reference.padded(rows), many)
                np.testing.assert_array_equal(bits(got), bits(expected(query, rows)))


def test_a_sum_is_never_minus_zero() -> None:
    query = np.array([-0.0, 1e-30, -1e-30] + [0.0] * 13, np.float32)
    rows = np.array([[0.0, -1e-30, 1e-30] + [-0.0] * 13], np.float32)
    for kernels in SETS:
        for function in FUNCTIONS:
            got = _core.kernel_answers(kernels, function, query, rows, False)
            assert not np.signbit(got).any()


def bits_as_floats(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, [(0, 0), (0, -rows.shape[1] % 64)]).view(np.float32)


@pytest.mark.parametrize("kernels", SETS)
def test_every_set_counts_differing_bits(kernels: str) -> None:
    for length in (1, 8, 16, 24, 40, 64, 65, 100, 256, 8192):
        rows = np.random.default_rng(length).integers(0, 256, (20, length), np.uint8)
        expected = reference.hamming(rows[0], rows[1:])
        for many in (False, True):
            given_rows = bits_as_floats(rows)
            got = _core.kernel_answers(kernels, "hamming", given_rows[0], given_rows[1:], many)
            np.testing.assert_array_equal(got, expected)


def code_answers(function: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The words of kernel_table.hpp, in Python's own integers."""
    q = query.view(np.int8).astype(np.int64) if function == "inner_product" else query.astype(np.int64)
    r = rows.astype(np.int64)
    if function == "inner_product":
        return (2**31 - (r * q).sum(1)).astype(np.uint32)
    return ((r - q) ** 2 if function == "squared_euclidean" else np.abs(r - q)).sum(1).astype(np.uint32)


@pytest.mark.parametrize("function", ["inner_product", "squared_euclidean", "manhattan"])
@pytest.mark.parametrize("kernels", SETS)
def test_every_set_compares_codes_exactly(kernels: str, function: str) -> None:
    generator = np.random.default_rng(3)
    for length in CODE_LENGTHS:
        rows = generator.integers(0, 128, (11, length), np.uint8)
        rows[1], rows[2] = 127, 0
        queries = [generator.integers(0, 128, length, np.uint8), np.full(length, 127, np.uint8)]
        if function == "inner_product":
            queries += [generator.integers(-127, 128, length).astype(np.int8).view(np.uint8)]
            queries += [np.full(length, -127, np.int8).view(np.uint8)]
        for query in queries:
            for count in (1, 4, 7, 11):
                got = _core.code_answers(kernels, function, query, rows[:count])
                np.testing.assert_array_equal(got, code_answers(function, query, rows[:count]), f"{length} codes")


@pytest.mark.parametrize("function", ["inner_product", "squared_euclidean", "manhattan"])
@pytest.mark.parametrize("kernels", SETS)
def test_every_set_makes_the_same_of_a_foreign_files_codes(kernels: str, function: str) -> None:
    """A byte above 127 is no code: each set takes seven bits of it."""
    generator = np.random.default_rng(4)
    for length in CODE_LENGTHS:
        rows = generator.integers(0, 256, (11, length), np.uint8)
        rows[1], rows[2] = 255, 128
        for query in (generator.integers(0, 128, length, np.uint8), np.full(length, 127, np.uint8)):
            got = _core.code_answers(kernels, function, query, rows)
            np.testing.assert_array_equal(got, code_answers(function, query, rows & 127), f"{length} codes")


def halves(rows: np.ndarray) -> np.ndarray:
    """Codes of 4 bits, unpacked: element i in the lower half of byte i, the second half of a row in the upper."""
    return np.concatenate([rows & 15, rows >> 4], axis=1).astype(np.int64)


@pytest.mark.parametrize("kernels", SETS)
def test_every_set_compares_codes_of_4_bits_exactly(kernels: str) -> None:
    generator = np.random.default_rng(4)
    for length in CODE_LENGTHS:
        rows = generator.integers(0, 256, (11, length), np.uint8)
        rows[1], rows[2] = 255, 0
        for signed in (generator.integers(-127, 128, 2 * length), np.full(2 * length, -127), np.full(2 * length, 127)):
            query = signed.astype(np.int8).view(np.uint8)
            got = _core.code_answers(kernels, "half_inner_product", query, rows)
            np.testing.assert_array_equal(got, (2**31 - (halves(rows) * signed).sum(1)).astype(np.uint32))
        for query in (generator.integers(0, 128, 2 * length, np.uint8), np.full(2 * length, 127, np.uint8)):
            got = _core.code_answers(kernels, "half_squared_euclidean", query, rows)
            np.testing.assert_array_equal(got, ((query.astype(np.int64) - (8 * halves(rows) + 4)) ** 2).sum(1))


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_forces_a_set() -> None:
    for kernels in SETS:
        run = run_python("import constann; print(constann.kernels.current())", CONSTANN_KERNELS=kernels)
        assert run.stdout.strip() == kernels, run.stderr


@pytest.mark.parametrize("use", ["constann.kernels", "constann.build", "constann.Forest", "from constann import open"])
def test_an_unknown_set_is_an_error_at_first_use_that_lists_those_there_are(use: str) -> None:
    run = run_python(f"import constann; {use}", CONSTANN_KERNELS="avx1024")
    assert run.returncode != 0
    assert "CONSTANN_KERNELS: there are no kernels named 'avx1024'" in run.stderr
    assert ", ".join(SETS) in run.stderr
    with pytest.raises(ValueError, match="no kernels named 'mmx'"):
        constann.kernels.use("mmx")


def test_use_none_returns_to_the_fastest() -> None:
    constann.kernels.use("scalar")
    assert constann.kernels.current() == "scalar"
    constann.kernels.use(None)
    assert constann.kernels.current() == SETS[-1]
