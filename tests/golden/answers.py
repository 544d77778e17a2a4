"""What the known answers are: cases by rule, and what the reference says of them. Never import constann here."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import reference
import reference_file
import reference_forest
import reference_graph
from golden import inputs

Case = dict[str, Any]

ROWS = 9  # one more than the widest group of rows a kernel scores at once
DIMS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 127, 128, 129]
DIMS += [255, 256, 257, 384, 768, 1023, 1024, 1025, 1536]
BITS = [1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049]
BITS += [4096, 8191, 65_536]
FLOAT_KERNELS = ("inner_product", "squared_euclidean", "manhattan")
NUMBERS = ("ordinary", "ties", "zeros", "denormal", "small", "huge", "mixed", "any", "near", "cancelling")

# (numbers, rows, dim, k): few rows and many, on both sides of the kernels' groups, k beyond them
SEARCHES = [
    ("ordinary", 1, 1, 3),
    ("ties", 2, 3, 2),
    ("ordinary", 8, 15, 9),
    ("mixed", 9, 16, 12),
    ("ties", 60, 2, 25),
    ("zeros", 33, 17, 33),
    ("zero_rows", 40, 20, 20),
    ("denormal", 31, 33, 10),
    ("small", 17, 18, 17),
    ("huge", 20, 40, 25),
    ("any", 30, 5, 30),
    ("near", 64, 48, 10),
    ("cancelling", 65, 31, 10),
    ("duplicates", 300, 7, 20),
    ("ordinary", 300, 65, 10),
]
BIT_SEARCHES = [
    ("bytes", 1, 1, 3),
    ("few_bits", 9, 13, 12),
    ("opposite", 20, 64, 25),
    ("duplicates", 300, 100, 20),
    ("bytes", 300, 257, 10),
    ("few_bits", 65, 2048, 10),
]
QUERIES = 3


def hex_bits(values: np.ndarray) -> str:
    """The bits of each float32, in hex; every NaN is 7fc00000, as payloads are not part of the promise."""
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    return " ".join(f"{each:08x}" for each in bits)


def float_kernel_case(seed: int, numbers: str, dim: int) -> Case:
    drawn = inputs.matrix(numbers, seed, ROWS + 1, dim)
    functions = {name: getattr(reference, name) for name in FLOAT_KERNELS}
    found = {name: hex_bits(function(drawn[0], drawn[1:])) for name, function in functions.items()}
    return {"seed": seed, "numbers": numbers, "dim": dim, **found}


def bit_kernel_case(seed: int, numbers: str, bits: int) -> Case:
    drawn = inputs.packed(numbers, seed, ROWS + 1, bits)
    return {"seed": seed, "numbers": numbers, "dim": bits, "hamming": hex_bits(reference.hamming(drawn[0], drawn[1:]))}


def kernel_cases() -> Iterator[Case]:
    shapes = [(numbers, dim) for dim in DIMS for numbers in NUMBERS]
    for seed, (numbers, dim) in enumerate(shapes):
        yield float_kernel_case(seed, numbers, dim)
    bit_shapes = [(numbers, bits) for bits in BITS for numbers in inputs.BYTES]
    for seed, (numbers, bits) in enumerate(bit_shapes, start=len(shapes)):
        yield bit_kernel_case(seed, numbers, bits)


def search_case(seed: int, metric: str, numbers: str, rows: int, dim: int, k: int) -> Case:
    drawn = inputs.rows_of(metric, numbers, seed, QUERIES + rows, dim)
    found = [reference.nearest(metric, query, drawn[QUERIES:], k) for query in drawn[:QUERIES]]
    return {
        "seed": seed,
        "metric": metric,
        "numbers": numbers,
        "rows": rows,
        "dim": dim,
        "k": k,
        "ids": [ids.tolist() for ids, _ in found],
        "distances": [hex_bits(distances) for _, distances in found],
    }


def search_cases() -> Iterator[Case]:
    shapes = [
        (metric, *shape)
        for metric in reference.METRICS
        for shape in (BIT_SEARCHES if metric == "hamming" else SEARCHES)
    ]
    for seed, shape in enumerate(shapes, start=1000):
        yield search_case(seed, *shape)


# (numbers, rows, dim, seed of the build)
EXACT_INDEXES = [
    ("ordinary", 1, 1, 0),
    ("zero_rows", 9, 16, 1),
    ("mixed", 20, 17, 2**64 - 1),
    ("any", 12, 33, 7),
    ("denormal", 5, 100, 2**32),
]
BIT_EXACT_INDEXES = [
    ("bytes", 1, 1, 0),
    ("few_bits", 9, 128, 1),
    ("bytes", 20, 129, 2**64 - 1),
    ("opposite", 5, 800, 7),
]
# and (trees, effort), None where the default is to be settled: rows in one leaf, rows that no plane parts, overflow
FOREST_INDEXES = [
    ("ordinary", 1, 3, 0, 1, None),
    ("ordinary", 20, 12, 0, None, None),
    ("ordinary", 400, 33, 2**64 - 1, 3, 1),
    ("ties", 100, 3, 1, 2, 2**63),
    ("duplicates", 60, 4, 2**32, 3, None),
    ("zero_rows", 90, 7, 2, 2, None),
    ("huge", 80, 11, 3, 2, None),
    ("any", 100, 6, 4, 1, None),
    ("near", 70, 17, 5, 1, None),
    ("denormal", 60, 16, 6, 1, None),
]
BIT_FOREST_INDEXES = [
    ("bytes", 1, 3, 0, 1, None),
    ("bytes", 400, 33, 2**64 - 1, 3, 1),
    ("few_bits", 100, 129, 1, 2, 2**63),
    ("duplicates", 60, 64, 2**32, 3, None),
    ("opposite", 50, 700, 2, 2, None),
    ("bytes", 300, 2048, 3, None, None),
]
# Forests with codes, and effort enough to gather every row: then (see tests/reference_codes.py)
CODED_FOREST_INDEXES = [
    ("ordinary", 40, 3, 0, 2, 2**40),
    ("ordinary", 300, 33, 2**64 - 1, 3, 2**63),
    ("mixed", 200, 17, 9, 2, 2**40),
    ("ordinary", 20, 40, 1, 1, 2**40),
]
# (numbers, rows, dim, seed of the build, effort, code_bits): each width of codes, rows that codes cannot tell apart,
# nodes of several rows, links that are mended, rotated rows, and one with an upper level
GRAPH_INDEXES = [
    ("ordinary", 1, 3, 0, None, None),
    ("ordinary", 2, 5, 2**64 - 1, None, None),
    ("ordinary", 120, 33, 1, None, None),
    ("ordinary", 200, 17, 2**32, None, 7),
    ("ordinary", 90, 16, 2, 5, 0),
    ("ties", 300, 4, 3, None, 4),
    ("duplicates", 200, 7, 4, None, None),
    ("zero_rows", 90, 7, 5, None, None),
    ("huge", 80, 11, 6, None, None),
    ("any", 100, 6, 7, 2**63, None),
    ("near", 70, 17, 8, None, None),
    ("denormal", 60, 16, 9, None, None),
    ("mixed", 120, 20, 0, None, None),
    ("cancelling", 100, 31, 10, 1, None),
    ("outliers", 700, 32, 0, None, 4),
    ("ordinary", 2100, 9, 11, None, None),
]
SEARCHED_K = (1, 5)
SEARCHED_EFFORTS = (None, 1, 12)
IDS_INDEXES = [("ordinary", 30, 5, 4, 2, None), ("ordinary", 1, 3, 5, 1, None)]
BIT_IDS_INDEXES = [("bytes", 30, 33, 4, 2, None)]
KEPT = ("ordinary", 30, 5, 2026)  # the whole files under files/; a forest's with these trees and effort
KEPT_BITS = ("bytes", 30, 100, 2026)
KEPT_FOREST = (2, 20)
KEPT_GRAPH = (4, None)  # and a graph's with this effort and width of codes


def ids_by_rule(rule: str, rows: int) -> list[int] | list[str]:
    """Ids of rows, as README.md says: numbers falling or rising, strings of one to four bytes a character."""
    if rule == "falling":
        return [(rows // 2 - row) * 2**40 for row in range(rows)]
    if rule == "rising":
        return [3 * row - 7 for row in range(rows)]
    return [("", "é", "水", "𐍈")[row % 4] + str(row * 7 % rows) for row in range(rows)]


IDS_RULES = ("falling", "rising", "strings")


def index_case(kind: str, metric: str, input_seed: int, shape: tuple[Any, ...]) -> Case:
    names = ("numbers", "rows", "dim", "seed")
    names += ("effort", "code_bits") if kind == "graph" else ("trees", "effort")
    return {"kind": kind, "metric": metric, "input_seed": input_seed, **dict(zip(names, shape, strict=False))}


def index_cases() -> Iterator[Case]:
    for metric in reference_file.METRICS:
        packed = metric == "hamming"
        kept = KEPT_BITS if packed else KEPT
        for kind, shapes, more in (
            ("exact", BIT_EXACT_INDEXES if packed else EXACT_INDEXES, ()),
            ("forest", BIT_FOREST_INDEXES if packed else FOREST_INDEXES, KEPT_FOREST),
        ):
            for input_seed, shape in enumerate(shapes, start=2000):
                yield index_case(kind, metric, input_seed, shape)
            for rule in IDS_RULES:
                for input_seed, shape in enumerate(BIT_IDS_INDEXES if packed else IDS_INDEXES, start=2100):
                    cut = shape if kind == "forest" else shape[:4]
                    yield {**index_case(kind, metric, input_seed, cut), "ids": rule}
            if kind == "forest" and not packed:
                for input_seed, shape in enumerate(CODED_FOREST_INDEXES, start=2200):
                    yield {**index_case(kind, metric, input_seed, shape), "code_bits": 7}
            yield {**index_case(kind, metric, 3000, kept + more), "kept": f"files/{kind}-{metric}.constann"}
    yield from graph_cases()


def graph_cases() -> Iterator[Case]:
    for metric in reference_graph.METRICS:
        for input_seed, shape in enumerate(GRAPH_INDEXES, start=2300):
            yield index_case("graph", metric, input_seed, shape)
        for rule in IDS_RULES:
            for input_seed, shape in enumerate(IDS_INDEXES, start=2100):
                yield {**index_case("graph", metric, input_seed, (*shape[:4], None, None)), "ids": rule}
        kept = index_case("graph", metric, 3000, KEPT + KEPT_GRAPH)
        yield {**kept, "kept": f"files/graph-{metric}.constann"}


@cache
def graph_of(
    metric: str, numbers: str, input_seed: int, rows: int, dim: int, seed: int, effort: int, code_bits: int
) -> reference_graph.Graph:
    """The reference's graph of a case; they are slow to build."""
    drawn = inputs.matrix(numbers, input_seed, rows, dim)
    return reference_graph.build(metric, drawn, seed, effort, code_bits)


