"""What every machine of the gate runs: build each kind of index, search it, and write down what came out.

Runs inside the machine with the installed wheel, numpy and nothing else, in one process: what it says of CPU and
kernels is read in the process that computed. It compares nothing and judges nothing; ci/matrix.py does.

    python workload.py --vectors V.npy --queries Q.npy --output FOLDER [--load FOLDER] [--rows N] [--threads N]
"""

import argparse
import ctypes
import hashlib
import json
import mmap
import platform
import time
from pathlib import Path

import numpy as np

import constann
from constann import _core

METRICS = ("cosine", "euclidean", "manhattan", "dot", "hamming")
KINDS = {"exact": METRICS, "forest": METRICS, "graph": ("cosine", "euclidean", "dot")}
K = 10
QUERIES = 100
EFFORT = {
    "exact": None,
    "forest": 1_000,
    "graph": 12,
}  # few enough candidates that the order of the walk decides the answer
SEED = 20_261_123


def facts() -> dict[str, object]:
    """What this process sees of its machine, read here and now."""
    return {
        "architecture": platform.machine(),
        "cpu_features": constann.kernels.cpu_features(),
        "kernels": constann.kernels.current(),
        "kernels_available": [implementation.name for implementation in constann.kernels.available()],
        "compiler": _core.compiler,
        "planted_faults": _core.planted_faults,
        "tuned_for": _core.tuned_for,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "constann": constann.__version__,
        "extension": Path(_core.__file__).name,
        "page_size": mmap.PAGESIZE,
        "sve_bits": sve_bits(),
    }


def sve_bits() -> int:
    """How long this process's SVE vectors are; 0 where it has none."""
    if platform.machine() != "aarch64":
        return 0
    answer = ctypes.CDLL(None).prctl(51, 0, 0, 0, 0)  # PR_SVE_GET_VL
    return 0 if answer < 0 else 8 * (answer & 0xFFFF)


def slice_of(vectors: np.ndarray, rows: int) -> np.ndarray:
    """Evenly spaced rows, at most `rows` of them: the same on every machine."""
    return vectors[:: max(1, len(vectors) // rows)][:rows]


def as_metric_takes(rows: np.ndarray, metric: str) -> np.ndarray:
    """The rows themselves, or for hamming one bit for each element: whether it is above 0."""
    return np.packbits(rows > 0, axis=1) if metric == "hamming" else rows


def search_and_note(
    index: constann.Index, queries: np.ndarray, name: str, output: Path, threads: int | None
) -> dict[str, str]:
    """Search, keep the arrays, and return their digests."""
    kind = type(index).__name__.lower()
    ids, distances = index.search(as_metric_takes(queries, index.metric), K, effort=EFFORT[kind], threads=threads)
    np.save(output / f"{name}.ids.npy", ids)
    np.save(output / f"{name}.distances.npy", distances)
    return {
        "fingerprint": index.fingerprint,
        "ids": hashlib.sha256(ids.tobytes()).hexdigest(),
        "distances": hashlib.sha256(distances.tobytes()).hexdigest(),
    }


def build_all(vectors: np.ndarray, queries: np.ndarray, output: Path, threads: int | None) -> dict[str, dict[str, str]]:
    """Build and search each kind and metric; keep the index files."""
    answers = {}
    for kind, metrics in KINDS.items():
        for metric in metrics:
            name = f"{kind}-{metric}"
            dim = vectors.shape[1]
            rows = as_metric_takes(vectors, metric)
            index = constann.build(rows, metric, kind=kind, dim=dim, seed=SEED, threads=threads)
            index.save(output / f"{name}.constann")
            answers[name] = search_and_note(index, queries, name, output, threads)
    return answers


def load_all(folder: Path, queries: np.ndarray, output: Path, threads: int | None) -> dict[str, dict[str, str]]:
    """Open and search each index file in `folder`, reading and checking every byte of it."""
    answers = {}
    for path in sorted(folder.glob("*.constann")):
        index = constann.open(path, verify=True)
        answers[path.name] = search_and_note(index, queries, f"loaded-{path.stem}", output, threads)
    return answers


def main() -> None:
    """Run it; the summary is written last, and so only where all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--load", type=Path, help="folder of index files made elsewhere")
    parser.add_argument("--rows", type=int, help="build from so many evenly spaced rows instead of all")
    parser.add_argument("--load-only", action="store_true", help="build nothing")
    parser.add_argument("--threads", type=int, help="at most so many (default: the CPUs of this process)")
    options = parser.parse_args()
    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    vectors = np.load(options.vectors, mmap_mode="r")
    if options.rows:
        vectors = slice_of(vectors, options.rows)
    queries = slice_of(np.load(options.queries), QUERIES)
    output, threads = options.output, options.threads
    answers: dict[str, object] = {"facts": {**facts(), "threads": threads or 0}, "rows": len(vectors)}
    answers["built"] = {} if options.load_only else build_all(vectors, queries, output, threads)
    answers["loaded"] = load_all(options.load, queries, output, threads) if options.load else {}
    answers["seconds"] = round(time.monotonic() - started, 2)
    (options.output / "answers.json").write_text(json.dumps(answers, indent=1))
    print(f"{len(vectors)} rows, kernels {constann.kernels.current()}, {answers['seconds']} s")


if __name__ == "__main__":
    main()
