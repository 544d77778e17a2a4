"""What kind of difference each differing neighbour is, and what it does to recall.

Distances are computed anew by the canonical kernels where the recordings hold the vectors; else the recorded serve.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from constann.comparison.reading import Recorded, Stage
from constann.comparison.tolerances import Tolerance

__all__ = ["Neighbour", "Neighbours", "classify"]

Array = npt.NDArray[Any]
Kind = Literal["tie swap", "near tie", "true miss"]
_MOST_DISTANCES = 20_000_000  # rows times queries that are computed anew to know the recall
_SHOWN = 1000


@dataclass(frozen=True)
class Neighbour:
    """One place of one query where two machines name other rows."""

    query: int
    rank: int
    ids: tuple[int, int]
    distances: tuple[float, float]
    kind: Kind


@dataclass
class Neighbours:
    """All differing neighbours of a search on two machines."""

    machines: tuple[int, int]
    canonical: bool
    """Whether the distances were computed anew; else they are the recorded ones."""
    tolerance: Tolerance
    tie_swaps: int = 0
    near_ties: int = 0
    true_misses: int = 0
    queries: int = 0
    """Queries with a difference."""
    overlap: float = 1.0
    """Share of the first machine's neighbours that the other names too."""
    recall: tuple[float, float] | None = None
    """Of both machines against exact search, ties counted; None where the vectors are not known."""
    found: list[Neighbour] = field(default_factory=list)
    """The first of them."""

    @property
    def only_ties(self) -> bool:
        """Whether no neighbour is truly missed."""
        return not self.true_misses

    def note(self, neighbour: Neighbour) -> None:
        """Count one."""
        self.tie_swaps += neighbour.kind == "tie swap"
        self.near_ties += neighbour.kind == "near tie"
        self.true_misses += neighbour.kind == "true miss"
        if len(self.found) < _SHOWN:
            self.found.append(neighbour)


def classify(
    a: Recorded, b: Recorded, stage: Stage, machines: tuple[int, int], tolerance: Tolerance
) -> Neighbours | None:
    """Class the differing neighbours of a stage of ids; None where it is none or cannot be.

    Parameters
    ----------
    a, b
        What two machines recorded.
    stage
        The ids of the first of them.
    machines
        Numbers of the two.
    tolerance
        Within which two distances are a near tie.
    """
    other = b.stages.get(stage.name)
    mine, theirs = _distances_of(a, stage), _distances_of(b, stage)
    if other is None or stage.array is None or other.array is None or mine is None or theirs is None:
        return None
    near = mine, theirs
    ids = stage.array, other.array
    if ids[0].shape != ids[1].shape or ids[0].ndim != 2 or any(each.dtype.kind not in "iu" for each in ids):
        return None
    if near[0].shape != ids[0].shape or near[1].shape != ids[0].shape:
        return None
    exact = _Exact.of(a, b, stage)
    result = Neighbours(machines, exact is not None, tolerance)
    shared = 0
    for query in range(len(ids[0])):
        rows = ids[0][query].tolist(), ids[1][query].tolist()
        shared += len({*rows[0]} & {*rows[1]} - {-1})
        if rows[0] != rows[1]:
            result.queries += 1
            recorded = [
                dict(zip(named, found[query].tolist(), strict=True)) for named, found in zip(rows, near, strict=True)
            ]
            known = exact.distances(query, {*rows[0], *rows[1]}) if exact else {**recorded[1], **recorded[0]}
            for rank, x, y in _pairs(*rows):
                result.note(_neighbour((query, rank), (x, y), known, tolerance))
    valid = int(np.count_nonzero(ids[0] != -1))
    result.overlap = shared / valid if valid else 1.0
    if exact is not None and exact.affordable:
        result.recall = (exact.recall(ids[0]), exact.recall(ids[1]))
    return result


