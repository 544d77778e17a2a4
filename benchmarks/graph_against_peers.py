"""Constann's graph beside hnswlib, faiss, usearch, voyager and annoy, those that are installed, in one run.

    pip install . numpy hnswlib==0.8.0 faiss-cpu usearch voyager annoy     # pip compiles hnswlib and annoy for this CPU
    python benchmarks/graph_against_peers.py [--data FOLDER] [--sets clustered,integers,gloss] [--json FILE] [--plot FILE]

HNSW everywhere with M 16 and efConstruction 200. One thread each, time on the CPU; for each setting the libraries take
turns and each figure is a median, Constann also with its kernels forced to plainer ones. Prints queries a second at recall
.90, .95 and .99, one by one and all in one call; the time of building; the size of the file; and in fresh processes the
time of opening it and of a first query. It asserts nothing.
"""

import argparse
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import CARRIED, NEIGHBOURS, Dataset, clustered, gloss, integers, recall
from measuring import cpu_name, cpu_time, speed_at

import constann

EFFORTS = [10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 56, 68, 80, 112, 160, 224, 320, 480, 640]
ANNOY_EFFORTS = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000]
TARGETS = [0.90, 0.95, 0.99]
ENOUGH = 0.9975  # no effort beyond is tried
FIRST_QUERY = """
import sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from graph_against_peers import PEERS
query = np.load(sys.argv[4])
peer = PEERS[sys.argv[2]](query.shape[1], sys.argv[5])
peer.prepare()
start = time.perf_counter(); peer.open(sys.argv[3])
opened = time.perf_counter(); peer.one(query[0], 64)
print(opened - start, time.perf_counter() - start)
"""


class Peer:
    """A library's graph of one set. Answers of `one` and `all` are row numbers."""

    efforts = EFFORTS

    def __init__(self, dim: int, metric: str) -> None:
        self.dim, self.metric = dim, metric
        self.index: Any = None

    def prepare(self) -> None:
        """Import what opening needs."""

    def build(self, rows: np.ndarray) -> None:
        raise NotImplementedError

    def save(self, path: str) -> None:
        self.index.save(path)

    def open(self, path: str) -> None:
        raise NotImplementedError

    def one(self, query: np.ndarray, effort: int) -> Any:
        return self.all(query[None], effort)[0]

    def all(self, queries: np.ndarray, effort: int) -> Any:
        raise NotImplementedError


class Ours(Peer):
    kernels: str | None = None

    def prepare(self) -> None:
        constann.Exact(1, "cosine")

    def build(self, rows: np.ndarray) -> None:
        index = constann.Graph(self.dim, self.metric)  # type: ignore[arg-type]
        index.add(rows)
        index.build(threads=1)
        self.index = index

    def open(self, path: str) -> None:
        self.index = constann.open(path)

    def one(self, query: np.ndarray, effort: int) -> Any:
        return self.index.search(query, NEIGHBOURS, effort)[0][0]

    def all(self, queries: np.ndarray, effort: int) -> Any:
        return self.index.search(queries, NEIGHBOURS, effort, 1)[0]


class Hnswlib(Peer):
    def prepare(self) -> None:
        import hnswlib

        self.library = hnswlib

    def build(self, rows: np.ndarray) -> None:
        self.prepare()
        self.index = self.library.Index("l2" if self.metric == "euclidean" else "cosine", self.dim)
        self.index.init_index(len(rows), M=16, ef_construction=200)
        self.index.set_num_threads(1)
        self.index.add_items(rows, num_threads=1)

    def save(self, path: str) -> None:
        self.index.save_index(path)

    def open(self, path: str) -> None:
        self.index = self.library.Index("l2" if self.metric == "euclidean" else "cosine", self.dim)
        self.index.load_index(path)
        self.index.set_num_threads(1)

    def all(self, queries: np.ndarray, effort: int) -> Any:
        self.index.set_ef(max(effort, NEIGHBOURS))
        return self.index.knn_query(queries, NEIGHBOURS, num_threads=1)[0]


class Faiss(Peer):
    def prepare(self) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.library = faiss

    def unit(self, rows: np.ndarray) -> np.ndarray:
        if self.metric == "euclidean":
            return rows
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def build(self, rows: np.ndarray) -> None:
        self.prepare()
        self.index = self.library.IndexHNSWFlat(self.dim, 16)
        self.index.hnsw.efConstruction = 200
        self.index.add(self.unit(rows))

    def save(self, path: str) -> None:
        self.library.write_index(self.index, path)

    def open(self, path: str) -> None:
        self.index = self.library.read_index(path)

    def all(self, queries: np.ndarray, effort: int) -> Any:
        self.index.hnsw.efSearch = effort
        return self.index.search(self.unit(queries), NEIGHBOURS)[1]


