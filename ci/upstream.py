"""Tests the library against what is newest: numpy and the test tools, pre-releases too, on the Python that runs this.

News, not a gate: nothing here is pinned but what builds the wheel, and the harness's own tests are left out.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from ci import builders
from ci.progress import step

_ROOT = Path(__file__).resolve().parent.parent
# A test that imports the harness, or what stands beside the tests for it, needs the harness's pinned packages; one
# that asks git which files there are is about the repository.
_OF_THE_HARNESS = re.compile(
    r"^\s*(from|import) (ci|planted_code|process_machines|annoy_peer|stand_in_wheels)\b|\"git\", \"ls-files\"", re.M
)


def library_tests(folder: Path) -> list[Path]:
    """Return the test files that need nothing but the installed package."""
    return [path for path in sorted(folder.glob("test_*.py")) if not _OF_THE_HARNESS.search(path.read_text())]


def packages() -> list[str]:
    """Return the names of what those tests need, whatever versions pyproject.toml pins them to."""
    return [Requirement(each).name for each in builders.requirements("library-test", platform.machine())]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `./ci/run upstream`."""
    parser.epilog = "What follows -- goes to pytest."


def run(arguments: argparse.Namespace) -> int:
    """Build and test the library with the newest numpy and test tools; the exit status is pytest's."""
    with tempfile.TemporaryDirectory(prefix="constann-upstream-") as work:
        venv.create(work, with_pip=True)
        python = Path(work, "bin", "python")
        try:
            needed = packages()
            with step(f"Python {sys.version.split()[0]} with the newest {', '.join(needed)}"):
                _pip(python, ["--pre", "--upgrade", *needed])
            with step("building and installing the library"):
                _pip(python, ["--no-deps", str(_ROOT)])
            _show_versions(python)
        except subprocess.CalledProcessError as error:
            print(f"error: `{' '.join(map(str, error.cmd))}` failed, see above", file=sys.stderr)
            return 2
        options = ["-m", "not slow", "-n", "auto", "-p", "no:cacheprovider", *arguments.program]
        return _tests(python, options, library_tests(_ROOT / "tests" / "unit"))


def _pip(python: Path, arguments: Sequence[str]) -> None:
    subprocess.run([python, "-P", "-m", "pip", "install", "--quiet", *arguments], check=True)


def _show_versions(python: Path) -> None:
    """Say what was tested: names alone would mean something else next week."""
    subprocess.run([python, "-P", "-m", "pip", "list", "--disable-pip-version-check"], check=True)


def _tests(python: Path, options: Sequence[str], paths: Iterable[Path]) -> int:
    found = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    command = [str(python), "-P", "-m", "pytest", *options, *map(str, paths)]
    return subprocess.run(command, cwd=_ROOT, env={**os.environ, "PATH": found}, check=False).returncode
