"""What runs against the newest numpy is every test of the library, and none of the harness, whose tools are pinned."""

from pathlib import Path

from ci.upstream import library_tests

FOLDER = Path(__file__).resolve().parent


def test_the_librarys_tests_are_chosen_and_the_harnesss_are_not() -> None:
    names = {path.name for path in library_tests(FOLDER)}
    assert {"test_exact.py", "test_forest.py", "test_kernels.py", "test_golden.py", "test_storage.py"} <= names
    assert not names & {"test_gate.py", "test_audit.py", "test_wheels.py", "test_resolvers.py", "test_upstream.py"}


def test_a_file_that_imports_the_harness_anywhere_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_library.py").write_text("import constann\n# from ci import wheels\n")
    (tmp_path / "test_harness.py").write_text("def test() -> None:\n    from ci import wheels\n")
    assert [path.name for path in library_tests(tmp_path)] == ["test_library.py"]