class Usearch(Peer):
    dtype = "f32"

    def prepare(self) -> None:
        import usearch.index

        self.library = usearch.index

    def empty(self) -> Any:
        metric = "l2sq" if self.metric == "euclidean" else "cos"
        return self.library.Index(
            ndim=self.dim, metric=metric, dtype=self.dtype, connectivity=16, expansion_add=200, expansion_search=64
        )

    def build(self, rows: np.ndarray) -> None:
        self.prepare()
        self.index = self.empty()
        self.index.add(np.arange(len(rows)), rows, threads=1)

    def open(self, path: str) -> None:
        self.index = self.empty()
        self.index.load(path)

    def all(self, queries: np.ndarray, effort: int) -> Any:
        self.index.expansion_search = effort
        keys = self.index.search(queries, NEIGHBOURS, threads=1).keys
        return keys[None] if keys.ndim == 1 else keys


class UsearchHalf(Usearch):
    dtype = "bf16"


class Voyager(Peer):
    def prepare(self) -> None:
        import voyager

        self.library = voyager

    def build(self, rows: np.ndarray) -> None:
        self.prepare()
        space = self.library.Space.Euclidean if self.metric == "euclidean" else self.library.Space.Cosine
        self.index = self.library.Index(space, self.dim, M=16, ef_construction=200)
        self.index.add_items(rows, num_threads=1)

    def open(self, path: str) -> None:
        self.index = self.library.Index.load(path)

    def one(self, query: np.ndarray, effort: int) -> Any:
        return self.index.query(query, NEIGHBOURS, query_ef=max(effort, NEIGHBOURS))[0]

    def all(self, queries: np.ndarray, effort: int) -> Any:
        return self.index.query(queries, NEIGHBOURS, num_threads=1, query_ef=max(effort, NEIGHBOURS))[0]


class Annoy(Peer):
    efforts = ANNOY_EFFORTS

    def prepare(self) -> None:
        import annoy

        self.library = annoy

    def empty(self) -> Any:
        return self.library.AnnoyIndex(self.dim, "euclidean" if self.metric == "euclidean" else "angular")

    def build(self, rows: np.ndarray) -> None:
        self.prepare()
        self.index = self.empty()
        for item, row in enumerate(rows):
            self.index.add_item(item, row)
        self.index.build(50, n_jobs=1)

    def open(self, path: str) -> None:
        self.index = self.empty()
        self.index.load(path)

    def one(self, query: np.ndarray, effort: int) -> Any:
        return self.index.get_nns_by_vector(query, NEIGHBOURS, effort)

    def all(self, queries: np.ndarray, effort: int) -> Any:
        return [self.one(query, effort) for query in queries]


PEERS: dict[str, type[Peer]] = {
    "constann": Ours,
    "hnswlib": Hnswlib,
    "faiss": Faiss,
    "usearch": Usearch,
    "usearch bf16": UsearchHalf,
    "voyager": Voyager,
    "annoy": Annoy,
}


def installed(wanted: list[str]) -> list[str]:
    return [name for name in wanted if importlib.util.find_spec(name.split(maxsplit=1)[0])]


def under(kernels: str | None, work: Callable[[], Any]) -> Any:
    constann.kernels.use(kernels)
    try:
        return work()
    finally:
        constann.kernels.use(None)


