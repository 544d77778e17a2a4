"""What the known answers are: cases by rule, and what the reference says of them. Never import constann here."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import reference
import reference_file
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
KEPT = [("ordinary", 12, 20, 2026)]  # the whole files under files/
KEPT_BITS = [("bytes", 12, 100, 2026)]


def index_case(kind: str, metric: str, input_seed: int, shape: tuple[str, int, int, int]) -> Case:
    numbers, rows, dim, seed = shape
    names = {"kind": kind, "metric": metric, "numbers": numbers, "input_seed": input_seed}
    return {**names, "rows": rows, "dim": dim, "seed": seed}


def exact_cases() -> Iterator[Case]:
    for metric in reference_file.METRICS:
        packed = metric == "hamming"
        for input_seed, shape in enumerate(BIT_EXACT_INDEXES if packed else EXACT_INDEXES, start=2000):
            yield index_case("exact", metric, input_seed, shape)
        for shape in KEPT_BITS if packed else KEPT:
            yield {**index_case("exact", metric, 3000, shape), "kept": f"files/exact-{metric}.constann"}


def file_of(case: Case) -> bytes:
    """The index file that the reference writes for this case."""
    metric, dim = case["metric"], case["dim"]
    drawn = inputs.rows_of(metric, case["numbers"], case["input_seed"], case["rows"], dim)
    return reference_file.exact_file(metric, dim, drawn, case["seed"])


def with_digests(case: Case, file: bytes) -> Case:
    return {**case, "fingerprint": reference_file.fingerprint(file), "file": hashlib.sha256(file).hexdigest()}


def as_json(revisions: dict[str, int], cases: list[Case]) -> bytes:
    """One case a line, so that a difference names its case."""
    head = json.dumps(revisions, indent=1)[:-2]
    lines = ",\n".join(json.dumps(case) for case in cases)
    return f'{head},\n "cases": [\n{lines}\n]}}\n'.encode()


def everything() -> dict[str, bytes]:
    """The content of each file of known answers, by its name."""
    arithmetic = {"arithmetic_revision": reference_file.ARITHMETIC_REVISION}
    of_files = {"format_version": reference_file.FORMAT_VERSION, **arithmetic}
    of_files["builder_revision"] = reference_file.BUILDER_REVISION
    indexes = [(case, file_of(case)) for case in exact_cases()]
    return {
        "kernels.json": as_json(arithmetic, list(kernel_cases())),
        "searches.json": as_json(arithmetic, list(search_cases())),
        "indexes.json": as_json(of_files, [with_digests(case, file) for case, file in indexes]),
        **{case["kept"]: file for case, file in indexes if "kept" in case},
    }