def _distances_of(recorded: Recorded, ids: Stage) -> Array | None:
    for stage in recorded.stages.values():
        if stage.role == "distances" and stage.of.get("name") == ids.of.get("name"):
            return stage.array
    return None


def _pairs(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int, int]]:
    """Pair what differs: rows that only one names, in order; and those of both that stand in another order."""
    in_a, in_b = {*a}, {*b}
    only_a = [(rank, each) for rank, each in enumerate(a) if each not in in_b]
    only_b = [each for each in b if each not in in_a]
    only_a += [(len(a) - 1, -1)] * (len(only_b) - len(only_a))
    only_b += [-1] * (len(only_a) - len(only_b))
    pairs = [(rank, x, y) for (rank, x), y in zip(only_a, only_b, strict=True)]
    common_a = [(rank, each) for rank, each in enumerate(a) if each in in_b]
    common_b = [each for each in b if each in in_a]
    # Of unequal length where a library names a row twice.
    pairs += [(rank, x, y) for (rank, x), y in zip(common_a, common_b, strict=False) if x != y]
    return sorted(pairs)


def _neighbour(
    place: tuple[int, int], ids: tuple[int, int], known: dict[int, float], tolerance: Tolerance
) -> Neighbour:
    # Of canonical distances +inf is what padding has.
    distances = np.array([known.get(each, np.inf) for each in ids], np.float32)
    bits = distances.view(np.uint32)
    kind: Kind = "true miss"
    if -1 not in ids:
        if bits[0] == bits[1]:
            kind = "tie swap"
        elif tolerance and tolerance.agree(distances[:1], distances[1:]).all():
            kind = "near tie"
    return Neighbour(*place, ids, (float(distances[0]), float(distances[1])), kind)


class _Exact:
    """Canonical distances of the recorded vectors."""

    def __init__(self, vectors: Array, queries: Array, metric: Any) -> None:
        self._vectors, self._queries, self._metric = vectors, queries, metric
        self.affordable = len(vectors) * len(queries) <= _MOST_DISTANCES

    @classmethod
    def of(cls, a: Recorded, b: Recorded, stage: Stage) -> "_Exact | None":
        names = [stage.of.get(each) for each in ("vectors", "queries")]
        found = []
        for name in names:
            given = [each.stages.get(name or "") for each in (a, b)]
            if given[0] is None or given[1] is None or given[0].sha256 != given[1].sha256 or given[0].array is None:
                return None
            found.append(given[0].array)
        vectors, queries = found
        metric = stage.of.get("metric")
        assert stage.array is not None
        if vectors.ndim != 2 or queries.ndim != 2 or len(queries) != len(stage.array) or metric is None:
            return None
        made = cls(vectors, queries, metric)
        try:
            made.distances(0, {0})
        except (ValueError, TypeError, IndexError):  # vectors that Constann does not take: the recorded serve
            return None
        return made

    def _search(self, rows: Array, queries: Array, k: int) -> tuple[Array, Array]:
        from constann import indexes  # noqa: PLC0415 - only here is the core needed

        return indexes.build(rows, self._metric, kind="exact").search(queries, k)

    def distances(self, query: int, rows: set[int]) -> dict[int, float]:
        """Return the distance of each of these rows from a query."""
        kept = sorted(each for each in rows if 0 <= each < len(self._vectors))
        if not kept:
            return {}
        ids, distances = self._search(self._vectors[kept], self._queries[query : query + 1], len(kept))
        return {kept[row]: distance for row, distance in zip(ids[0].tolist(), distances[0].tolist(), strict=True)}

    def recall(self, ids: Array) -> float:
        """Return the share of the true neighbours that were found; any of several at the same distance is true."""
        k = min(ids.shape[1], len(self._vectors))
        _, true = self._search(self._vectors, self._queries, k)
        hits = 0
        for query, row in enumerate(ids.tolist()):
            known = self.distances(query, {*row})
            hits += min(k, sum(each <= true[query, -1] for each in known.values()))
        return float(hits / max(1, k * len(ids)))
