"""How much memory building and searching take, measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

reads_status, reads_rollup = (
    pytest.mark.skipif(not Path(f"/proc/self/{name}").exists(), reason="memory is read from Linux's /proc")
    for name in ("status", "smaps_rollup")
)

MIB = 2**20
DIM = 96
MEASURED = """
import sys, numpy as np
def memory(field, file="/proc/self/status"):
    return next(int(line.split()[1]) * 1024 for line in open(file) if line.startswith(field + ":"))
def blocks(count):
    generator = np.random.default_rng(0)
    for _ in range(0, count, 10_000):
        yield generator.standard_normal((10_000, 96), np.float32)
"""


def measured(code: str, *arguments: object) -> list[int]:
    run = subprocess.run(
        [sys.executable, "-c", MEASURED + code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return [int(number) for number in run.stdout.split()]


BUILD = """
import constann
count, path = int(sys.argv[1]), sys.argv[2]
index = constann.Forest(96, "euclidean", trees=4)
first = next(blocks(10_000))
before = memory("VmRSS")
for block in blocks(count):
    index.add(block)
index.build(threads=2)
peak = memory("VmHWM")
print(before, peak, sum(len(content) for _, content in index._contents()))
"""


MANY_THREADS = """
import constann
count, threads, trees = map(int, sys.argv[1:])
index = constann.Forest(4, "euclidean", trees=trees, code_bits=0)
generator = np.random.default_rng(0)
before = memory("VmRSS")
for _ in range(0, count, 10_000):
    index.add(generator.standard_normal((10_000, 4), np.float32))
index.build(threads=threads)
print(before, memory("VmHWM"), sum(len(content) for _, content in index._contents()))
"""


@pytest.mark.slow
@reads_status
def test_each_thread_that_builds_takes_what_the_guide_says() -> None:
    """16 threads over 500,000 rows: 8 bytes a row for each, and the trees that wait to be put with the others."""
    rows, threads, trees = 500_000, 16, 40
    before, peak, contents = measured(MANY_THREADS, rows, threads, trees)
    tree = (contents - rows * 64) / trees
    assert peak - before <= contents + threads * (8 * rows + 2 * tree) + 64 * MIB
    assert peak - before > contents, "it was measured"


@reads_status
def test_building_takes_one_copy_of_the_rows_and_the_trees(tmp_path: Path) -> None:
    """Rows come in twenty-four blocks; padded rows, trees and codes are what the file holds."""
    before, peak, contents = measured(BUILD, 240_000, tmp_path)
    assert contents > 120 * MIB
    assert peak - before <= contents + 64 * MIB


GROW = """
import constann
count = int(sys.argv[1])
index = constann.Exact(96, "euclidean")
first = next(blocks(10_000))
before = memory("VmRSS")
for block in blocks(count):
    index.add(block)
print(before, memory("VmHWM"), count * 96 * 4)
"""


@reads_status
def test_rows_do_not_lie_twice_while_they_come() -> None:
    """Memory grows by remapping: a copy of 147 MiB, the last time it grows, would be more than what is allowed."""
    before, peak, rows = measured(GROW, 480_000)
    assert peak - before <= rows + 48 * MIB
    assert peak - before > rows, "it was measured"


LARGE_BATCH = """
from constann import PairMap
count = int(sys.argv[1])
generator = np.random.default_rng(0)
users, items, amounts = (generator.integers(0, most, count) for most in (20_000, 2**32, 10))
pairs = PairMap()
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
pairs.add(users, items, amounts)
print(before, memory("VmHWM"), pairs.nbytes)
"""


@reads_status
def test_a_large_batch_of_pairs_takes_memory_for_a_share_of_it() -> None:
    """5,000,000 pairs in one call: 12 bytes for each of them alone would be beyond what is allowed beside the map."""
    before, peak, pairs = measured(LARGE_BATCH, 5_000_000)
    assert peak - before <= pairs + 40 * MIB
    assert peak - before > pairs, "it was measured"


SAVE = """
import constann
index = constann.Exact(96, "euclidean")
for block in blocks(int(sys.argv[1])):
    index.add(block)
index.build()
index.save(sys.argv[2])
"""

SEARCH = """
before = memory("Private_Dirty", "/proc/self/smaps_rollup")
import constann
index = constann.open(sys.argv[1])
queries = next(blocks(10_000))[:200]
for query in queries:
    index.search(query, 10, threads=1)
print(before, memory("Private_Dirty", "/proc/self/smaps_rollup"))
"""


FOREST = """
import constann
index = constann.Forest(96, "euclidean", path=sys.argv[2], trees=2)
for block in blocks(int(sys.argv[1])):
    index.add(block)
index.build()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@reads_rollup
def test_searching_a_forest_of_a_million_rows_shares_its_pages(tmp_path: Path) -> None:
    path = tmp_path / "index"
    measured(FOREST, 1_000_000, path)
    assert path.stat().st_size > 1_000_000 * DIM * 4
    before, after = measured(SEARCH, path)
    assert after - before <= 64 * MIB
    before, after = measured(SEARCH.replace("sys.argv[1])", 'sys.argv[1], memory="copy")'), path)
    assert after - before > 256 * MIB, "control: a copy in the process's own memory is seen"


@reads_rollup
@pytest.mark.parametrize("rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_searching_an_opened_index_shares_its_pages(rows: int, tmp_path: Path) -> None:
    path = tmp_path / "index"
    measured(SAVE, rows, path)
    before, after = measured(SEARCH, path)
    assert path.stat().st_size > rows * DIM * 4
    assert after - before <= 64 * MIB
