"""How two machines' arrays of one stage differ: the first row and element, both bit patterns, how far apart all are."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from constann.comparison import numbers
from constann.comparison.reading import Stage
from constann.comparison.tolerances import Tolerance

__all__ = ["Difference", "agree", "difference"]

Array = npt.NDArray[Any]


@dataclass
class Difference:
    """How the stage of one machine differs from that of another, which stands for the largest group."""

    kind: str
    """"missing", "dtype", "shape", "values", or "digest" where the arrays were too large to keep."""
    machines: tuple[int, int]
    """Numbers of the two machines: of the largest group, and of the other."""
    sentence: str
    element: tuple[int, ...] | None = None
    values: tuple[Any, Any] | None = None
    bits: tuple[str, str] | None = None
    ulp: int | None = None
    relative: float | None = None
    differing: int = 0
    elements: int = 0
    rows: int = 0
    """Rows with a difference."""
    largest_ulp: int | None = None
    largest_relative: float | None = None
    largest_delta: float | None = None
    histogram: list[tuple[str, int]] = field(default_factory=list)
    """Of the elements, by ULP distance."""

    @property
    def row(self) -> int | None:
        """The first index of the element."""
        return self.element[0] if self.element else None


def agree(a: Stage | None, b: Stage | None, tolerance: Tolerance) -> bool:
    """Return whether two machines agree on a stage; a stage that one of them lacks never agrees."""
    if a is None or b is None or a.shape != b.shape:
        return False
    if a.sha256 == b.sha256:
        return True
    if a.array is None or b.array is None or not _same_kind(a, b):
        return False
    return bool(tolerance) and bool(tolerance.agree(a.array, b.array).all())


def _same_kind(a: Stage, b: Stage) -> bool:
    return a.dtype == b.dtype or a.dtype.kind == b.dtype.kind == "U"


def difference(
    name: str,
    stages: tuple[Stage | None, Stage | None],
    machines: tuple[int, int],
    labels: tuple[str, str],
    tolerance: Tolerance,
) -> Difference:
    """Say how two stages differ that do not agree."""
    a, b = stages
    if a is None or b is None:
        lacking, other = labels if a is None else labels[::-1]
        return Difference("missing", machines, f"{lacking} has no stage {name!r}, {other} has")
    if not _same_kind(a, b):
        said = f"the dtypes differ: {labels[0]} has {a.dtype.name}, {labels[1]} {b.dtype.name}"
        return Difference("dtype", machines, said)
    if a.shape != b.shape:
        said = f"the shapes differ: {labels[0]} has {list(a.shape)}, {labels[1]} {list(b.shape)}"
        return Difference("shape", machines, said)
    if a.array is not None and b.array is not None:
        return _of_values(a.array, b.array, machines, tolerance)
    return _of_digests(a, b, machines, tolerance)


def _of_values(a: Array, b: Array, machines: tuple[int, int], tolerance: Tolerance) -> Difference:
    apart = ~tolerance.agree(a, b)
    if not apart.any():  # as texts of other widths whose values are equal
        apart = ~numbers.same_bits(a, b)
    first = int(apart.reshape(-1).argmax())
    element = tuple(int(each) for each in np.unravel_index(first, a.shape)) if a.ndim else ()
    found = Difference("values", machines, "", element, (a[element].item(), b[element].item()))
    found.bits = (numbers.bits_of(a[element]), numbers.bits_of(b[element]))
    found.differing, found.elements = int(np.count_nonzero(apart)), a.size
    found.rows = int(np.count_nonzero(apart.reshape(len(a), -1).any(axis=1))) if a.ndim else 1
    if a.dtype.kind == "f":
        ulp, relative = numbers.ulp_distance(a, b), numbers.relative_errors(a, b)
        found.ulp, found.relative = int(ulp[element]), float(relative[element])
        found.largest_ulp, found.largest_relative = int(ulp.max()), _largest(relative)
        found.histogram = numbers.histogram(ulp)
    if a.dtype.kind in "iuf":
        with np.errstate(all="ignore"):
            found.largest_delta = _largest(np.abs(a.astype(np.float64) - b.astype(np.float64)))
    found.sentence = f"{found.differing} of {found.elements} elements differ, in {found.rows} rows"
    return found


def _largest(values: npt.NDArray[np.float64]) -> float:
    return float(np.nanmax(values)) if not np.isnan(values).all() else float("nan")


def _of_digests(a: Stage, b: Stage, machines: tuple[int, int], tolerance: Tolerance) -> Difference:
    """Narrow down a difference of arrays that were not kept: by the sample, then by the digests of blocks."""
    if a.sample is not None and b.sample is not None and a.sample_step == b.sample_step:
        apart = ~tolerance.agree(a.sample, b.sample)
        if apart.any():
            found = _of_values(a.sample, b.sample, machines, tolerance)
            row = found.row or 0
            flat = np.unravel_index(found.element[1], a.shape[1:]) if found.element and a.shape[1:] else ()
            found.element = (row * a.sample_step, *(int(each) for each in flat))
            found.sentence += f" (of a sample, each {a.sample_step}th row)"
            return found
    said = "their digests differ"
    if a.block_rows == b.block_rows and a.block_rows:
        pairs = zip(a.blocks, b.blocks, strict=True)
        block = next((number for number, (x, y) in enumerate(pairs) if x != y), None)
        if block is not None:
            start = block * a.block_rows
            said = f"the first difference is in rows {start} to {min(start + a.block_rows, a.shape[0]) - 1}"
    said += "; the array was too large to be kept: record with a larger `keep` to see it"
    return Difference("digest", machines, said)
