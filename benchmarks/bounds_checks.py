"""What the checks of a forest's walk cost: instructions of a search with them and without, counted by callgrind.

apt-get install valgrind g++; pip install cmake ninja; python benchmarks/bounds_checks.py
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUERIES = (50, 250)  # the difference leaves building out


def instructions(program: Path, kernels: str, queries: int, folder: Path) -> int:
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}", program, kernels, str(queries)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return int(re.search(r"Collected : (\d+)", said)[1])  # type: ignore[index]


def per_search(folder: Path, kernels: str, unchecked: bool) -> float:
    build = folder / ("unchecked" if unchecked else "checked")
    configure = [
        "cmake",
        "-G",
        "Ninja",
        "-S",
        ROOT,
        "-B",
        build,
        f"-DCONSTANN_UNCHECKED={'ON' if unchecked else 'OFF'}",
    ]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--target", "constann_search_loop"], check=True, capture_output=True)
    few, many = (instructions(build / "constann_search_loop", kernels, queries, folder) for queries in QUERIES)
    return (many - few) / (QUERIES[1] - QUERIES[0])


def main() -> None:
    if not shutil.which("valgrind"):
        sys.exit("valgrind is not on this machine: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as work:
        for kernels in ("baseline", "avx2"):  # valgrind knows no AVX-512
            checked, unchecked = (per_search(Path(work), kernels, without) for without in (False, True))
            print(
                f"{kernels}: {checked:,.0f} instructions a search, {unchecked:,.0f} without the checks: "
                f"{100 * (checked / unchecked - 1):+.2f} %"
            )


if __name__ == "__main__":
    main()
