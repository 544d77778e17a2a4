"""What a search takes from the heap, counted by a program over the core alone."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUERIES = 10
FOR_THE_CALL = 6  # its queries, its sets of neighbours, its tasks


def built(folder: Path, compiler: str) -> Path:
    configure = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, f"-DCMAKE_CXX_COMPILER={compiler}"]
    subprocess.run([*configure, "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1"], check=True, capture_output=True)
    build = ["cmake", "--build", folder, "--target", "constann_allocations"]
    run = subprocess.run(build, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    return folder / "constann_allocations"


def counted(program: Path, *arguments: str) -> list[list[int]]:
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    return [[int(number) for number in line.split()] for line in run.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_search_loop_allocates_nothing(compiler: str, tmp_path: Path) -> None:
    """As often for many candidates as for few: once for each query's neighbours, and a few times for the call."""
    program = built(tmp_path, compiler)
    found = counted(program)
    assert len(found) == 5 + 6
    for few, many in found:
        assert few == many <= QUERIES + FOR_THE_CALL
    planted = counted(program, "planted")
    assert all(few < many for few, many in planted)
