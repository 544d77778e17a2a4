"""Importing constann brings in nothing that is not used: what it adds to numpy's modules is listed, with the reason."""

import subprocess
import sys
from pathlib import Path

import pytest

# What the public names need beside numpy. Parts of these that begin with an underscore are theirs.
NEEDED = {
    "constann": "itself",
    "errno": "storage: what a folder in a file's place is called",
    "hashlib": "storage: fingerprints",
    "mmap": "storage: files are mapped",
}


def added(statement: str, folder: Path, before: str = "import numpy") -> set[str]:
    """The modules, save private ones, that a statement adds to those that are there."""
    program = f"import sys; {before}; old = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - old))"
    run = subprocess.run([sys.executable, "-I", "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return {name for name in run.stdout.split() if not name.rpartition(".")[2].startswith("_")}


def unneeded(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] not in NEEDED}


def test_the_import_alone_needs_not_even_numpy(tmp_path: Path) -> None:
    assert added("import constann", tmp_path, before="import importlib, typing") == {"constann"}


@pytest.mark.parametrize("name", ["build", "open", "Graph", "PairMap", "kernels", "FileFormatError"])
def test_a_name_that_is_used_adds_what_it_needs_and_no_more(name: str, tmp_path: Path) -> None:
    assert unneeded(added(f"import constann; constann.{name}", tmp_path)) == set()


def test_a_module_that_is_not_needed_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "site"
    (package / "constann_again").mkdir(parents=True)
    (package / "constann_again" / "__init__.py").write_text("import constann, sqlite3\n")
    planted = f"sys.path.insert(0, {str(package)!r}); import constann_again"
    assert {"sqlite3", "constann_again"} <= unneeded(added(planted, tmp_path))


def test_each_module_that_is_allowed_comes(tmp_path: Path) -> None:
    comes = {name.split(".")[0] for name in added("import constann; constann.build", tmp_path)}
    assert comes == NEEDED.keys()
