"""Constann's forest beside Annoy built on this machine, in one run: one thread each, CPU time, recall with every speed.

    pip install . annoy==1.17.3        # pip compiles Annoy for this very CPU (-march=native)
    python benchmarks/forest_against_annoy.py [--data FOLDER] [--sets gloss,clustered] [--json FILE]

Prints recall at the same trees and search_k; queries a second at recall .90, .95 and .99, the best setting of each
library, Constann also with its kernels forced to the plainest; time of building; and of opening with the first query.
The two take turns, each figure is a median. It asserts nothing.
"""

import argparse
import ctypes
import json
import mmap
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import CARRIED, NEIGHBOURS, Dataset, clustered, gloss, recall
from measuring import cpu_name, cpu_time, speed_at

import constann

try:
    import annoy
except ImportError:
    sys.exit("annoy is not installed: pip install annoy==1.17.3")

TREES = [10, 20, 50, 100]
EFFORTS = [500, 1000, 2000, 4000, 8000, 16_000, 32_000]
TARGETS = [0.90, 0.95, 0.99]
TURNS = 3
PLAINEST = constann.kernels.available()[1].name
FIRST_QUERY = """
import os, sys, time, numpy as np
library, path, dim, queries = sys.argv[1], sys.argv[2], int(sys.argv[3]), np.load(sys.argv[4])
if library == "annoy":
    import annoy
    queries = queries.tolist()
    start = time.perf_counter()
    index = annoy.AnnoyIndex(dim, "angular"); index.load(path, prefault=len(sys.argv) > 5)
    ask = lambda query: index.get_nns_by_vector(query, 10, 2000)
else:
    import constann
    constann.Exact(1, "cosine")
    start = time.perf_counter()
    index = constann.open(path, memory=library)
    ask = lambda query: index.search(query, 10, 2000)
opened = time.perf_counter()
times = []
for query in queries:
    begin = time.perf_counter(); ask(query); times.append(time.perf_counter() - begin)
print(opened - start, opened - start + times[0], sorted(times)[len(times) * 99 // 100])
"""


class Peers:
    """Both libraries' indexes of one set, for each number of trees, built once."""

    def __init__(self, data: Dataset, work: Path, trees: Sequence[int]) -> None:
        self.data, self.work = data, work
        self.dim = data.rows.shape[1]
        self.lists = data.queries.tolist()
        self.build_times: dict[int, tuple[float, float]] = {}
        self.annoy: dict[int, Any] = {}
        self.constann: dict[int, constann.Index] = {}
        for number in trees:
            self.build(number)

    def build(self, trees: int) -> None:
        theirs = annoy.AnnoyIndex(self.dim, "angular")
        for item, row in enumerate(self.data.rows):
            theirs.add_item(item, row)
        ours = constann.Forest(self.dim, "cosine", trees=trees)
        ours.add(self.data.rows)
        times = (cpu_time(lambda: theirs.build(trees, n_jobs=1)), cpu_time(lambda: ours.build(threads=1)))
        self.build_times[trees] = times
        theirs.save(str(self.path(trees, "ann")))
        ours.save(self.path(trees, "constann"))
        self.annoy[trees] = theirs
        self.constann[trees] = constann.open(self.path(trees, "constann"))

    def path(self, trees: int, suffix: str) -> Path:
        return self.work / f"{self.data.name}-{trees}.{suffix}"

    def ask_annoy(self, trees: int, effort: int) -> list[list[int]]:
        index = self.annoy[trees]
        return [index.get_nns_by_vector(query, NEIGHBOURS, effort, True)[0] for query in self.lists]

    def ask_constann(self, trees: int, effort: int) -> list[list[int]]:
        index = self.constann[trees]
        return [index.search(query, NEIGHBOURS, effort)[0][0] for query in self.data.queries]  # type: ignore[misc]


def measure(peers: Peers) -> list[dict[str, Any]]:
    """Every setting: recall, and queries a second of the two in turn, Constann with two kernel sets."""
    rows = []
    for trees in TREES:
        for effort in EFFORTS:
            times: dict[str, list[float]] = {"annoy": [], "constann": [], PLAINEST: []}
            for _ in range(TURNS):
                times["annoy"].append(cpu_time(lambda: peers.ask_annoy(trees, effort)))  # noqa: B023 - called at once
                for name, kernels in (("constann", None), (PLAINEST, PLAINEST)):
                    constann.kernels.use(kernels)
                    times[name].append(cpu_time(lambda: peers.ask_constann(trees, effort)))  # noqa: B023
            constann.kernels.use(None)
            count = len(peers.data.queries)
            rows.append(
                {
                    "trees": trees,
                    "effort": effort,
                    "recall": {
                        "annoy": recall(peers.ask_annoy(trees, effort), peers.data.true),
                        "constann": recall(peers.ask_constann(trees, effort), peers.data.true),
                    },
                    "qps": {name: count / statistics.median(each) for name, each in times.items()},
                }
            )
    return rows


def best(rows: list[dict[str, Any]], library: str, target: float) -> float:
    """The most queries a second at this recall: between two efforts of a forest by its logarithm, or at one of them."""
    whose = "annoy" if library == "annoy" else "constann"
    found = []
    for trees in TREES:
        points = [(row["recall"][whose], row["qps"][library]) for row in rows if row["trees"] == trees]
        found.append(speed_at(points, target))
    return max(found)


