"""Sets that break graphs: recall of Constann's and of hnswlib's for equal numbers of distances computed, in one run.

    pip install . numpy hnswlib==0.8.0
    python benchmarks/graph_hard_sets.py [--rows 20000] [--queries 200] [--only NAME ...]

hnswlib with M 16 and efConstruction 200. The libraries answer; how many distances an answer takes is counted by walking
the graph of each one's file again in plain Python (ours by the reference of the tests), which must find the same
neighbours. An id counts that lies no farther than the k-th exact distance. The last lines
read hnswlib's recall between its efforts at as many distances as ours took: first without those that are computed by
codes and then again exactly, then with both. It asserts nothing.
"""

import argparse
import heapq
import struct
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np

import constann

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import reference_file
import reference_graph
import reference_links

K = 10
EFFORTS = [10, 14, 20, 28, 40, 56, 80, 112, 160, 240]
DIM = 64
Floats = Any
Points = list[tuple[float, float, float]]  # distances of the walk, those computed again, recall
Maker = Callable[[np.random.Generator, int], tuple[str, Floats, Floats]]


def normal(generator: np.random.Generator, rows: int) -> Floats:
    return generator.standard_normal((rows, DIM)).astype(np.float32)


def split(metric: str, all_rows: Floats, queries: int = 1000) -> tuple[str, Floats, Floats]:
    return metric, all_rows[:-queries], all_rows[-queries:]


def one_dimension(times: float) -> Maker:
    def make(generator: np.random.Generator, rows: int) -> tuple[str, Floats, Floats]:
        found = normal(generator, rows + 1000)
        found[:, 7] *= times
        return split("euclidean", found)

    return make


def blobs(count: int, apart: float, spread: float, metric: str = "euclidean") -> Maker:
    def make(generator: np.random.Generator, rows: int) -> tuple[str, Floats, Floats]:
        centres = apart * normal(generator, count)
        noise = spread * normal(generator, rows + 1000)
        return split(metric, centres[generator.integers(0, count, rows + 1000)] + noise)

    return make


