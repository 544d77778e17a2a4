"""The cache is found again, never holds half a file, and removing it removes nothing else."""

from pathlib import Path

import pytest

from ci import cache, undo
from ci.__main__ import main


@pytest.fixture(autouse=True)
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_place_does_not_depend_on_the_checkout(chosen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.root() == chosen
    monkeypatch.delenv("CONSTANN_CI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.root() == Path("/somewhere/constann")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache/constann"


def test_an_interrupted_file_is_not_there() -> None:
    path = cache.folder("images") / "a.tar"
    with pytest.raises(KeyboardInterrupt), cache.whole(path) as work:
        work.write_text("half")
        raise KeyboardInterrupt
    assert not list(path.parent.iterdir())
    with cache.whole(path) as work:
        work.write_text("whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_removing_takes_our_folder_only(chosen: Path) -> None:
    assert not cache.remove()
    cache.folder("images")
    assert cache.remove() and not chosen.exists()


def test_what_could_not_be_removed_can_be_removed_later(chosen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("docker", "images"):
        cache.folder(name)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "rmtree", refuse)
        with pytest.raises(PermissionError):
            cache.remove()
    assert cache.remove() and not chosen.exists()


def test_an_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/somebody/else")

    monkeypatch.setattr(undo, "undo", refuse)
    assert main(["undo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "/somebody/else" in line and "as that user" in line


def test_a_folder_with_other_things_is_neither_taken_over_nor_removed(chosen: Path) -> None:
    chosen.mkdir()
    (chosen / "thesis.txt").write_text("mine")
    cache.folder("images")
    with pytest.raises(cache.CacheError, match="not ours"):
        cache.remove()
    assert (chosen / "thesis.txt").exists()
