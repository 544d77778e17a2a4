"""What `constann record` runs: inputs made by an integer rule, every kind of index and metric, each stage recorded.

No number of an input comes from a float operation, so that inputs are the same on every machine whatever its mode.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from constann import _core, indexes, kernels
from constann.recorder import Recording, random_unit

__all__ = [
    "METRICS",
    "PRESETS",
    "Set",
    "kernel_answers",
    "kinds_for",
    "record_index",
    "record_ones_then_random",
    "record_sets",
    "run",
    "standard",
]

Array = npt.NDArray[Any]
Draws = npt.NDArray[np.uint64]
Function = Literal["inner_product", "squared_euclidean", "manhattan"]
METRICS = get_args(indexes.Metric)
PRESETS = ("standard", "ones-then-random")
VERSION = 1
K = 10
SEED = 20_261_125
_WIDE_K = 40  # so many of those that a walk found: its candidates, as far as a search shows them
_LANE_DIMS = (1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129)
_EFFORT = {"forest": 200}  # few enough candidates that the order of the walk decides the answer
_KERNEL_QUERIES, _KERNEL_ROWS = 5, 200
_SMALL = 100  # rows up to which an index's sections are one stage
_SLICE = Path(__file__).parent / "real_slice"


class Set(NamedTuple):
    """Vectors and queries under a name."""

    name: str
    vectors: Array
    queries: Array


def kinds_for(metric: str) -> list[str]:
    """Name the kinds of index that can compare by a metric."""
    return [kind for kind, facts in indexes.KINDS.items() if metric in facts.metrics]


def _draws(seed: int, rows: int, columns: int) -> Draws:
    z = np.uint64(seed) + np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).reshape(rows, columns)


def _floats(draws: Draws, first: int = 118, count: int = 10) -> npt.NDArray[np.float32]:
    """Put float32 together from the bits of draws: sign, one of `count` exponents from `first` on, fraction."""
    exponent = ((draws >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)) + np.uint64(first)
    bits = (draws & np.uint64(0x807FFFFF)) | (exponent << np.uint64(23))
    return bits.astype(np.uint32).view(np.float32)


def _clustered(seed: int, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Rows that have the bits of one of 20 centres but for the lower half of their fractions."""
    centres = _floats(_draws(seed, 20, columns)).view(np.uint32)
    draws = _draws(seed + 1, rows, columns)
    chosen = (draws[:, 0] >> np.uint64(40)) % np.uint64(20)
    return (centres[chosen.astype(np.intp)] ^ (draws & np.uint64(0x7FFFF)).astype(np.uint32)).view(np.float32)


def standard() -> Iterator[Set]:
    """Give the sets of the standard workload."""
    for dim in _LANE_DIMS:
        yield Set(f"dim-{dim}", _floats(_draws(dim, 60, dim)), _floats(_draws(dim + 1000, 5, dim)))
    for rows in (1, 2, 3):
        yield Set(f"tiny-{rows}", _floats(_draws(rows + 2000, rows, 20)), _floats(_draws(rows + 2100, 3, 20)))
    ties = (_draws(3000, 600, 24) >> np.uint64(61)).astype(np.int8)
    yield Set("ties", ties, (_draws(3001, 20, 24) >> np.uint64(61)).astype(np.int8))
    denormal = _floats(_draws(4000, 60, 20), 0, 64)
    yield Set("denormal", denormal, _floats(_draws(4001, 5, 20), 0, 64))
    yield Set("clustered", _clustered(5000, 1500, 33), _clustered(5000, 20, 33))
    yield Set("levels", _floats(_draws(6000, 2100, 9)), _floats(_draws(6001, 20, 9)))  # a graph of more than one
    yield Set("real", np.load(_SLICE / "gloss-vectors.npy"), np.load(_SLICE / "gloss-queries.npy"))


