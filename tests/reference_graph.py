"""A graph built and searched once more, from the rules that cpp/graph states: what its bytes and answers must be.

How nodes are linked is in reference_links.py. Slow, for a few thousand rows. Never import constann here.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import reference
import reference_codes
import reference_file
import reference_links
from reference import Floats
from reference_codes import Scale
from reference_forest import Random
from reference_links import Answers

METRICS = ("cosine", "euclidean", "dot")
ORDER_STREAM, TRIAL_STREAM, ROTATION_STREAM = 0x6F72646572, 0x747269616C, 0x726F74617465
TRIAL_QUERIES, TRIAL_NEAREST = 128, 11  # rows that are tried as queries, and their neighbours with themselves
LOST_AT_MOST = 700  # one in so many of these may fall behind those that are compared exactly
RERANKS = (16, 24, 32, 48, 64)
RERANK_OF_FLOATS = 10
FEW_RERANKED = 32  # with no more codes of 4 bits win; else the form with the fewest, those of 7 bits counted twice
USUAL_K = 10
SCANNED = 8  # rows are scanned where they are no more than so many for each node in view
RERANKED = 4  # with codes, one node in so many followed is compared exactly, or `Form.rerank`
PRODUCT_BASE = 0x80000000
NO_ANSWER = 0xFFFFFFFF
NEARER, NEARER_OF = 19, 20  # how much nearer one must be to cover another; on upper levels nearer at all
LARGEST_BIAS = float(1 << 30)
FOUND, FOUND_OF = 995, 1000  # of the trial's neighbours: what the default effort must find
MOST_EFFORT = 1024
Ids = npt.NDArray[np.int64]


class Rotation:
    """Signs and a Walsh-Hadamard transform of the first power of two of elements, then of the last."""

    def __init__(self, dim: int, seed: int) -> None:
        self.dim, self.block = dim, 1 << (dim.bit_length() - 1)
        random = Random(seed, ROTATION_STREAM)
        signs = [1.0 if random.below(2) else -1.0 for _ in range(2 * self.block)]
        self.signs = np.array(signs, np.float32).reshape(2, self.block)
        self.scale = np.float32(1.0 / np.sqrt(np.float64(self.block)))

    def turn(self, rows: Floats) -> Floats:
        turned = rows.copy()
        for first, signs in zip((0, self.dim - self.block), self.signs, strict=True):
            part = turned[:, first : first + self.block]
            part *= signs
            half = 1
            while half < self.block:
                pairs = part.reshape(len(rows), -1, 2, half)
                part = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
                part = part.reshape(len(rows), self.block)
                half *= 2
            turned[:, first : first + self.block] = part * self.scale
        return turned


@dataclass
class Form:
    """How rows become what a walk compares."""

    bits: int = 0
    rotation: Rotation | None = None
    scale: Scale = (np.float32(0), np.float32(0))
    rerank: int = RERANK_OF_FLOATS


def ordered_bits(values: Floats) -> npt.NDArray[np.uint32]:
    """Integers of the same order; the last of all where there is no number."""
    bits = (values + np.float32(0)).view(np.uint32)
    ordered = bits ^ np.where(bits >> np.uint32(31), np.uint32(NO_ANSWER), np.uint32(0x80000000))
    return np.where(np.isnan(values), np.uint32(NO_ANSWER), ordered).astype(np.uint32)


def from_ordered_bits(ordered: int) -> np.float32:
    return np.uint32(ordered ^ (0x80000000 if ordered >> 31 else NO_ANSWER)).view(np.float32)


def distances(metric: str, query: Floats, rows: Floats) -> Floats:
    """As a caller sees them, of rows as they are stored."""
    found = reference_codes.fine(metric, query, rows)
    return np.where(np.isnan(found), np.float32(np.inf), found)


def as_list(values: np.ndarray) -> Answers:
    return memoryview(np.ascontiguousarray(values, np.uint32))


def float_answers(metric: str, query: Floats, rows: Floats) -> npt.NDArray[np.uint32]:
    """How rows compare where there are no codes: cosine's have unit length, so their distance orders them."""
    if metric == "dot":
        return ordered_bits(np.float32(0) - reference.inner_product(query, rows))
    return ordered_bits(reference.squared_euclidean(query, rows))