def first_queries(peers: Peers, trees: int) -> dict[str, tuple[float, float, float]]:
    """Seconds to open, to open and answer, and the 99th of 100 answers: in fresh processes, then with cold files."""
    query = peers.work / "query.npy"
    np.save(query, peers.data.queries)
    found = {}
    for cold in (False, True):
        runs: dict[str, list[tuple[float, ...]]] = {}
        for _ in range(5 if cold else 15):
            for library in ("annoy", "annoy prefault", "map", "warm", "copy", "lock"):
                name, *prefault = library.split()
                path = peers.path(trees, "ann" if name == "annoy" else "constann")
                read = drop(path) if cold else path
                command = [sys.executable, "-c", FIRST_QUERY, name, read, str(peers.dim), query, *prefault]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                label = f"{library}{', not in the page cache' if cold else ''}"
                runs.setdefault(label, []).append(tuple(map(float, done.stdout.split())))
        for label, times in runs.items():
            found[label] = tuple(statistics.median(run[i] for run in times) for i in (0, 1, 2))
    return found  # type: ignore[return-value]


def drop(path: Path) -> Path:
    """A copy that nobody has mapped, out of the page cache."""
    copy = path.with_name("cold" + path.suffix)
    shutil.copy(path, copy)
    with copy.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages := resident_pages(copy):
        sys.exit(f"{pages} pages of {copy} are still in the page cache: set TMPDIR to a folder on a disk")
    return copy


def resident_pages(path: Path) -> int:
    """How many pages of the file are in the page cache, as mincore says."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        failed = mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), pages)
        del start
    if failed:
        sys.exit(f"mincore does not work here: {os.strerror(ctypes.get_errno())}")
    return sum(page & 1 for page in pages)


def wide_instructions() -> str:
    """How many AVX-512 instructions Annoy's library has, if objdump can say."""
    if not shutil.which("objdump"):
        return "objdump is not here to look for AVX-512 in annoy: apt-get install binutils"
    folder = Path(annoy.__file__).parent
    text = "".join(
        subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True).stdout
        for path in folder.glob("*.so")
    )
    wide, half = (len(re.findall(register, text)) for register in ("%zmm", "%ymm"))
    return f"annoy's library has {wide} uses of 512-bit registers, {half} of 256-bit"


def report(peers: Peers) -> dict[str, Any]:
    data = peers.data
    print(f"\n{data.name}: {len(data.rows):,} x {peers.dim}, {len(data.queries)} queries, recall@{NEIGHBOURS}")
    rows = measure(peers)
    print(f"{'trees':>6} {'search_k':>9} {'annoy':>8} {'constann':>9} {'difference':>11}")
    for row in rows:
        theirs, ours = row["recall"]["annoy"], row["recall"]["constann"]
        print(f"{row['trees']:>6} {row['effort']:>9} {theirs:>8.4f} {ours:>9.4f} {ours - theirs:>+11.4f}")
    print(f"{'recall':>7} {'annoy/s':>9} {'constann/s':>11} {'ratio':>6} {PLAINEST + '/s':>11} {'ratio':>6}")
    speeds = []
    for target in TARGETS:
        theirs, ours, plain = (best(rows, name, target) for name in ("annoy", "constann", PLAINEST))
        ratios = [each / theirs if theirs else float("nan") for each in (ours, plain)]
        print(f"{target:>7} {theirs:>9.0f} {ours:>11.0f} {ratios[0]:>6.2f} {plain:>11.0f} {ratios[1]:>6.2f}")
        speeds.append({"recall": target, "annoy": theirs, "constann": ours, PLAINEST: plain})
    print(f"{'trees':>6} {'annoy builds, s':>16} {'constann, s':>12} {'ratio':>6} {'annoy, MiB':>11} {'ours, MiB':>14}")
    for trees, (theirs, ours) in peers.build_times.items():
        sizes = [peers.path(trees, suffix).stat().st_size / 2**20 for suffix in ("ann", "constann")]
        print(f"{trees:>6} {theirs:>16.2f} {ours:>12.2f} {ours / theirs:>6.2f} {sizes[0]:>11.0f} {sizes[1]:>14.0f}")
    return {
        "set": data.name,
        "settings": rows,
        "speeds": speeds,
        "build": peers.build_times,
        "opening": report_opening(peers),
    }


def report_opening(peers: Peers) -> dict[str, tuple[float, float, float]]:
    opened = first_queries(peers, TREES[-1])
    print(f"{f'{peers.data.name}, {TREES[-1]} trees':36} {'open, ms':>9} {'and first query, ms':>20} {'p99, ms':>8}")
    for name, (open_time, both, slow) in opened.items():
        print(f"{name:36} {open_time * 1000:>9.2f} {both * 1000:>20.2f} {slow * 1000:>8.2f}")
    return opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CARRIED, help="folder of gloss-vectors.npy and gloss-queries.npy")
    parser.add_argument("--sets", default="gloss,clustered")
    parser.add_argument("--opening", action="store_true", help="measure only opening and the first query")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the child processes
    print(f"{cpu_name()}; constann {constann.__version__}, kernels {constann.kernels.current()}; {wide_instructions()}")
    answers: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for name in options.sets.split(","):
            data = gloss(options.data) if name == "gloss" else clustered()
            peers = Peers(data, Path(work), TREES[-1:] if options.opening else TREES)
            answers.append(report_opening(peers) if options.opening else report(peers))
    if options.json:
        options.json.write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