def duplicates(generator: np.random.Generator, rows: int) -> tuple[str, Floats, Floats]:
    distinct = normal(generator, rows // 40)
    found = np.repeat(distinct, 40, axis=0)
    generator.shuffle(found)
    return "euclidean", found, distinct[:1000] + 0.3 * normal(generator, min(len(distinct), 1000))


def uneven_lengths(generator: np.random.Generator, rows: int) -> tuple[str, Floats, Floats]:
    found = normal(generator, rows + 1000)
    found[:rows] *= np.exp(generator.standard_normal((rows, 1)))
    return split("dot", found.astype(np.float32))


def in_order(generator: np.random.Generator, rows: int) -> tuple[str, Floats, Floats]:
    metric, found, queries = blobs(100, 3, 1)(generator, rows)
    return metric, found[np.argsort(found[:, 0])], queries


SETS: dict[str, Maker] = {
    "normal": lambda generator, rows: split("euclidean", normal(generator, rows + 1000)),
    "duplicates": duplicates,
    "far blobs": blobs(10, 100, 1),
    "100 tight far clusters": blobs(100, 100, 0.01),
    "in order": in_order,
    "one dimension x 30": one_dimension(30),
    "one dimension x 100": one_dimension(100),
    "cosine clusters": blobs(100, 1, 0.3, "cosine"),
    "dot clusters": blobs(100, 1, 0.3, "dot"),
    "dot, uneven lengths": uneven_lengths,
}


class Counted:
    """Answers of all nodes that remember which were looked at."""

    def __init__(self, answers: list[int]) -> None:
        self.answers, self.seen = answers, set[int]()

    def __getitem__(self, node: int) -> int:
        self.seen.add(node)
        return self.answers[node]


class CountedGraph(reference_graph.Graph):
    """The reference's graph, which counts the distances of its searches: of the walk, and those computed again."""

    walked = again = 0

    def answers(self, query: Floats) -> Any:
        self.looked_at = Counted(super().answers(query))
        return self.looked_at

    def candidates(self, query: Floats, k: int, effort: int, allowed: Floats) -> list[int] | None:
        self.looked_at = Counted([])
        found = super().candidates(query, k, effort, allowed)
        self.walked += len(self.looked_at.seen)
        self.again += len(self.rows) if found is None else len(found)
        return found


def read_graph(file: bytes, metric: str, dim: int) -> CountedGraph:
    """What the reference needs of a file, by the tables of docs/format.md."""
    (seed,) = struct.unpack_from("<Q", file, 56)
    parameters, sections = struct.unpack_from("<2I", file, 72)
    value = {tag: number for tag, _, number in struct.iter_unpack("<2IQ", file[80 : 80 + 16 * parameters])}
    table = struct.iter_unpack("<2I2Q32s", file[80 + 16 * parameters : 80 + 16 * parameters + 56 * sections])
    content = {tag: file[offset : offset + length] for tag, _, offset, length, _ in table}
    rows = np.frombuffer(content[reference_file.ROWS], np.float32).reshape(-1, -(-dim // 16) * 16)
    order = np.frombuffer(content[32], np.uint32).tolist()
    bounds = np.frombuffer(content[33], np.uint32).tolist() if 33 in content else list(range(len(order) + 1))
    graph = CountedGraph(metric, dim, rows, seed, effort=value[3])
    graph.node_rows = [order[first:last] for first, last in pairwise(bounds)]
    lowest = lists(content[34], reference_links.LINKS)
    levels, upper = [], lists(content[35], reference_links.UPPER_LINKS)
    for size in reference_links.upper_sizes(len(graph.node_rows)):
        levels.append(upper[:size])
        upper = upper[size:]
    graph.links = reference_links.Links(lowest, levels)
    scale = tuple(np.uint32(value.get(tag, 0)).view(np.float32) for tag in (5, 6))
    rotation = reference_graph.Rotation(dim, seed) if value.get(14) else None
    graph.form = reference_graph.Form(value[4], rotation, scale, value[7])  # type: ignore[arg-type]
    if graph.form.bits:
        graph.codes = np.zeros((len(rows), dim), np.uint8)
        graph.codes[graph.first_rows()] = codes_in(content[23], graph.form.bits, dim, len(graph.node_rows))
    return graph


def lists(content: bytes, degree: int) -> list[list[int]]:
    table = np.frombuffer(content, np.uint32).reshape(-1, degree)
    return [row[row != 0xFFFFFFFF].tolist() for row in table]


def codes_in(content: bytes, bits: int, dim: int, nodes: int) -> np.ndarray:
    stored = np.frombuffer(content, np.uint8).reshape(nodes, -1)
    if bits == 4:  # two in a byte: those of the first half of the elements lie in the lower bits
        stored = np.concatenate([stored & 15, stored >> 4], 1) << 3
    return stored[:, :dim]


def count_ours(graph: CountedGraph, queries: Floats, effort: int) -> tuple[float, float, Floats]:
    """Distances that a query takes by codes, and of candidates once more exactly, and the neighbours found."""
    graph.walked = graph.again = 0
    found = [graph.nearest(query, K, effort, None)[0] for query in reference_file.stored(graph.metric, queries)]
    return graph.walked / len(queries), graph.again / len(queries), np.array(found)


class HnswFile:
    """The graph in a file of hnswlib 0.8.0, to be walked as its searchKnn does."""

    def __init__(self, file: bytes, metric: str, dim: int) -> None:
        self.metric = metric
        head = struct.unpack_from("<6QiI3QdQ", file)
        (_, _, self.count, size, label_at, data_at, self.top, self.entry, most, _, _, _, _) = head
        start = struct.calcsize("<6QiI3QdQ")
        table = np.frombuffer(file, np.uint8, self.count * size, start).reshape(self.count, size)
        links = table[:, :data_at].copy().view(np.uint32)
        self.lowest = [row[1 : 1 + (row[0] & 0xFFFF)].tolist() for row in links]
        self.rows = table[:, data_at : data_at + 4 * dim].copy().view(np.float32)
        self.labels = table[:, label_at : label_at + 8].copy().view(np.uint64)[:, 0].astype(np.int64)
        self.upper: list[list[list[int]]] = []
        at = start + self.count * size
        for _ in range(self.count):
            (length,) = struct.unpack_from("<I", file, at)
            words = np.frombuffer(file, np.uint32, length // 4, at + 4).reshape(-1, most + 1)
            self.upper.append([row[1 : 1 + (row[0] & 0xFFFF)].tolist() for row in words])
            at += 4 + length

    def distances(self, query: Floats) -> Floats:
        if self.metric == "euclidean":
            return ((self.rows - query) ** 2).sum(1)
        if self.metric == "cosine":
            query = query / np.linalg.norm(query)
        return 1 - self.rows @ query

    def search(self, query: Floats, effort: int) -> tuple[int, list[int]]:
        answers = self.distances(query)
        computed, node = 1, self.entry
        for level in range(self.top, 0, -1):
            moved = True
            while moved:
                near = self.upper[node][level - 1]
                computed += len(near)
                best = min(near, key=lambda other: answers[other], default=node)
                moved = bool(answers[best] < answers[node])
                node = best if moved else node
        open_nodes, best_nodes, met = [(answers[node], node)], [(-answers[node], node)], {node}
        computed += 1
        while open_nodes and (open_nodes[0][0] <= -best_nodes[0][0] or len(best_nodes) < effort):
            for other in self.lowest[heapq.heappop(open_nodes)[1]]:
                if other in met:
                    continue
                met.add(other)
                computed += 1
                if len(best_nodes) < effort or answers[other] < -best_nodes[0][0]:
                    heapq.heappush(open_nodes, (answers[other], other))
                    heapq.heappush(best_nodes, (-answers[other], other))
                    if len(best_nodes) > effort:
                        heapq.heappop(best_nodes)
        return computed, [int(self.labels[other]) for _, other in sorted(best_nodes, reverse=True)[:K]]

    def recount(self, queries: Floats, effort: int) -> tuple[float, float, Floats]:
        found = [self.search(query, effort) for query in queries]
        return sum(computed for computed, _ in found) / len(queries), 0.0, np.array([ids for _, ids in found])


def distances(metric: str, rows: Floats, query: Floats) -> Floats:
    """In double precision, which all are judged by."""
    wide, asked = rows.astype(float), query.astype(float)
    if metric == "euclidean":
        return ((wide - asked) ** 2).sum(1)
    if metric == "cosine":
        wide, asked = wide / np.linalg.norm(wide, axis=1, keepdims=True), asked / np.linalg.norm(asked)
    return -(wide * asked).sum(1)  # which, unlike @, gives a row the same distance among any others


def recall(metric: str, rows: Floats, queries: Floats, ids: Floats) -> float:
    """Of ids, those no farther than the k-th exact distance."""
    found = 0
    for query, each in zip(queries, ids, strict=True):
        far = distances(metric, rows, query)
        found += int((far[each] <= np.partition(far, K - 1)[K - 1]).sum())
    return found / ids.size


def measure(metric: str, rows: Floats, queries: Floats, work: Path) -> tuple[Points, Points, float]:
    """Of each library, for rising efforts: distances computed and recall; and how alike the recounts are at least."""
    ours = constann.Graph(rows.shape[1], metric)  # type: ignore[arg-type]
    ours.add(rows)
    ours.build(threads=1)
    theirs = hnswlib.Index({"euclidean": "l2", "dot": "ip"}.get(metric, metric), rows.shape[1])
    theirs.init_index(len(rows), M=16, ef_construction=200)
    theirs.add_items(rows, num_threads=1)
    theirs.save_index(str(work / "theirs"))
    graph = read_graph(ours.to_bytes(), metric, rows.shape[1])
    copy = HnswFile((work / "theirs").read_bytes(), metric, rows.shape[1])
    found: tuple[Points, Points] = ([], [])
    alike = []

    def sorted_distances(ids: Floats) -> Floats:  # of equal rows one is as good as another
        return np.sort(
            np.stack([distances(metric, rows[each], query) for each, query in zip(ids, queries, strict=True)])
        )

    for effort in EFFORTS:
        theirs.set_ef(effort)
        answers = theirs.knn_query(queries, K, num_threads=1)[0].astype(np.int64), ours.search(queries, K, effort)[0]
        recounts = copy.recount(queries, effort), count_ours(graph, queries, effort)
        for points, answered, (walked, again, recounted) in zip(found, answers, recounts, strict=True):
            points.append((walked, again, recall(metric, rows, queries, answered)))
            alike.append(float(np.mean(sorted_distances(recounted) == sorted_distances(answered))))
    return *found, min(alike)


def line(name: str, values: list[float], form: str) -> str:
    return f"{name:>24}" + "".join("      -" if value != value else f"{value:>7{form}}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--only", nargs="*", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    print(f"{options.rows:,} x {DIM}, {options.queries} queries, recall@{K}; efforts {EFFORTS}")
    for name in options.only:
        metric, rows, queries = SETS[name](np.random.default_rng(1), options.rows)
        rows, queries = np.ascontiguousarray(rows), np.ascontiguousarray(queries[: options.queries])
        with tempfile.TemporaryDirectory() as work:
            theirs, ours, alike = measure(metric, rows, queries, Path(work))
        print(f"\n{name}, {metric} (recounting finds at least {alike:.1%} of the same neighbours)")
        print(line("hnswlib's distances", [walked for walked, _, _ in theirs], ".0f"))
        print(line("recall", [reached for *_, reached in theirs], ".3f"))
        print(line("constann's distances", [walked for walked, _, _ in ours], ".0f"))
        print(line("and again exactly", [again for _, again, _ in ours], ".0f"))
        print(line("recall", [reached for *_, reached in ours], ".3f"))
        print(line("hnswlib's at the first", interpolated(theirs, [walked for walked, _, _ in ours]), ".3f"))
        both = [walked + again for walked, again, _ in ours]
        print(line("and at both together", interpolated(theirs, both), ".3f"), flush=True)


def interpolated(points: Points, at: list[float]) -> list[float]:
    """The recall at so many distances, between those that were counted."""
    known = sorted((walked, reached) for walked, _, reached in points)
    return [float(each) for each in np.interp(at, *zip(*known, strict=True), left=np.nan)]


if __name__ == "__main__":
    main()
