"""Makes a package index of built wheels: static pages that any web server can hold, and one on this computer alone.

Publishes nothing, and changes no file that it lists: what is installed from it has the digests of what was built.
"""

import argparse
import hashlib
import html
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)

from ci import cache
from ci.progress import say

_JSON = "application/vnd.pypi.simple.v1+json"
_HTML_PAGE, _JSON_PAGE = "index.html", "index.v1_json"
_METADATA = ".metadata"
_SUFFIXES = (".whl", ".tar.gz")


class IndexPageError(ValueError):
    """The files cannot be made an index of; the text names the file."""


@dataclass(frozen=True)
class _Entry:
    """One file of a project, as an index lists it."""

    path: Path
    project: str
    version: str
    sha256: str
    requires_python: str | None
    metadata: bytes | None
    """The wheel's METADATA, which resolvers then need not open the wheel for; None for an sdist."""


def make_index(files: Sequence[Path], output: Path) -> list[str]:
    """Write the pages of a simple index (PEP 503, 658 and 691) with copies of the files.

    Parameters
    ----------
    files
        Wheels and sdists, of one project or several.
    output
        The index's root, which pip calls the index URL: made anew, or replaced if it is an index.

    Returns
    -------
    list of str
        The projects in it.

    Raises
    ------
    IndexPageError
        There are no files, one is no wheel or sdist, or `output` is a folder that holds something else.
    """
    if not files:
        raise IndexPageError("there are no wheels (*.whl) to make an index of")
    if output.exists() and any(output.iterdir()) and not (output / _JSON_PAGE).exists():
        raise IndexPageError(f"{output} is no index, and holds other things: name a new folder with --output")
    entries = [_read(path) for path in sorted(files, key=lambda path: path.name)]
    projects = sorted({entry.project for entry in entries})
    output.parent.mkdir(parents=True, exist_ok=True)
    with cache.whole(output.with_name(f"{output.name}.new")) as work:
        work.mkdir()
        _write_pages(
            work, "Simple index", [(f"{name}/", name, {}) for name in projects], {"projects": _names(projects)}
        )
        for project in projects:
            _write_project(work / project, project, [entry for entry in entries if entry.project == project])
    shutil.rmtree(output, ignore_errors=True)
    output.with_name(f"{output.name}.new").rename(output)
    return projects


