"""A forest's codes once more, from the rules of docs/format.md and cpp/forest: what its bytes must be.

Only for a forest whose search gathers every row: which rows a walk meets, and in what order, then says nothing. Never
import constann here.
"""

import numpy as np
from reference import Floats, inner_product, manhattan, squared_euclidean

CODE_BITS = 7
GREATEST = np.float32(127)
SAMPLED_VALUES = 2**20
CLIPPED_SHARE = 200  # 1/200 of the values below, as many above
GROUP = 32  # a row of codes is a multiple of so many
TRIAL_QUERIES, TRIAL_NEAREST = 64, 10
LOST_AT_MOST = 500  # one in so many
RERANKS = (16, 32, 64, 128)
Scale = tuple[np.float32, np.float32]
Parameters = list[tuple[int, int]]
Sections = list[tuple[int, bytes]]


def scale_of(rows: Floats, dim: int) -> Scale | None:
    """Low and rate: quantiles of the values of some rows become 0 and 127; None where these are no range.

    What is no number, as where a rotated row overflows, counts as the lowest.
    """
    count = min(len(rows), max(SAMPLED_VALUES // dim, 16))
    some = np.stack([rows[i * len(rows) // count, :dim] for i in range(count)]).ravel() + np.float32(0)
    values = np.sort(np.where(np.isnan(some), np.float32(-np.inf), some))
    cut = len(values) // CLIPPED_SHARE
    low, high = values[cut], values[-1 - cut]
    with np.errstate(all="ignore"):
        distance = high - low
        rate = GREATEST / distance
    return (low, rate) if distance > 0 and np.isfinite([distance, rate]).all() and rate > 0 else None


def codes_of(rows: Floats, dim: int, scale: Scale) -> np.ndarray:
    low, rate = scale
    with np.errstate(all="ignore"):
        above = (rows[:, :dim] - low) * rate
    held = np.where(above > 0, np.minimum(above, GREATEST), np.float32(0))  # 0, too, where it is no number
    codes = (held + np.float32(0.5)).astype(np.uint8)
    return np.pad(codes, [(0, 0), (0, -dim % GROUP)])


def signed_codes(query: Floats, dim: int) -> np.ndarray:
    """From -127 to 127, the largest element being one of these; halves away from 0. -127 for what is no number."""
    wide = query[:dim].astype(np.float64)
    largest = np.nanmax(np.abs(wide), initial=0)
    with np.errstate(invalid="ignore"):
        scaled = wide * (127.0 / largest if largest > 0 else 0.0)
    rounded = np.where(scaled < 0, scaled - 0.5, scaled + 0.5)
    held = np.where(rounded > -127, np.minimum(rounded, 127), -127)
    return np.trunc(held).astype(np.int64)


def coarse(metric: str, dim: int, query: Floats, codes: np.ndarray, scale: Scale) -> np.ndarray:
    """Integers that order rows by their codes, the nearest first."""
    kept = codes[:, :dim].astype(np.int64)
    if metric in ("cosine", "dot"):
        return -(kept @ signed_codes(query, dim))
    differences = kept - codes_of(query[None], dim, scale)[0, :dim].astype(np.int64)
    return np.abs(differences).sum(1) if metric == "manhattan" else (differences**2).sum(1)


def fine(metric: str, query: Floats, rows: Floats) -> Floats:
    """Distances, or what orders rows as they do; rows are as they are stored."""
    if metric == "cosine":
        return np.maximum(np.float32(1) - inner_product(query, rows), np.float32(0))
    if metric == "dot":
        return np.float32(0) - inner_product(query, rows)
    return manhattan(query, rows) if metric == "manhattan" else np.sqrt(squared_euclidean(query, rows))


def rerank_of(metric: str, dim: int, rows: Floats, codes: np.ndarray, scale: Scale) -> int | None:
    """How many rows the codes must leave so that of the nearest of trial rows hardly one is lost; None if too many."""
    ranks: list[int] = []
    queries = min(len(rows), TRIAL_QUERIES)
    for i in range(queries):
        query = rows[i * len(rows) // queries]
        nearest = np.argsort(fine(metric, query, rows), kind="stable")[:TRIAL_NEAREST]
        places = np.empty(len(rows), np.int64)
        places[np.lexsort((np.arange(len(rows)), coarse(metric, dim, query, codes, scale)))] = np.arange(len(rows))
        ranks += places[nearest].tolist()
    lost = {rerank: sum(rank >= rerank for rank in ranks) for rerank in RERANKS}
    return next((rerank for rerank in RERANKS if lost[rerank] * LOST_AT_MOST <= len(ranks)), None)


def bits_of(number: np.float32) -> int:
    return int(number.view(np.uint32))


def parts(metric: str, dim: int, rows: Floats, planes: list[Floats]) -> tuple[Parameters, Sections]:
    """The parameters and sections of codes, which serve for the planes wherever these have a range."""
    scale = scale_of(rows, dim)
    if scale is None:
        return [(4, 0)], []
    codes = codes_of(rows, dim, scale)
    rerank = rerank_of(metric, dim, rows, codes, scale)
    if rerank is None:
        return [(4, 0)], []
    parameters = [(4, CODE_BITS), (5, bits_of(scale[0])), (6, bits_of(scale[1])), (7, rerank)]
    plane_scale = scale_of(np.stack(planes), dim) if planes else None
    if plane_scale is None:
        return [*parameters, (8, 0)], [(23, codes.tobytes())]
    parameters += [(8, CODE_BITS), (9, bits_of(plane_scale[0])), (10, bits_of(plane_scale[1]))]
    return parameters, [(23, codes.tobytes()), (24, codes_of(np.stack(planes), dim, plane_scale).tobytes())]
