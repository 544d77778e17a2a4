"""The reference itself is right: numpy's float32 rounds as IEEE says, in the lane order, shown in exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import reference
from golden import inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FINITE = ["ordinary", "ties", "zeros", "denormal", "small", "mixed", "near", "cancelling"]
TERMS = {
    "inner_product": lambda q, r: rounded(q * r),
    "squared_euclidean": lambda q, r: rounded(rounded(q - r) ** 2),
    "manhattan": lambda q, r: abs(rounded(q - r)),
}


def rounded(number: Fraction) -> Fraction:
    """The nearest binary32, ties to even; where that would overflow the case is not for fractions."""
    if number == 0:
        return number
    exponent = max(math.frexp(abs(number))[1] - 1, -126)
    step = Fraction(2) ** (exponent - 23)
    nearest = round(number / step) * step
    assert abs(nearest) < 2**128
    return nearest


def in_lane_order(terms: list[Fraction]) -> Fraction:
    """The words of cpp/kernels/kernel_table.hpp, one addition at a time."""
    lanes = [Fraction(0)] * 16
    for i, term in enumerate(terms):
        lanes[i % 16] = rounded(lanes[i % 16] + term)
    for width in (8, 4, 2, 1):
        for lane in range(width):
            lanes[lane] = rounded(lanes[lane] + lanes[lane + width])
    return lanes[0]


def fractions(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]


def assert_exact(function: str, query: np.ndarray, rows: np.ndarray) -> None:
    found = getattr(reference, function)(query, rows)
    assert found.dtype == np.float32
    for row, value in zip(rows, found, strict=True):
        terms = [TERMS[function](q, r) for q, r in zip(fractions(query), fractions(row), strict=True)]
        assert Fraction(float(value)) == in_lane_order(terms)
        assert not (value == 0 and np.signbit(value))


@pytest.mark.parametrize("function", TERMS)
@pytest.mark.parametrize("numbers", FINITE)
def test_kernels_of_the_reference_round_each_step_as_exact_fractions_do(numbers: str, function: str) -> None:
    for dim in (1, 2, 9, 16, 17, 33, 65, 130):
        drawn = inputs.matrix(numbers, dim, 4, dim)
        assert_exact(function, drawn[0], drawn[1:])


any_float = st.floats(-(2.0**57), 2.0**57, width=32)


@pytest.mark.parametrize("function", TERMS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_kernels_of_the_reference_round_any_numbers_as_exact_fractions_do(function: str, data: st.DataObject) -> None:
    shape = (3, data.draw(st.integers(1, 40)))
    drawn = data.draw(hnp.arrays(np.float32, shape, elements=any_float, fill=any_float))
    assert_exact(function, drawn[0], drawn[1:])


@pytest.mark.parametrize("numbers", FINITE)
def test_sums_of_the_reference_lie_within_the_error_bound_of_exact_sums(numbers: str) -> None:
    for dim in (1, 17, 300):
        drawn = inputs.matrix(numbers, dim, 4, dim)
        for row, value in zip(drawn[1:], reference.inner_product(drawn[0], drawn[1:]), strict=True):
            products = [q * r for q, r in zip(fractions(drawn[0]), fractions(row), strict=True)]
            bound = (dim / 16 + 8) * 2.0**-24 * math.fsum(map(abs, products)) + dim * 2.0**-149
            assert abs(Fraction(float(value)) - sum(products)) <= bound


def test_the_exact_fractions_see_a_wrong_lane_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "lane_sum", lambda terms: np.add.reduce(terms, axis=-1))
    drawn = inputs.matrix("ordinary", 0, 20, 65)
    with pytest.raises(AssertionError):
        assert_exact("inner_product", drawn[0], drawn[1:])


@pytest.mark.parametrize("numbers", ["ordinary", "denormal", "huge", "any"])
def test_unit_rows_are_the_exact_ones_rounded_once(numbers: str) -> None:
    """Within 2^-24 of an element, and 2^-51 for the float64 steps before; below the normal range by 2^-150."""
    rows = inputs.matrix(numbers, 5, 4, 50)
    for row, scaled in zip(rows, reference.unit(rows), strict=True):
        squared_norm = sum(value**2 for value in fractions(row))
        for value, found in zip(fractions(row), fractions(scaled), strict=False):
            exact_square, tolerance = value**2 / squared_norm, Fraction(2) ** -24 + Fraction(2) ** -50
            low = max(abs(found) * (1 - tolerance) - Fraction(2) ** -150, 0)
            high = abs(found) * (1 + 2 * tolerance) + Fraction(2) ** -150
            assert low**2 <= exact_square <= high**2 and found * value >= 0


def test_a_zero_row_stays_zero_and_is_at_cosine_distance_one() -> None:
    rows = np.zeros((2, 5), np.float32)
    assert not reference.unit(rows).any()
    assert list(reference.distances("cosine", np.ones(5, np.float32), rows)) == [1, 1]


def test_where_infinities_cancel_the_distance_is_infinite() -> None:
    query, row = np.full(2, 3e38, np.float32), np.array([[3e38, -3e38]], np.float32)
    assert np.isnan(reference.inner_product(query, row)).all()
    assert list(reference.distances("dot", query, row)) == [np.inf]


def test_dot_is_never_minus_zero() -> None:
    found = reference.distances("dot", np.zeros(3, np.float32), np.array([[1, -1, 0], [-0.0, 0, 0]], np.float32))
    assert not np.signbit(found).any()


@pytest.mark.parametrize("bits", [1, 7, 8, 100, 65_536])
def test_hamming_counts_differing_bits(bits: int) -> None:
    drawn = inputs.packed("bytes", bits, 3, bits)
    counted = [sum((int(q) ^ int(r)).bit_count() for q, r in zip(drawn[0], row, strict=True)) for row in drawn[1:]]
    found = reference.hamming(drawn[0], drawn[1:])
    assert found.dtype == np.float32 and list(found) == counted


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="no metric 'chebyshev'"):
        reference.distances("chebyshev", np.zeros(1, np.float32), np.zeros((1, 1), np.float32))