def _names(projects: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": name} for name in projects]


def _read(path: Path) -> _Entry:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        if path.suffix == ".whl":
            name, wheel_version, _, _ = parse_wheel_filename(path.name)
            with zipfile.ZipFile(path) as archive:
                (member,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
                text = archive.read(member)
            return _Entry(path, name, str(wheel_version), digest, _requires_python(text), text)
        name, version = parse_sdist_filename(path.name)
        with tarfile.open(path) as sdist:
            information = sdist.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
            text = information.read() if information else b""
        return _Entry(path, name, str(version), digest, _requires_python(text), None)
    except (
        InvalidWheelFilename,
        InvalidSdistFilename,
        zipfile.BadZipFile,
        tarfile.TarError,
        ValueError,
        KeyError,
    ) as error:
        raise IndexPageError(f"{path} is no wheel or sdist: {error}") from None


def _requires_python(metadata: bytes) -> str | None:
    value = HeaderParser().parsestr(metadata.decode())["Requires-Python"]
    return str(value) if value else None


def _write_project(folder: Path, project: str, entries: Sequence[_Entry]) -> None:
    folder.mkdir()
    links, files = [], []
    for entry in entries:
        shutil.copyfile(entry.path, folder / entry.path.name)
        link = f"{quote(entry.path.name)}#sha256={entry.sha256}"
        attributes: dict[str, str] = {}
        described: dict[str, Any] = {
            "filename": entry.path.name,
            "url": quote(entry.path.name),
            "hashes": {"sha256": entry.sha256},
            "size": entry.path.stat().st_size,
        }
        if entry.requires_python:
            attributes["data-requires-python"] = described["requires-python"] = entry.requires_python
        if entry.metadata is not None:
            (folder / f"{entry.path.name}{_METADATA}").write_bytes(entry.metadata)
            digest = hashlib.sha256(entry.metadata).hexdigest()
            attributes["data-core-metadata"] = attributes["data-dist-info-metadata"] = f"sha256={digest}"
            described["core-metadata"] = {"sha256": digest}
        links.append((link, entry.path.name, attributes))
        files.append(described)
    versions = sorted({entry.version for entry in entries})
    _write_pages(folder, f"Links for {project}", links, {"name": project, "versions": versions, "files": files})


def _write_pages(
    folder: Path, title: str, links: Sequence[tuple[str, str, dict[str, str]]], content: dict[str, Any]
) -> None:
    """Write the page for people and old tools, and the one for new ones."""
    lines = ["<!DOCTYPE html>", '<html><head><meta name="pypi:repository-version" content="1.1">']
    lines.append(f"<title>{html.escape(title)}</title></head><body>")
    for target, text, attributes in links:
        more = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
        lines.append(f'<a href="{html.escape(target)}"{more}>{html.escape(text)}</a><br>')
    (folder / _HTML_PAGE).write_text("\n".join([*lines, "</body></html>", ""]))
    (folder / _JSON_PAGE).write_text(json.dumps({"meta": {"api-version": "1.1"}, **content}, indent=1) + "\n")


class _Handler(SimpleHTTPRequestHandler):
    """Serves one index: pages by what the client accepts, files as they are, and no listings."""

    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        translated = super().translate_path(path)
        page = Path(translated, _JSON_PAGE)
        if _JSON in self.headers.get("Accept", "") and path.endswith("/") and page.exists():
            return str(page)
        return translated

    def guess_type(self, path: Any) -> str:
        return _JSON if str(path).endswith(_JSON_PAGE) else super().guess_type(path)

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: resolvers ask often."""


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve an index to this computer alone (loopback); give its URL. Port 0 takes a free one."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def lines_for_users(url: str, project: str, version: str) -> str:
    """Return what to tell pip, uv and poetry so that this project comes from this index and from no other."""
    wanted = f"{project}=={version}"
    return f"""\
pip (what the project needs first, from where it usually comes):
  pip install --no-deps --index-url {url} {wanted}
uv, in pyproject.toml, and `{wanted}` under dependencies:
  [[tool.uv.index]]
  name = "{project}-wheels"
  url = "{url}"
  explicit = true
  [tool.uv.sources]
  {project} = {{ index = "{project}-wheels" }}
Poetry, in pyproject.toml (a page over HTTP: it takes no folder):
  [[tool.poetry.source]]
  name = "{project}-wheels"
  url = "{url}"
  priority = "explicit"
  [tool.poetry.dependencies]
  {project} = {{ version = "{version}", source = "{project}-wheels" }}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `./ci/run index`."""
    parser.add_argument("folder", type=Path, help="where the wheels and sdists are, such as dist")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the index's root (default: simple, in that folder)")
    parser.add_argument("--serve", action="store_true", help="serve it on this computer until Ctrl-C")
    parser.add_argument("--port", type=int, default=0, help="with --serve (default: a free one)")


def run(arguments: argparse.Namespace) -> int:
    """Make an index page of built wheels, and say how pip, uv and poetry use it; 0 unless there is nothing to list."""
    files = [path for path in arguments.folder.glob("*") if path.name.endswith(_SUFFIXES)]
    if not files:
        raise IndexPageError(f"{arguments.folder} holds no wheels (*.whl): ./ci/run wheels makes them")
    output: Path = arguments.output or arguments.folder / "simple"
    make_index(files, output)
    if not arguments.serve:
        _tell(output, output.resolve().as_uri() + "/")
        return 0
    with serving(output, arguments.port) as url, suppress(KeyboardInterrupt):
        _tell(output, url)
        say("serving until Ctrl-C")
        threading.Event().wait()
    return 0


def _tell(output: Path, url: str) -> None:
    for page in sorted(output.glob(f"*/{_JSON_PAGE}")):
        content = json.loads(page.read_text())
        print(f"{content['name']}: {len(content['files'])} files in {output}")
        for version in content["versions"]:
            print(lines_for_users(url, content["name"], version))
