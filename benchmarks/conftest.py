"""Builds the benchmark library once and prints the ratios that the tests measured, at the end."""

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RATIOS = pytest.StashKey[list[tuple[str, float, float]]]()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    build = tmp_path_factory.mktemp("build")
    subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--target", "constann_benchmark"], check=True, capture_output=True)
    return ctypes.CDLL(str(next(build.glob("*constann_benchmark*"))))


@pytest.fixture
def ratios(request: pytest.FixtureRequest) -> list[tuple[str, float, float]]:
    """(name, ratio, spread) of each measured pair."""
    return request.config.stash.setdefault(RATIOS, [])


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    yield
    measured = config.stash.get(RATIOS, [])
    if measured:
        terminalreporter.section(
            "time of the canonical kernel against the free-order build (1 is equal, 2 twice as slow)"
        )
        terminalreporter.write_line(f"{'kernel':52} {'ratio':>6}  middle half of the repeats")
        for name, ratio, spread in measured:
            terminalreporter.write_line(f"{name:52} {ratio:6.2f}  +-{spread:.2f}")
