"""The canonical arithmetic in numpy, written from the words of the lane order: what tests expect of the core.

Elementwise operations on float32 arrays are rounded one by one, so these loops say the order and nothing else does.
Never import constann here.
"""

import numpy as np
import numpy.typing as npt

LANES = 16
METRICS = ("cosine", "euclidean", "manhattan", "dot", "hamming")
Floats = npt.NDArray[np.float32]
Packed = npt.NDArray[np.uint8]


def padded(rows: Floats) -> Floats:
    """Rows with zeros up to a multiple of 16 columns."""
    missing = -rows.shape[-1] % LANES
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)])


def lane_sum(terms: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Sum each row of terms in 16 lanes, then as a tree."""
    lanes = np.zeros((*terms.shape[:-1], LANES), terms.dtype)
    for start in range(0, terms.shape[-1], LANES):
        lanes = lanes + terms[..., start : start + LANES]
    for width in (8, 4, 2, 1):
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
    return lanes[..., 0]


def inner_product(query: Floats, rows: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return lane_sum(padded(rows) * padded(query))


def squared_euclidean(query: Floats, rows: Floats) -> Floats:
    with np.errstate(all="ignore"):
        difference = padded(query) - padded(rows)
        return lane_sum(difference * difference)


def manhattan(query: Floats, rows: Floats) -> Floats:
    """Terms are differences with their sign bit cleared."""
    with np.errstate(all="ignore"):
        difference = padded(query) - padded(rows)
        return lane_sum((difference.view(np.uint32) & np.uint32(0x7FFFFFFF)).view(np.float32))


def hamming(query: Packed, rows: Packed) -> Floats:
    """Differing bits: at most 65,536, so float32 holds them exactly."""
    return np.unpackbits(query ^ rows, axis=-1).sum(-1, dtype=np.int64).astype(np.float32)


def unit(rows: Floats) -> Floats:
    """Rows of unit length: norm and division in float64, rounded once; zero rows stay."""
    wide = padded(rows).astype(np.float64)
    norms = np.sqrt(lane_sum(wide * wide))[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms == 0, wide, wide / norms).astype(np.float32)


def distances(metric: str, query: npt.NDArray[np.generic], rows: npt.NDArray[np.generic]) -> Floats:
    """Distances of one query from rows, as a caller sees them: +inf where infinities cancel, and never -0."""
    if metric == "cosine":
        found = np.maximum(np.float32(1) - inner_product(unit(query), unit(rows)), np.float32(0))
    elif metric == "euclidean":
        found = np.sqrt(squared_euclidean(query, rows))
    elif metric == "manhattan":
        found = manhattan(query, rows)
    elif metric == "dot":
        found = np.float32(0) - inner_product(query, rows)
    elif metric == "hamming":
        found = hamming(query, rows)
    else:
        raise ValueError(f"there is no metric {metric!r}")
    return np.where(np.isnan(found), np.float32(np.inf), found)


def nearest(
    metric: str, query: npt.NDArray[np.generic], rows: npt.NDArray[np.generic], k: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The k nearest rows by (distance, row), padded with -1 and +inf."""
    all_distances = distances(metric, query, rows)
    order = np.lexsort((np.arange(len(rows)), all_distances))[:k]
    ids = np.full(k, -1, np.int64)
    found = np.full(k, np.inf, np.float32)
    ids[: len(order)], found[: len(order)] = order, all_distances[order]
    return ids, found
