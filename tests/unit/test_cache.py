"""The cache is found again, never holds half a file, and removing it removes nothing else."""

from pathlib import Path

import pytest

from ci import cache


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


def test_a_folder_with_other_things_is_neither_taken_over_nor_removed(chosen: Path) -> None:
    chosen.mkdir()
    (chosen / "thesis.txt").write_text("mine")
    cache.folder("images")
    with pytest.raises(cache.CacheError, match="not ours"):
        cache.remove()
    assert (chosen / "thesis.txt").exists()