def code_answers(metric: str, dim: int, form: Form, query: Floats, codes: np.ndarray) -> npt.NDArray[np.uint32]:
    """How rows compare by codes of 7 bits, or by the upper four of these."""
    if form.rotation is not None:
        query = form.rotation.turn(query[None])[0]
    kept = codes[:, :dim].astype(np.int64)
    if metric == "dot":
        of_rows = kept >> 3 if form.bits == 4 else kept
        return (PRODUCT_BASE - of_rows @ reference_codes.signed_codes(query, dim)).astype(np.uint32)
    of_rows = (kept & 0x78) + 4 if form.bits == 4 else kept
    of_query = reference_codes.codes_of(query[None], dim, form.scale)[0, :dim].astype(np.int64)
    return ((of_rows - of_query) ** 2).sum(1).astype(np.uint32)


def packed(codes: np.ndarray, dim: int) -> bytes:
    """The upper four bits of codes, two in a byte: the first half of the elements below, the second above."""
    half = (dim + 1) // 2
    half += -half % reference_codes.GROUP
    four = np.zeros((len(codes), 2 * half), np.uint8)
    four[:, :dim] = codes[:, :dim] >> 3
    return (four[:, :half] | four[:, half:] << 4).astype(np.uint8).tobytes()


@dataclass
class Graph:
    """A built graph: its parameters, its sections and what a search needs."""

    metric: str
    dim: int
    rows: Floats  # as they are stored
    seed: int
    effort: int = 0
    form: Form = field(default_factory=Form)
    node_rows: list[list[int]] = field(default_factory=list)
    codes: np.ndarray | None = None  # of 7 bits, of each row
    links: reference_links.Links = field(default_factory=lambda: reference_links.Links([]))

    def first_rows(self) -> list[int]:
        """One row of each node: its others have the same codes."""
        return [rows[0] for rows in self.node_rows]

    def search(
        self,
        queries: np.ndarray,
        k: int,
        effort: int | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Ids, Floats]:
        """The rows and distances that a search returns; `allowed` says which rows it may."""
        stored = reference_file.stored(self.metric, queries)
        ids = np.full((len(queries), k), -1, np.int64)
        found = np.full((len(queries), k), np.inf, np.float32)
        with np.errstate(all="ignore"):
            for place, query in enumerate(stored):
                rows, of_rows = self.nearest(query, k, self.effort if effort is None else effort, allowed)
                ids[place, : len(rows)], found[place, : len(rows)] = rows, of_rows
        return ids, found

    def nearest(self, query: Floats, k: int, effort: int, allowed: npt.NDArray[np.bool_] | None) -> tuple[Ids, Floats]:
        """Of a query as rows are stored."""
        candidates = self.candidates(query, k, effort, allowed)
        if candidates is None:
            candidates = list(range(len(self.rows)) if allowed is None else np.flatnonzero(allowed))
        rows = np.array(sorted(candidates), np.int64)
        found = distances(self.metric, query, self.rows[rows])
        order = np.lexsort((rows, found))[:k]
        return rows[order], found[order]

    def candidates(self, query: Floats, k: int, effort: int, allowed: npt.NDArray[np.bool_] | None) -> list[int] | None:
        """The rows of the best nodes that a walk meets; None where all rows are compared instead."""
        nodes, most = len(self.node_rows), len(self.rows) if allowed is None else int(allowed.sum())
        k = min(k, most)
        best = self.form.rerank + 2 * (max(k, USUAL_K) - USUAL_K)
        wanted = min(max(effort, k), nodes)
        if self.codes is not None:
            best = max(best, wanted // RERANKED)
        in_view = wanted * (len(self.rows) / max(most, 1))
        if in_view * SCANNED >= most:
            return None
        followed = min(nodes, int(in_view))
        pool = min(nodes, int(max(in_view, best * (len(self.rows) / max(most, 1)))))
        answers = self.answers(query)
        entries = reference_links.descend(self.links.upper, answers, nodes, followed)
        near = reference_links.walk(self.links.lowest, answers, entries, pool, followed)
        chosen: list[int] = []
        taken = found = serving = 0
        for _, node in near:
            rows = [row for row in self.node_rows[node] if allowed is None or allowed[row]]
            if taken >= best and found >= k:
                if allowed is None:
                    return chosen
                serving += bool(rows)
                continue
            chosen += rows
            # Without a filter equal rows are counted once where there are more of them than k.
            found += len(rows) if allowed is not None else self.counted(rows, k)
            taken += bool(rows)
            serving += bool(rows)
        seen_enough = allowed is None or serving * 2 * len(self.rows) >= pool * most
        return chosen if len(chosen) >= k and seen_enough else None

    def counted(self, rows: list[int], k: int) -> int:
        """How many of a node's rows count towards k: of equal ones that are more than k, one."""
        sizes: list[int] = []
        for place, row in enumerate(rows):
            same = place > 0 and self.rows[row].tobytes() == self.rows[rows[place - 1]].tobytes()
            sizes[-1:] = [sizes[-1] + 1] if same else [*sizes[-1:], 1]
        return sum(1 if size > k else size for size in sizes)

    def answers(self, query: Floats) -> Answers:
        """How near each node is to a query."""
        if self.codes is None:
            return as_list(float_answers(self.metric, query, self.rows[self.first_rows()]))
        return as_list(code_answers(self.metric, self.dim, self.form, query, self.codes[self.first_rows()]))

    def parameters(self) -> list[tuple[int, int]]:
        of_scale = [(5 + i, reference_codes.bits_of(value)) for i, value in enumerate(self.form.scale)]
        coded = self.form.bits != 0
        return [
            (3, self.effort),
            (4, self.form.bits),
            *(of_scale if coded else []),
            (7, self.form.rerank),
            (11, len(self.node_rows)),
            (12, reference_links.LINKS),
            (13, reference_links.UPPER_LINKS),
            *([(14, int(self.form.rotation is not None))] if coded else []),
        ]

    def sections(self) -> list[tuple[int, bytes]]:
        """The sections of docs/format.md after rows and ids."""
        rows = [row for node in self.node_rows for row in node]
        found = [(32, np.array(rows, "<u4").tobytes())]
        if len(self.node_rows) != len(rows):
            found.append((33, np.cumsum([0, *map(len, self.node_rows)]).astype("<u4").tobytes()))
        upper = b"".join(reference_links.as_bytes(level, reference_links.UPPER_LINKS) for level in self.links.upper)
        found += [(34, reference_links.as_bytes(self.links.lowest, reference_links.LINKS)), (35, upper)]
        if self.codes is not None:
            codes = self.codes[self.first_rows()]
            found.append((23, packed(codes, self.dim) if self.form.bits == 4 else codes.tobytes()))
        return found

    def file(self, ids: reference_file.Ids = None) -> bytes:
        contents = [(reference_file.ROWS, self.rows.tobytes()), *self.sections()]
        return reference_file.index_file(
            "graph", self.metric, self.dim, len(self.rows), self.seed, self.parameters(), contents, ids
        )


@dataclass
class Trial:
    """Rows tried as queries, and for each the rows that are nearest to it, with the largest of their distances."""

    queries: list[int]
    nearest: list[list[int]]
    last: list[np.float32]


def draw_trial(graph: Graph) -> Trial:
    """Of rows drawn by the seed, no two of them equal."""
    random, queries = Random(graph.seed, TRIAL_STREAM), dict[bytes, int]()
    for _ in range(4 * TRIAL_QUERIES):
        if len(queries) == TRIAL_QUERIES:
            break
        row = random.below(len(graph.rows))
        queries.setdefault(graph.rows[row].tobytes(), row)
    trial = Trial(list(queries.values()), [], [])
    for row in trial.queries:
        found = distances(graph.metric, graph.rows[row], graph.rows)
        nearest = np.lexsort((np.arange(len(found)), found))[:TRIAL_NEAREST]
        trial.nearest.append(nearest.tolist())
        trial.last.append(found[nearest[-1]])
    return trial


def rerank_of(graph: Graph, form: Form, codes: np.ndarray, trial: Trial) -> int | None:
    """How many rows the codes must leave so that hardly a neighbour is lost; None if too many."""
    places: list[int] = []
    bytes_of_rows = [row.tobytes() for row in graph.rows]
    for query, nearest in zip(trial.queries, trial.nearest, strict=True):
        answers = code_answers(graph.metric, graph.dim, form, graph.rows[query], codes)
        for row in nearest:
            # Another row with the same answer takes a place, unless it is equal.
            ties = np.flatnonzero(answers == answers[row])
            others = sum(bytes_of_rows[other] != bytes_of_rows[row] for other in ties)
            places.append(int((answers < answers[row]).sum()) + others)
    of = TRIAL_NEAREST * len(trial.queries)
    return next((most for most in RERANKS if sum(at >= most for at in places) * LOST_AT_MOST <= of), None)


def choose_codes(graph: Graph, trial: Trial, wanted: int | None) -> None:
    """Four bits if few rows must be compared exactly, or else what costs least; none if no codes serve."""
    if wanted == 0:
        return
    least: int | None = None
    for rotation in (None, Rotation(graph.dim, graph.seed)):
        rows = graph.rows if rotation is None else rotation.turn(graph.rows)
        scale = reference_codes.scale_of(rows, graph.dim)
        if scale is None:
            continue
        codes = reference_codes.codes_of(rows, graph.dim, scale)
        for bits in (4, 7) if wanted is None else (wanted,):
            form = Form(bits, rotation, scale)
            rerank = rerank_of(graph, form, codes, trial)
            if rerank is None:
                continue
            form.rerank, cost = rerank, rerank * (2 if bits == 7 else 1)
            if least is None or cost < least:
                graph.form, graph.codes, least = form, codes, cost
            if bits == 4 and rerank <= FEW_RERANKED:
                return


def group_rows(graph: Graph) -> None:
    """Rows of the same codes, or without these equal ones, are one node; the nodes in an order drawn by the seed."""
    compared = graph.rows if graph.codes is None else graph.codes
    groups: dict[bytes, list[int]] = {}
    for row, content in enumerate(compared):
        groups.setdefault(content.tobytes(), []).append(row)
    graph.node_rows = [sorted(rows, key=lambda row: (graph.rows[row].tobytes(), row)) for rows in groups.values()]
    random = Random(graph.seed, ORDER_STREAM)
    for i in range(len(graph.node_rows), 1, -1):
        other = random.below(i)
        nodes = graph.node_rows
        nodes[i - 1], nodes[other] = nodes[other], nodes[i - 1]


def measure_of(graph: Graph) -> reference_links.Measure:
    """How nodes compare with each other while they are linked: by all seven bits, or by the rows."""
    return measure_of_rows(graph) if graph.codes is None else measure_of_codes(graph, graph.codes)


def measure_of_rows(graph: Graph) -> reference_links.Measure:
    rows = graph.rows[graph.first_rows()]

    def from_node(node: int) -> Answers:
        return as_list(float_answers(graph.metric, rows[node], rows))

    if graph.metric == "dot":
        return reference_links.Measure(from_node, products_cover, products=True)
    return reference_links.Measure(from_node, float_distances_cover)


def measure_of_codes(graph: Graph, by_row: np.ndarray) -> reference_links.Measure:
    codes = by_row[graph.first_rows()].astype(np.int64)
    bias = bias_of(graph) if graph.metric == "dot" else np.zeros(len(codes), np.int64)

    def from_node(node: int) -> Answers:
        return as_list(((codes - codes[node]) ** 2).sum(1) + bias)

    if graph.metric == "dot":
        return reference_links.Measure(from_node, products_cover, products=True, bias=bias.tolist())
    return reference_links.Measure(from_node, distances_cover)


def distances_cover(between: int, distance: int, upper: bool) -> bool:
    return between * NEARER_OF < distance * (NEARER_OF if upper else NEARER)


def products_cover(between: int, distance: int, upper: bool) -> bool:
    return between < distance


def float_distances_cover(between: int, distance: int, upper: bool) -> bool:
    with np.errstate(all="ignore"):
        nearer = from_ordered_bits(between) * np.float32(NEARER_OF)
        return bool(nearer < from_ordered_bits(distance) * np.float32(NEARER_OF if upper else NEARER))


def bias_of(graph: Graph) -> npt.NDArray[np.int64]:
    """What makes a squared distance of codes an inner product: for each node the largest square less its own."""
    wide = graph.rows[graph.first_rows()].astype(np.float64)
    rate = np.float64(graph.form.scale[1])
    squares = np.minimum(reference.lane_sum(wide * wide) * rate * rate, LARGEST_BIAS).astype(np.int64)
    return squares.max() - squares


def settled_effort(graph: Graph, trial: Trial) -> int:
    """The first of 16, 24, 36, … that finds nearly all the neighbours of the trial."""
    k = len(trial.nearest[0])
    effort = 16
    while effort < MOST_EFFORT and effort < len(graph.rows):
        found = 0
        for query, last in zip(trial.queries, trial.last, strict=True):
            found += int((graph.nearest(graph.rows[query], k, effort, None)[1] <= last).sum())
        if found * FOUND_OF >= k * len(trial.queries) * FOUND:
            break
        effort += effort // 2
    return effort


def build(metric: str, rows: np.ndarray, seed: int, effort: int | None = None, code_bits: int | None = None) -> Graph:
    """Build the graph of rows as a caller gives them."""
    graph = Graph(metric, rows.shape[1], reference_file.stored(metric, rows), seed, effort or 0)
    with np.errstate(all="ignore"):
        trial = draw_trial(graph)
        choose_codes(graph, trial, code_bits)
        group_rows(graph)
        graph.links = reference_links.build(measure_of(graph), len(graph.node_rows))
        graph.effort = graph.effort or settled_effort(graph, trial)
    return graph
