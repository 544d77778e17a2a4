"""The documentation site builds without a warning, and a broken link is one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci.site_links import without_links_outside

ROOT = Path(__file__).resolve().parents[2]


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", root / "mkdocs.yml", "-d", site]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for name in ("docs", "ci", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_site_builds_without_a_warning(copied: Path) -> None:
    built = build(copied, copied / "site")
    assert built.returncode == 0, built.stderr
    reference = (copied / "site" / "reference" / "index.html").read_text()
    for name in ("constann.build", "constann.Index.search", "constann.PairMap.get", "constann.PairMap.from_csv"):
        assert f'id="{name}"' in reference, name
    assert "what is not there is not inserted" in reference
    assert "https://fonts" not in reference


@pytest.mark.slow
def test_a_broken_link_stops_the_build(copied: Path) -> None:
    with (copied / "docs" / "memory.md").open("a") as page:
        page.write("\n[gone](../examples/gone.py)\n")
    assert build(copied, copied / "site").returncode != 0


def test_only_links_to_files_that_are_there_become_names() -> None:
    assert without_links_outside("[`examples/quickstart.py`](../examples/quickstart.py)") == "`examples/quickstart.py`"
    assert without_links_outside("[it](../README.md)") == "it (`README.md`)"
    for kept in ("[it](../gone.md)", "[it](memory.md)", "[it](../../etc/passwd)"):
        assert without_links_outside(kept) == kept


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f": {page.name}\n" not in navigation] == []