def graph_of_case(case: Case) -> reference_graph.Graph:
    names = ("metric", "numbers", "input_seed", "rows", "dim", "seed", "effort", "code_bits")
    return graph_of(*(case[name] for name in names))


def graph_searches(case: Case) -> Iterator[Case]:
    """What the graph of a case answers, with each effort."""
    graph = graph_of_case(case)
    queries = graph_queries(case)
    for k in SEARCHED_K:
        for effort in SEARCHED_EFFORTS:
            ids, distances = graph.search(queries, k, effort)
            found = {"neighbours": ids.tolist(), "distances": [hex_bits(each) for each in distances]}
            yield {**case, "k": k, "search_effort": effort, **found}


def graph_queries(case: Case) -> np.ndarray:
    return inputs.matrix(case["numbers"], case["input_seed"] + 1000, QUERIES, case["dim"])


def file_of(case: Case) -> bytes:
    """The index file that the reference writes for this case."""
    metric, dim, seed = case["metric"], case["dim"], case["seed"]
    drawn = inputs.rows_of(metric, case["numbers"], case["input_seed"], case["rows"], dim)
    ids = ids_by_rule(case["ids"], case["rows"]) if "ids" in case else None
    if case["kind"] == "graph":
        return graph_of_case(case).file(ids)
    if case["kind"] == "exact":
        return reference_file.exact_file(metric, dim, drawn, seed, ids)
    code_bits = case.get("code_bits", 0)
    return reference_forest.forest_file(metric, dim, drawn, seed, case["trees"], case["effort"], code_bits, ids)


