"""The known-answer test: what every kernel set answers to a small input, compared with stored bits.

For a child process. The input is made by rule from integers, so that no rounding can differ; the stored bits are those
of the lane order, which tests/unit/test_doctor.py computes anew in numpy. Writes nothing.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from constann import _core, indexes, kernels

__all__ = ["DIMS", "EXPECTED", "hexadecimal", "inputs", "run"]

Function = Literal["inner_product", "squared_euclidean", "manhattan"]
DIMS = (16, 48, 208)  # one turn of the lanes, a few, and more than a set handles at once
ROWS = 5

# The bits of the answers for each row, in hex, by function and dim.
EXPECTED: dict[tuple[str, int], str] = {
    ("inner_product", 16): "4b834f7d 4cb9fa42 4c3cbc79 cad7cdec ca056448",
    ("inner_product", 48): "4d0baf4a 4d0d17c0 cd050681 4b1be437 ca7fe558",
    ("inner_product", 208): "ce12f4f1 cd398a98 ce7859fd 4d3c7542 4dc49d6d",
    ("squared_euclidean", 16): "4ebe71fc 4f790784 4f5eb0dc 4f4d8f57 4ea457ef",
    ("squared_euclidean", 48): "4fdb8f5b 4fd215c4 4f5cc715 4fe1f66c 4f198de2",
    ("squared_euclidean", 208): "50f889f9 5114b7be 50bc6644 510080f6 50dcde5c",
    ("manhattan", 16): "47896ceb 47c6b7a6 4808656d 47c2ec19 475a48c4",
    ("manhattan", 48): "485a305e 484962a9 48042d77 4873472a 4805804f",
    ("manhattan", 208): "49891d9d 498c84b0 495cdd1a 498ede9e 497be688",
}


def numbers(seed: int) -> Iterator[int]:
    """Yield 32-bit numbers of a linear congruential generator."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 32


def floats(seed: int, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Make numbers of 24 bits and different sizes, each of them exact in float32."""
    source = numbers(seed)
    values = [(next(source) % 2**24 - 2**23) * 2.0 ** (next(source) % 24 - 30) for _ in range(rows * columns)]
    return np.frombuffer(struct.pack(f"={len(values)}f", *values), np.float32).reshape(rows, columns)


def codes(seed: int, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Make bytes of 0 to 127."""
    source = numbers(seed)
    return np.frombuffer(bytes(next(source) % 128 for _ in range(rows * columns)), np.uint8).reshape(rows, columns)


def hexadecimal(answers: npt.NDArray[np.float32]) -> str:
    """Write the bits of answers."""
    return " ".join(f"{bits:08x}" for bits in answers.view(np.uint32).tolist())


def inputs(dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Make the query and the rows of this dim."""
    return floats(dim, 1, dim)[0], floats(dim + 1, ROWS, dim)


def run() -> dict[str, Any]:
    """Test every kernel set this CPU can run.

    Returns
    -------
    dict
        "sets": the names of those tested; "answers": how many answers of each; "fingerprints": of the tiny indexes;
        "problems": a sentence for everything that is not as it must be.
    """
    sets = [each.name for each in kernels.available()]
    problems: list[str] = []
    count = 0
    for name in sets:
        for what, right in _comparisons(name):
            count += 1
            if not right:
                problems.append(f"the kernels '{name}' answer wrongly: {what}")
    fingerprints, differing = _indexes(sets)
    return {
        "sets": sets,
        "answers": count // len(sets),
        "fingerprints": fingerprints,
        "problems": problems + differing,
    }


def _comparisons(kernel_set: str) -> Iterator[tuple[str, bool]]:
    """Yield what was compared and whether it was right."""
    for (function, dim), expected in EXPECTED.items():
        query, rows = inputs(dim)
        for many in (False, True):
            found = _core.kernel_answers(kernel_set, _function(function), query, rows, many)
            yield f"{function} of dim {dim}{' by groups' if many else ''}", hexadecimal(found) == expected
    for dim in DIMS:
        query, rows = inputs(dim)
        differing = [float(_differing_bits(query.tobytes(), row.tobytes())) for row in rows]
        for many in (False, True):
            found = _core.kernel_answers(kernel_set, "hamming", query, rows, many)
            yield f"hamming of {32 * dim} bits{' by groups' if many else ''}", found.tolist() == differing
        yield from _code_comparisons(kernel_set, 32 * dim)


def _function(name: str) -> Function:
    return next(each for each in get_args(Function) if each == name)


def _differing_bits(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).bit_count()


_CODE_TERMS: dict[Function, Callable[[int, int], int]] = {
    "inner_product": lambda a, b: a * b,
    "squared_euclidean": lambda a, b: (a - b) ** 2,
    "manhattan": lambda a, b: abs(a - b),
}


def _code_comparisons(kernel_set: str, length: int) -> Iterator[tuple[str, bool]]:
    query, rows = codes(length, 1, length)[0], codes(length + 1, ROWS, length)
    for function, term in _CODE_TERMS.items():
        # Integers are exact: Python's own are the expectation.
        sums = [sum(term(a, b) for a, b in zip(query.tolist(), row.tolist(), strict=True)) for row in rows]
        # An inner product is given as a distance: the larger it is, the less.
        expected = [2**31 - each for each in sums] if function == "inner_product" else sums
        found = _core.code_answers(kernel_set, function, query, rows)
        yield f"{function} of {length} codes", found.tolist() == expected


def _indexes(sets: list[str]) -> tuple[dict[str, str], list[str]]:
    """Build and search a tiny index of each kind under each kernel set; all must be the same."""
    first: dict[str, tuple[str, bytes, bytes]] = {}
    problems = []
    for name in sets:
        kernels.use(name)
        try:
            for what, found in _tiny_indexes():
                if first.setdefault(what, found) == found:
                    continue
                which = "fingerprint" if first[what][0] != found[0] else "answers"
                problems.append(f"a tiny {what} index has another {which} with the kernels '{name}' than '{sets[0]}'")
        finally:
            kernels.use(None)
    return {what: found[0] for what, found in first.items()}, problems


def _tiny_indexes() -> Iterator[tuple[str, tuple[str, bytes, bytes]]]:
    vectors = floats(7, 200, 24)
    packed = codes(9, 200, 24)
    for kind, facts in indexes.KINDS.items():
        for metric in facts.metrics:
            rows = packed if metric == "hamming" else vectors
            index = indexes.build(rows, metric, kind=kind, seed=1, threads=1)
            ids, distances = index.search(rows[:7], 5, threads=1)
            yield f"{kind} {metric}", (index.fingerprint, ids.tobytes(), distances.tobytes())
