"""What a search takes from the heap, counted by a program over the core alone."""

import subprocess
from pathlib import Path

import core_build
import pytest

QUERIES = 10
FOR_THE_CALL = 6  # its queries, its sets of neighbours, its tasks


def counted(program: Path, *arguments: str) -> list[list[int]]:
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    return [[int(number) for number in line.split()] for line in run.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_search_loop_allocates_nothing(compiler: str, tmp_path: Path) -> None:
    """As often for many candidates as for few: once for each query's neighbours, and a few times for the call."""
    entries = {"CMAKE_CXX_COMPILER": compiler, "CMAKE_BUILD_TYPE": "None", "CMAKE_CXX_FLAGS": "-O1"}
    program = core_build.build(tmp_path, "constann_allocations", entries)
    found = counted(program)
    assert len(found) == 5 + 6
    for few, many in found:
        assert few == many <= QUERIES + FOR_THE_CALL
    planted = counted(program, "planted")
    assert all(few < many for few, many in planted)