def with_digests(case: Case, file: bytes) -> Case:
    return {**case, "fingerprint": reference_file.fingerprint(file), "file": hashlib.sha256(file).hexdigest()}


def as_json(revisions: dict[str, int], cases: list[Case]) -> bytes:
    """One case a line, so that a difference names its case."""
    head = json.dumps(revisions, indent=1)[:-2]
    lines = ",\n".join(json.dumps(case) for case in cases)
    return f'{head},\n "cases": [\n{lines}\n]}}\n'.encode()


def arithmetic_answers() -> dict[str, bytes]:
    """What kernels and exact search answer."""
    revisions = {"arithmetic_revision": reference_file.ARITHMETIC_REVISION}
    return {
        "kernels.json": as_json(revisions, list(kernel_cases())),
        "searches.json": as_json(revisions, list(search_cases())),
    }


def index_answers() -> dict[str, bytes]:
    """What index files are, and some of them whole."""
    indexes = [(case, file_of(case)) for case in index_cases()]
    revisions = reference_file.revisions(indexes[0][1])
    digests = as_json(revisions, [with_digests(case, file) for case, file in indexes])
    searches = [found for case in graph_cases() if "ids" not in case for found in graph_searches(case)]
    graphs = as_json({name: revisions[name] for name in ("arithmetic_revision", "builder_revision")}, searches)
    return {
        "indexes.json": digests,
        "graph-searches.json": graphs,
        **{case["kept"]: file for case, file in indexes if "kept" in case},
    }


def everything() -> dict[str, bytes]:
    """The content of each file of known answers, by its name."""
    return arithmetic_answers() | index_answers()
