"""An index page lists what was built with its digests, to old tools and new, and gives nothing else away."""

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from stand_in_wheels import METADATA, stand_ins

from ci import index_page
from ci.__main__ import main

JSON = "application/vnd.pypi.simple.v1+json"


class Links(HTMLParser):
    """The links of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attributes))


def get(url: str, accept: str = "text/html") -> tuple[str, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as answer:
        return answer.headers["Content-Type"], answer.read()


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    return stand_ins(tmp_path)


@pytest.fixture
def url(tmp_path: Path, wheels: list[Path]) -> Iterator[str]:
    assert index_page.make_index(wheels, tmp_path / "simple") == ["constann"]
    with index_page.serving(tmp_path / "simple") as found:
        yield found


def test_both_kinds_of_page_list_the_same_files_and_digests(url: str, wheels: list[Path]) -> None:
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    kind, text = get(f"{url}constann/")
    links = Links(text.decode()).found
    assert kind.startswith("text/html")
    assert [link["data-requires-python"] for link in links] == [">=3.11"] * len(wheels)
    targets = [str(link["href"]).partition("#sha256=") for link in links]
    assert {name: digest for name, _, digest in targets} == expected
    kind, text = get(f"{url}constann/", JSON)
    assert kind == JSON
    assert {file["filename"]: file["hashes"]["sha256"] for file in json.loads(text)["files"]} == expected
    assert json.loads(get(url, f"{JSON}, text/html;q=0.1")[1])["projects"] == [{"name": "constann"}]


def test_files_and_their_metadata_are_served_as_they_are(url: str, wheels: list[Path]) -> None:
    for file in json.loads(get(f"{url}constann/", JSON)[1])["files"]:
        content = get(f"{url}constann/{file['url']}")[1]
        assert hashlib.sha256(content).hexdigest() == file["hashes"]["sha256"]
        metadata = get(f"{url}constann/{file['url']}.metadata")[1]
        assert metadata.decode() == METADATA.format(version="0.1.0")
        assert hashlib.sha256(metadata).hexdigest() == file["core-metadata"]["sha256"]


@pytest.mark.parametrize("path", ["numpy/", "../", "%2e%2e/", "..%2fsecret", "constann/other.whl"])
def test_nothing_else_is_served(url: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    try:
        assert b"constann" in get(url + path)[1] and b"secret" not in get(url + path)[1], "only the index itself"
    except urllib.error.HTTPError as error:
        error.close()
        assert error.code == 404


def test_an_index_is_replaced_whole_and_nothing_else_is(tmp_path: Path, wheels: list[Path]) -> None:
    index = tmp_path / "simple"
    index_page.make_index(wheels, index)
    index_page.make_index(wheels[:1], index)
    assert [path.name for path in (index / "constann").glob("*.whl")] == [wheels[0].name]
    with pytest.raises(index_page.IndexPageError, match="is no index, and holds other things"):
        index_page.make_index(wheels, tmp_path)


@pytest.mark.parametrize("name", ["constann.whl", "constann-0.1.0-py3-none-any.whl", "constann-0.1.0.tar.gz"])
def test_a_file_that_is_no_package_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no archive")
    with pytest.raises(index_page.IndexPageError, match=f"{name} is no wheel or sdist"):
        index_page.make_index([tmp_path / name], tmp_path / "simple")


def test_the_command_says_what_to_tell_each_installer(
    tmp_path: Path, wheels: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{len(wheels)} files" in said and f"--index-url {(tmp_path / 'simple').as_uri()}/ constann==0.1.0" in said
    assert "explicit = true" in said and 'priority = "explicit"' in said
    (tmp_path / "empty").mkdir()
    assert main(["index", str(tmp_path / "empty")]) == 2
    assert "holds no wheels" in capsys.readouterr().err
