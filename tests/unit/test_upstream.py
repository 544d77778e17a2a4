"""What runs against the newest numpy is every test of the library, and none of the harness, whose tools are pinned."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

from ci.upstream import library_tests, packages

FOLDER = Path(__file__).resolve().parent


def test_the_librarys_tests_are_chosen_and_the_harnesss_are_not() -> None:
    names = {path.name for path in library_tests(FOLDER)}
    assert {"test_exact.py", "test_forest.py", "test_kernels.py", "test_golden.py", "test_storage.py"} <= names
    assert not names & {"test_gate.py", "test_audit.py", "test_wheels.py", "test_resolvers.py", "test_upstream.py"}


def test_a_file_that_imports_the_harness_anywhere_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_library.py").write_text("import constann\n# from ci import wheels\n")
    (tmp_path / "test_harness.py").write_text("def test() -> None:\n    from ci import wheels\n")
    assert [path.name for path in library_tests(tmp_path)] == ["test_library.py"]


def imported_by(path: Path) -> Iterator[str]:
    """The packages that a file of tests imports, without what is Python's, ours, or a file beside the tests."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in {each.partition(".")[0] for each in names} - {"constann", *sys.stdlib_module_names}:
            if not any(FOLDER.parent.glob(f"**/{name}.py")) and not (FOLDER.parent / name).is_dir():
                yield name


def test_what_the_librarys_tests_import_and_its_extras_are_installed_for_them() -> None:
    imported = {name for path in library_tests(FOLDER) for name in imported_by(path)}
    owners = packages_distributions()
    extras = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {owner.lower() for name in imported for owner in owners[name]}
    needed |= {Requirement(each).name for extra in ("cli", "csv", "sklearn") for each in extras[extra]}
    assert {"numpy", "pytest", "scikit-learn", "pyarrow", "jsonschema"} <= needed
    assert needed <= set(packages())
