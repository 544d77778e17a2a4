"""Import time beside numpy's alone: processes that import numpy, constann, or what indexes and maps need, in turns.

    python benchmarks/import_time.py [--turns N]

Seconds are those of the import statement, without Python's own start; medians. Exits with status 1 where one of the
two takes 1.2 times what numpy does, or more.
"""

import argparse
import statistics
import subprocess
import sys

from measuring import cpu_name

AT_MOST = 1.2
IMPORTS = {
    "numpy": "import numpy",
    "constann": "import constann",
    # Names are found when they are first used: this is all of the library but recordings and the version.
    "constann, build and open": "from constann import Exact, Forest, Graph, PairMap, build, kernels, open",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    run = subprocess.run(
        [sys.executable, "-c", TIMED.format(statement)], capture_output=True, text=True, check=True, cwd="/"
    )
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=31)
    turns = parser.parse_args().turns
    for statement in IMPORTS.values():
        seconds(statement)  # files come into the page cache, and are compiled
    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(turns):
        for name, statement in IMPORTS.items():
            taken[name].append(seconds(statement))
    middle = {name: statistics.median(times) for name, times in taken.items()}
    print(f"{cpu_name()}; Python {sys.version.split()[0]}, medians of {turns} turns")
    for name, each in middle.items():
        spread = max(taken[name]) - min(taken[name])
        print(
            f"{name:26} {each * 1000:7.2f} ms   {each / middle['numpy']:.2f} of numpy's   spread {spread * 1000:.2f} ms"
        )
    if max(middle.values()) >= AT_MOST * middle["numpy"]:
        sys.exit(f"constann takes more than {AT_MOST} times numpy's import")


if __name__ == "__main__":
    main()