def _signs(rows: Array) -> npt.NDArray[np.uint8]:
    """Make one bit of each element, its sign: for hamming. No float is compared, for that obeys the process's mode."""
    if rows.dtype.kind == "f":
        width = rows.dtype.itemsize * 8
        unsigned = np.ascontiguousarray(rows).view(f"u{rows.dtype.itemsize}")
        return np.packbits((unsigned >> unsigned.dtype.type(width - 1)).astype(np.uint8), axis=1)
    return np.packbits(rows & 1, axis=1)


def _padded(rows: Array) -> npt.NDArray[np.float32]:
    wide = np.zeros((len(rows), -(-rows.shape[1] // 16) * 16), np.float32)
    wide[:, : rows.shape[1]] = rows
    return wide


class _Stages:
    """Stages by what they are, so that a recording has all inputs before all rows, and so on."""

    ORDER = ("input", "rows", "kernels", "sections", "candidates", "answers")

    def __init__(self) -> None:
        self._waiting: dict[str, list[Callable[[Recording], None]]] = {each: [] for each in self.ORDER}

    def add(self, part: str, name: str, array: Array) -> None:
        self._waiting[part].append(lambda recording: recording.stage(f"{part}/{name}", array))

    def answer(self, name: str, ids: Array, distances: Array, metric: str, source: str) -> None:
        of = {"name": name, "metric": metric, "vectors": f"{source}/vectors", "queries": f"{source}/queries"}
        self._waiting["answers"].append(lambda recording: recording.stage(f"ids/{name}", ids, "ids", of))
        self._waiting["answers"].append(
            lambda recording: recording.stage(f"distances/{name}", distances, "distances", of)
        )

    def write(self, recording: Recording) -> None:
        for part in self.ORDER:
            for put in self._waiting[part]:
                put(recording)


def record_sets(
    recording: Recording,
    sets: Sequence[Set],
    *,
    metrics: Sequence[str] = METRICS,
    kinds: Sequence[str] | None = None,
    k: int = K,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Build each kind of index of each set for each metric, search it, and record all stages.

    Parameters
    ----------
    recording
        Where the stages go.
    sets
        Vectors and queries; for hamming their signs are taken, unless they are uint8 and hamming is the only metric.
    metrics, kinds
        Which to build; None means every kind there is.
    k
        Neighbours of each query.
    threads
        As for `Index.build`.
    progress
        Told how many of the sets are done.
    """
    stages = _Stages()
    packed = list(metrics) == ["hamming"]
    for number, each in enumerate(sets):
        progress(number, len(sets))
        stages.add("input", f"{each.name}/vectors", each.vectors)
        stages.add("input", f"{each.name}/queries", each.queries)
        bits = each
        if "hamming" in metrics and not packed:
            bits = Set(f"{each.name}/signs", _signs(each.vectors), _signs(each.queries))
            stages.add("input", f"{bits.name}/vectors", bits.vectors)
            stages.add("input", f"{bits.name}/queries", bits.queries)
        for metric in metrics:
            given = bits if metric == "hamming" else each
            dim = each.vectors.shape[1] if metric == "hamming" and not packed else None
            _record_metric(
                stages,
                each.name,
                given,
                metric=metric,
                dim=dim,
                kinds=[each for each in kinds_for(metric) if kinds is None or each in kinds],
                k=k,
                threads=threads,
            )
    progress(len(sets), len(sets))
    stages.write(recording)
    recording.facts["threads"] = str(threads or "all")


def _record_metric(
    stages: _Stages,
    name: str,
    given: Set,
    *,
    metric: Any,
    dim: int | None,
    kinds: Sequence[str],
    k: int,
    threads: int | None,
) -> None:
    rows = indexes.build(given.vectors, metric, kind="exact", dim=dim)._stored_rows(np.arange(len(given.vectors)))
    stages.add("rows", f"{name}/{metric}", rows)
    if metric != "hamming":
        # A query is prepared as a row is: what the kernels get.
        some = given.queries[:_KERNEL_QUERIES]
        queries = indexes.build(some, metric, kind="exact")._stored_rows(np.arange(len(some)))
        stages.add("rows", f"{name}/{metric}/queries", queries)
        for how, many in (("one", False), ("many", True)):
            stages.add("kernels", f"{name}/{metric}/{how}", kernel_answers(queries, rows, metric, many=many))
    for kind in kinds:
        place = f"{name}/{kind}/{metric}"
        found = record_index(given, kind, metric, dim=dim, k=k, threads=threads)
        for stage, array in found.items():
            part, _, rest = stage.partition("/")
            if part in ("sections", "candidates"):
                stages.add(part, f"{place}/{rest}".rstrip("/"), array)
        stages.answer(place, found["ids"], found["distances"], metric, f"input/{given.name}")


def record_index(
    given: Set, kind: Any, metric: Any, *, dim: int | None, k: int, threads: int | None = None
) -> dict[str, Array]:
    """Build one index, search it, and return its stages by what they are, such as `sections/rows` or `ids`."""
    index = indexes.build(given.vectors, metric, kind=kind, dim=dim, threads=threads, seed=SEED)
    found: dict[str, Array] = {}
    if len(given.vectors) <= _SMALL:
        found["sections/all"] = np.frombuffer(index.to_bytes(), np.uint8)
    else:
        for section, content in index._contents():
            found[f"sections/{section}"] = np.frombuffer(content, np.uint8)
        found["sections/fingerprint"] = np.frombuffer(bytes.fromhex(index.fingerprint), np.uint8)
    effort = _EFFORT.get(kind)
    if kind != "exact":
        wide, _ = index.search(given.queries, max(_WIDE_K, k), effort, threads)
        # Sorted as Python's integers: which rows they are, not in which order.
        found["candidates"] = np.array([sorted(row) for row in wide.tolist()], np.int64)
    found["ids"], found["distances"] = index.search(given.queries, k, effort, threads)
    return found


def kernel_answers(queries: Array, rows: Array, metric: str, *, many: bool) -> npt.NDArray[np.float32]:
    """Return what the kernel in use answers for prepared queries and rows, of the first of them."""
    functions: dict[str, Function] = {"cosine": "inner_product", "dot": "inner_product", "manhattan": "manhattan"}
    function = functions.get(metric, "squared_euclidean")
    some, in_use = _padded(rows[:_KERNEL_ROWS]), kernels.current()
    answers = [_core.kernel_answers(in_use, function, each, some, many) for each in _padded(queries)]
    return np.array(answers, np.float32)


def record_ones_then_random(recording: Recording, dim: int, threads: int | None = None) -> None:
    """Record exact distances of a query of ones, then of random numbers from 0 to 1, from random rows."""
    rows = random_unit((256, dim), seed=1)

    def distances(queries: Array) -> Array:
        exact = indexes.build(rows, "euclidean", kind="exact")
        return exact.search(queries, K, threads=threads)[1]

    recording.stage("rows", rows)
    recording.ones_then_random(distances, (8, dim), "distances")


def run(
    recording: Recording,
    workload: dict[str, Any],
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    own: Set | None = None,
) -> None:
    """Run a workload as a recording describes it.

    Parameters
    ----------
    recording
        Where the stages go; it is told the workload.
    workload
        "name": one of `PRESETS`, or "own"; for the latter "metrics" and "k"; for ones-then-random "dim".
    threads
        As for `Index.build`.
    progress
        Told how far it is.
    own
        The vectors and queries of the workload "own".
    """
    recording.workload = {"version": VERSION, **workload}
    if workload["name"] == "ones-then-random":
        record_ones_then_random(recording, workload.get("dim", 128), threads)
    elif workload["name"] == "own" and own is not None:
        record_sets(
            recording,
            [own],
            metrics=workload["metrics"],
            kinds=workload.get("kinds"),
            k=workload["k"],
            threads=threads,
            progress=progress,
        )
    elif workload["name"] == "standard":
        record_sets(recording, list(standard()), threads=threads, progress=progress)
    else:
        raise ValueError(f"there is no workload {workload['name']!r} without vectors: use {' or '.join(PRESETS)}")
