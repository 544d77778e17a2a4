"""Two instruction sets on this machine, one library: do annoy, faiss and Constann answer the same?

Annoy is compiled twice by pip, for this CPU and for any of its architecture; faiss and Constann choose at run time.
Each answers in a process of its own and is recorded; `constann compare` says where they part. Needs a compiler, PyPI,
and setuptools in this environment. On a CPU with AVX2.

    python benchmarks/peers_between_instruction_sets.py FOLDER
"""

import os
import subprocess
import sys
from pathlib import Path

from constann import comparison

ANNOY, FAISS = "annoy==1.17.3", "faiss-cpu==1.15.1"
RECORD = """\
import sys
import numpy as np
import constann
from constann import adapters, workload

library, out = sys.argv[1:]
rows = workload._clustered(1, 20000, 64)
queries = workload._clustered(1, 200, 64)[::-1].copy()
with constann.recording(out) as rec:
    rec.stage("vectors", rows)
    rec.stage("queries", queries)
    if library == "annoy":
        from annoy import AnnoyIndex
        index = AnnoyIndex(64, "euclidean")
        index.set_seed(1)
        for number, row in enumerate(rows.tolist()):
            index.add_item(number, row)
        index.build(10, n_jobs=1)
        index.save(out + ".ann")
        rec.stage("index", np.fromfile(out + ".ann", np.uint8))
    elif library == "faiss":
        import faiss
        faiss.omp_set_num_threads(1)
        index = faiss.IndexHNSWFlat(64, 16)
        index.add(rows)
        rec.stage("index", faiss.serialize_index(index))
    else:
        index = constann.build(rows, "euclidean", kind="forest")
        rec.stage("index", np.frombuffer(index.to_bytes(), np.uint8))
    rec.neighbours("search", *adapters.neighbours(index, queries, 10), "euclidean", "vectors", "queries")
"""


def installed(folder: Path, package: str, flags: str | None = None) -> Path:
    """Install a package into a folder of its own, compiled with these flags where there are some."""
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, package]
        environment = dict(os.environ)
        if flags is not None:
            command += ["--no-binary", ":all:", "--no-build-isolation", "--no-cache-dir"]
            environment["ANNOY_COMPILER_ARGS"] = flags
        subprocess.run(command, check=True, env=environment)
    return folder


def recorded(folder: Path, library: str, name: str, packages: Path | None, **variables: str) -> comparison.Recorded:
    """Record one library's answers in a process of its own."""
    out = folder / f"{name}.rec"
    environment = {**os.environ, **variables}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    subprocess.run([sys.executable, "-c", RECORD, library, out], check=True, env=environment)
    return comparison.read(out)


def main(folder: Path) -> None:
    """Install, record and compare."""
    folder.mkdir(parents=True, exist_ok=True)
    common = "-O3,-ffast-math,-fno-associative-math,-DANNOYLIB_MULTITHREADED_BUILD,-std=c++14"
    native = installed(folder / "annoy-native", ANNOY, f"{common},-march=native")
    portable = installed(folder / "annoy-portable", ANNOY, common)
    faiss = installed(folder / "faiss", FAISS)
    pairs = [
        (recorded(folder, "annoy", "annoy-native", native), recorded(folder, "annoy", "annoy-portable", portable)),
        (
            recorded(folder, "faiss", "faiss-none", faiss, FAISS_SIMD_LEVEL="NONE"),
            recorded(folder, "faiss", "faiss-avx2", faiss, FAISS_SIMD_LEVEL="AVX2"),
        ),
        (
            recorded(folder, "constann", "constann-scalar", None, CONSTANN_KERNELS="scalar"),
            recorded(folder, "constann", "constann-best", None),
        ),
    ]
    for pair in pairs:
        found = comparison.compare(pair)
        print(f"\n== {found.labels[0]} and {found.labels[1]}\n{comparison.text(found)}")
        (folder / f"{found.labels[0]}.html").write_text(comparison.html(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
