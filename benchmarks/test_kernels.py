"""The price of one order of arithmetic: each canonical kernel against a free-order build of the same loop.

    python -m pytest benchmarks/test_kernels.py

Both run alternately in one process; the ratio of the two is printed, as these times on a shared machine mean
little by themselves.
"""

import ctypes
import statistics
import time
from typing import Any

import numpy as np
import pytest

import constann

INTEGERS_ONLY = {"avx512vnni", "neon_dotprod"}  # their floats are those of avx512 and neon
SETS = [each.name for each in constann.kernels.available() if each.name not in {"scalar", *INTEGERS_ONLY}]
DIMS = [25, 96, 128, 384, 768]
REPEATS = 41
# A few rows stay in the first-level cache; many come from memory.
REGIMES = {"in cache": 32 * 1024, "from memory": 256 * 1024 * 1024}


def pointers(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    return (rows.ctypes.data + order.astype(np.uint64) * np.uint64(rows.strides[0])).astype(np.uint64)


def seconds(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("function", ["inner_product", "squared_euclidean"])
@pytest.mark.parametrize("kernels", SETS)
def test_canonical_against_free_order(
    kernels: str, function: str, dim: int, regime: str, benchmark: Any, library: ctypes.CDLL, ratios: list[Any]
) -> None:
    floats = -(-dim // 16) * 16
    generator = np.random.default_rng(0)
    count = max(8, REGIMES[regime] // (floats * 4) // 8 * 8)
    rows = np.zeros((count, floats), np.float32)
    rows[:, :dim] = 0.5
    query = np.zeros(floats, np.float32)
    query[:dim] = 0.25
    # In cache the rows are scored again and again; from memory each once, in random order.
    repeated = max(1, 4096 // count) if regime == "in cache" else 1
    order = generator.permutation(count)[:20_000]
    addresses = np.tile(pointers(rows, order), repeated)
    results = np.zeros(len(addresses), np.float32)
    tail = (
        query.ctypes.data_as(ctypes.c_void_p),
        addresses.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_size_t(len(addresses)),
        ctypes.c_size_t(floats),
        results.ctypes.data_as(ctypes.c_void_p),
    )
    product = ctypes.c_int(function == "inner_product")
    free_order = getattr(library, f"free_order_{kernels}")

    library.find_kernels.restype = ctypes.c_void_p
    table = ctypes.c_void_p(library.find_kernels(kernels.encode()))
    assert table

    def canonical() -> None:
        library.canonical(table, product, *tail)

    def free() -> None:
        free_order(product, *tail)

    canonical(), free()
    pairs = [(seconds(canonical), seconds(free)) for _ in range(REPEATS)]
    quotients = sorted(a / b for a, b in pairs)
    quarter = REPEATS // 4
    ratio = statistics.median(quotients)
    ratios.append((f"{kernels} {function} dim {dim} {regime}", ratio, (quotients[-quarter] - quotients[quarter]) / 2))
    benchmark.extra_info["against free order"] = round(ratio, 3)
    benchmark.pedantic(canonical, rounds=5)
