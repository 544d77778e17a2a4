"""What the checks of a forest's walk cost: instructions of a search with them and without, counted by callgrind.

Exits with status 1 where they cost more than 3 %.

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
FORESTS = (("euclidean", 0), ("cosine", 7), ("hamming", 0))  # metric and width of codes
AT_MOST = 3.0  # per cent


def instructions(program: Path, arguments: list[str], folder: Path) -> int:
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}", program, *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return int(re.search(r"Collected : (\d+)", said)[1])  # type: ignore[index]


def program_of(folder: Path, unchecked: bool) -> Path:
    build = folder / ("unchecked" if unchecked else "checked")
    configure = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", build]
    configure += [f"-DCONSTANN_UNCHECKED={'ON' if unchecked else 'OFF'}"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--target", "constann_search_loop"], check=True, capture_output=True)
    return build / "constann_search_loop"


def per_search(program: Path, kernels: str, metric: str, code_bits: int, folder: Path) -> float:
    few, many = (instructions(program, [kernels, str(queries), metric, str(code_bits)], folder) for queries in QUERIES)
    return (many - few) / (QUERIES[1] - QUERIES[0])


def main() -> None:
    if not shutil.which("valgrind"):
        sys.exit("valgrind is not on this machine: apt-get install valgrind")
    worst = 0.0
    with tempfile.TemporaryDirectory() as work:
        programs = [program_of(Path(work), unchecked) for unchecked in (False, True)]
        for kernels in ("baseline", "avx2"):  # valgrind knows no AVX-512
            for metric, code_bits in FORESTS:
                checked, unchecked = (
                    per_search(program, kernels, metric, code_bits, Path(work)) for program in programs
                )
                cost = 100 * (checked / unchecked - 1)
                worst = max(worst, cost)
                print(
                    f"{kernels}, {metric}, codes of {code_bits} bits: {checked:,.0f} instructions a search, "
                    f"{unchecked:,.0f} without the checks: {cost:+.2f} %",
                    flush=True,
                )
    if worst > AT_MOST:
        sys.exit(f"the checks cost {worst:.2f} %, which is more than {AT_MOST} %")


if __name__ == "__main__":
    main()
