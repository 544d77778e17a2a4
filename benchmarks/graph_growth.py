"""How Constann's graph grows: with the number of rows beside hnswlib, with threads, and by the call from Python.

    pip install . numpy hnswlib==0.8.0                  # pip compiles hnswlib for this CPU
    python benchmarks/graph_growth.py [--rows 10000,100000,1000000] [--only growth,threads,calls] [--json FILE]

Growth: the rows of `datasets.clustered` with one cluster for each hundred, time on the CPU of one thread, and in fresh
processes the memory that opening and 1,000 queries add. Threads: what the ordered build leaves idle is the most that a
racing one, whose threads never wait for each other, could win. Calls: what one call for each query takes more than
one call for all, whose loop over the queries is in C++. It asserts nothing.
"""

import argparse
import datetime
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, clustered
from graph_against_peers import PEERS, Peer, measure
from measuring import cpu_name, cpu_time, speed_at

import constann

TARGET = 0.95
MEMORY = """
import re, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from graph_against_peers import PEERS

def resident():
    text = open("/proc/self/smaps_rollup").read()
    return [int(re.search(name + r": *(\\d+)", text).group(1)) / 1024 for name in ("Rss", "Private_Dirty")]

queries = np.load(sys.argv[4])
peer = PEERS[sys.argv[2]](queries.shape[1], sys.argv[5])
peer.prepare()
before = resident()
peer.open(sys.argv[3])
for query in queries:
    peer.one(query, 64)
print(*(after - first for after, first in zip(resident(), before)))
"""


def data_of(count: int) -> Dataset:
    return clustered(count, clusters=max(count // 100, 1))


def memory(name: str, path: Path, data: Dataset, work: Path) -> tuple[float, float]:
    """MiB that opening and searching add to a process: in all, and of its own."""
    queries = work / "queries.npy"
    np.save(queries, data.queries)
    command = [sys.executable, "-c", MEMORY, str(Path(__file__).parent), name, path, queries, data.metric]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, private = map(float, done.stdout.split())
    return resident, private


def growth(counts: list[int], turns: int, work: Path) -> list[dict[str, Any]]:
    names = [name for name in ("constann", "hnswlib") if importlib.util.find_spec(name)]
    print(
        f"{'rows':>9} {'':10} {'build, s':>9} {'us a row':>9} {'file, MiB':>10} {'memory, MiB':>12} "
        f"{'private':>8} {f'queries/s at {TARGET}':>18} {'ratio':>6}"
    )
    found = []
    for count in counts:
        data = data_of(count)
        peers: dict[str, Peer] = {}
        for name in names:
            peer = PEERS[name](data.rows.shape[1], data.metric)
            seconds = cpu_time(lambda: peer.build(data.rows))  # noqa: B023 - called at once
            path = work / f"{count}-{name}"
            peer.save(str(path))
            resident, private = memory(name, path, data, work)
            found.append(
                {
                    "rows": count,
                    "library": name,
                    "build": seconds,
                    "MiB": path.stat().st_size / 2**20,
                    "resident": resident,
                    "private": private,
                }
            )
            peers[name] = peer
        speeds = {
            name: speed_at([(each["recall"], each["single"]) for each in rows], TARGET)
            for name, rows in measure(peers, data, turns, []).items()
        }
        for row in found[-len(names) :]:
            speed = row["speed"] = speeds[row["library"]]
            print(
                f"{count:>9,} {row['library']:10} {row['build']:>9.2f} {row['build'] / count * 1e6:>9.1f} "
                f"{row['MiB']:>10.1f} {row['resident']:>12.1f} {row['private']:>8.1f} {speed:>18.0f} "
                f"{speed / speeds[names[-1]]:>6.2f}",
                flush=True,
            )
        peers.clear()
        gc.collect()
    return found


def threads(count: int, turns: int) -> dict[str, float]:
    """Building with one thread and with two, in turn: time on the clock, and the share of it that a thread waits."""
    data = data_of(count)

    def build(number: int) -> tuple[float, float]:
        index = constann.Graph(data.rows.shape[1], "cosine")
        index.add(data.rows)
        start, before = time.perf_counter(), time.process_time()
        index.build(threads=number)
        return time.perf_counter() - start, time.process_time() - before

    runs: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(turns):
        for number, each in runs.items():
            each.append(build(number))
    one, two = (statistics.median(wall for wall, _ in runs[number]) for number in (1, 2))
    idle = statistics.median(1 - busy / (2 * wall) for wall, busy in runs[2])
    print(
        f"building {count:,} rows: {one:.2f} s with one thread, {two:.2f} s with two, {one / two:.2f} times as fast; "
        f"the two wait {idle:.0%} of the time, for each other or for a CPU"
    )
    return {"one": one, "two": two, "idle": idle}


def calls(count: int, turns: int) -> list[dict[str, float]]:
    """Microseconds of a query in a call of its own and in a call for all, whose difference is Python's."""
    data = data_of(count)
    index = constann.build(data.rows, "cosine", kind="graph", threads=1)
    found = []
    for effort in (10, 24, 56, 160):
        single, batch = [], []
        for _ in range(turns):
            single.append(cpu_time(lambda: [index.search(query, 10, effort) for query in data.queries]))  # noqa: B023
            batch.append(cpu_time(lambda: index.search(data.queries, 10, effort, 1)))  # noqa: B023
        alone, together = (statistics.median(each) / len(data.queries) * 1e6 for each in (single, batch))
        more = statistics.median((a - b) / len(data.queries) * 1e6 for a, b in zip(single, batch, strict=True))
        print(f"effort {effort:>3}: {alone:.2f} us a query one by one, {together:.2f} in one call: {more:+.2f}")
        found.append({"effort": effort, "single": alone, "batch": together, "more": more})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,30000,100000,300000,1000000")
    parser.add_argument("--only", default="growth,threads,calls")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # of the child processes
    print(f"{datetime.date.today()}; {cpu_name()}; constann {constann.__version__}, {constann.kernels.current()}")
    answers: dict[str, Any] = {}
    parts = options.only.split(",")
    if "calls" in parts:
        answers["calls"] = calls(40_000, options.turns)
    if "threads" in parts:
        answers["threads"] = threads(100_000, options.turns)
    if "growth" in parts:
        with tempfile.TemporaryDirectory() as work:
            counts = [int(number) for number in options.rows.split(",")]
            answers["growth"] = growth(counts, options.turns, Path(work))
    if options.json:
        options.json.write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