def measure(peers: dict[str, Peer], data: Dataset, turns: int, forced: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Of each library, for rising efforts: recall, and queries a second one by one and all in one call."""
    runners: dict[str, tuple[Peer, str | None]] = {name: (peer, None) for name, peer in peers.items()}
    runners |= {f"constann, {kernels}": (peers["constann"], kernels) for kernels in forced}
    points: dict[str, list[dict[str, Any]]] = {name: [] for name in runners}
    for step in range(max(len(peer.efforts) for peer in peers.values())):
        open_still = [
            name
            for name, (peer, _) in runners.items()
            if step < len(peer.efforts) and (not points[name] or points[name][-1]["recall"] < ENOUGH)
        ]
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in open_still}
        answers: dict[str, Any] = {}
        for _ in range(turns):
            for name in open_still:
                peer, kernels = runners[name]
                effort = peer.efforts[step]

                def ask(name: str = name, peer: Peer = peer, effort: int = effort) -> None:
                    answers[name] = [peer.one(query, effort) for query in data.queries]

                def ask_all(peer: Peer = peer, effort: int = effort) -> None:
                    peer.all(data.queries, effort)

                times[name].append((under(kernels, lambda: cpu_time(ask)), under(kernels, lambda: cpu_time(ask_all))))  # noqa: B023
        for name in open_still:
            single, batch = ([len(data.queries) / each[i] for each in times[name]] for i in (0, 1))
            points[name].append(
                {
                    "effort": runners[name][0].efforts[step],
                    "recall": recall(answers[name], data.true),
                    "single": statistics.median(single),
                    "batch": statistics.median(batch),
                    "spread": (max(single) - min(single)) / statistics.median(single),
                }
            )
    return points


def opening(name: str, path: Path, data: Dataset, work: Path) -> tuple[float, float]:
    """Milliseconds to open the file, and to have a first answer, in fresh processes."""
    queries = work / "query.npy"
    np.save(queries, data.queries[:1])
    command = [sys.executable, "-c", FIRST_QUERY, str(Path(__file__).parent), name, path, queries, data.metric]
    runs = []
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append([float(word) * 1000 for word in done.stdout.split()])
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def report(data: Dataset, names: list[str], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    print(f"\n{data.name}: {len(data.rows):,} x {data.rows.shape[1]} {data.metric}, {len(data.queries)} queries")
    peers = {name: PEERS[name](data.rows.shape[1], data.metric) for name in names}
    print(f"{'':20} {'build, s':>9} {'file, MiB':>10} {'open, ms':>9} {'and first answer':>17}")
    built: dict[str, Any] = {}
    for name, peer in peers.items():
        seconds = cpu_time(lambda: peer.build(data.rows))  # noqa: B023 - called at once
        path = work / f"{data.name}-{name}"
        peer.save(str(path))
        size = path.stat().st_size / 2**20
        opened, first = opening(name, path, data, work)
        built[name] = {"seconds": seconds, "MiB": size, "open": opened, "first": first}
        print(f"{name:20} {seconds:>9.2f} {size:>10.1f} {opened:>9.2f} {first:>17.2f}", flush=True)
    points = measure(peers, data, options.turns, options.kernels.split(",") if options.kernels else [])
    print(f"{'':20} " + " ".join(f"{f'{how} {target:.2f}':>12}" for how in ("single", "batch") for target in TARGETS))
    speeds = {
        name: [
            speed_at([(each["recall"], each[how]) for each in rows], target)
            for how in ("single", "batch")
            for target in TARGETS
        ]
        for name, rows in points.items()
    }
    for name, row in speeds.items():
        print(f"{name:20} " + " ".join(f"{speed:>12.0f}" for speed in row))
    if "hnswlib" in speeds:
        for name in (name for name in speeds if name.startswith("constann")):
            ratios = (a / b if b else float("nan") for a, b in zip(speeds[name], speeds["hnswlib"], strict=True))
            print(f"{name + ' / hnswlib':20} " + " ".join(f"{ratio:>12.2f}" for ratio in ratios))
    spread = statistics.median(each["spread"] for rows in points.values() for each in rows)
    print(f"median of {options.turns} turns, their spread {spread:.0%} of it", flush=True)
    return {"set": data.name, "built": built, "points": points, "speeds": speeds}


def plot(answers: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(answers), figsize=(6 * len(answers), 5), squeeze=False)
    for axis, answer in zip(axes[0], answers, strict=True):
        for name, rows in answer["points"].items():
            axis.plot([row["recall"] for row in rows], [row["single"] for row in rows], marker=".", label=name)
        axis.set(
            title=answer["set"], xlabel=f"recall@{NEIGHBOURS}", ylabel="queries a second", yscale="log", xlim=(0.85, 1)
        )
        axis.grid(True, which="both", alpha=0.3)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CARRIED, help="folder of gloss-vectors.npy and gloss-queries.npy")
    parser.add_argument("--sets", default="clustered,integers,gloss")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--kernels", default="avx2,baseline", help="kernel sets that Constann is forced to, besides")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # of the child processes
    names = installed(["constann", *(name for name in options.peers.split(",") if name != "constann")])
    print(f"{datetime.date.today()}; {cpu_name()}; constann {constann.__version__}, {constann.kernels.current()}")
    makers: dict[str, Callable[[], Dataset]] = {
        "clustered": clustered,
        "integers": integers,
        "gloss": lambda: gloss(options.data),
    }
    answers = []
    with tempfile.TemporaryDirectory() as work:
        for name in options.sets.split(","):
            answers.append(report(makers[name](), names, options, Path(work)))
            if options.json:
                options.json.write_text(json.dumps(answers, indent=1))
    if options.plot:
        plot(answers, options.plot)


if __name__ == "__main__":
    main()
