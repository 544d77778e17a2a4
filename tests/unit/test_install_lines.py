"""Until the name is ours on PyPI, nothing tells anybody to install it from there: somebody else may hold the name."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALLER = re.compile(
    r"\b(?:pip3?|pipx|uv|uvx|poetry|pdm|conda|mamba)\b[^\n;&|]*?\b(?:install|add|download|wheel|inject|--with)\b(?P<rest>[^\n;&|`]*)"
    r"|\b(?:pipx run|uvx|uv tool run)\b(?P<run>[^\n;&|`]*)"
)
# The project's name as an installer would take it: alone, with extras or with a version; not a path or a file.
NAME = re.compile(r"""(?<![\w./\\-])constann(?:\[[\w,\s-]*\])?(?:\s*[=<>~!]=?[^\s'"`]*)?(?=['"`)\s,.:]|$)""", re.I)
SAFE = ("--no-index", "--index-url", "--default-index")


def bare_lines(text: str) -> list[str]:
    """Commands that would fetch our name from wherever an installer looks by default."""
    found = []
    for match in INSTALLER.finditer(text.replace("\\\n", " ")):
        rest = match["rest"] or match["run"] or ""
        # What is not an argument any more: an option's value, the end of the command's quotation.
        arguments = re.sub(r"""--(?:no-binary|only-binary|group)[\s"',=]+\S+""", "", rest)
        if NAME.search(arguments) and not any(option in match[0] for option in SAFE):
            found.append(match[0])
    return found


def texts() -> Iterator[tuple[str, str]]:
    """What people read: files as they are, and the strings of Python joined as they are printed."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in names.stdout.splitlines():
        path = ROOT / name
        if name.startswith("tests/") or not path.is_file() or path.suffix in (".npy", ".tsv", ".constann"):
            continue
        text = path.read_text(errors="replace")
        yield name, text
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield name, node.value


def test_no_line_installs_the_name_from_an_index_that_is_not_ours() -> None:
    every = list(texts())
    names = {name for name, _ in every}
    assert {"README.md", "docs/errors.md", "python/constann/__main__.py", "examples/docker/Dockerfile"} <= names
    assert [(name, line) for name, text in every for line in bare_lines(text)] == []


@pytest.mark.parametrize(
    "line",
    [
        "pip install constann",
        "pip install 'constann[cli]'",
        "python -m pip install --force-reinstall --no-deps constann (or the path of a wheel)",
        "pip install numpy constann==0.1.0",
        "pip install -U \\\n  constann>=0.1",
        "uv add constann",
        "uv pip install constann",
        "uvx constann doctor",
        "poetry add constann",
        "pipx install constann.",
        "RUN pip install --no-cache-dir constann",
        "pip download --no-deps --only-binary :all: constann",
    ],
)
def test_a_bare_line_is_found(line: str) -> None:
    assert bare_lines(line)


@pytest.mark.parametrize(
    "line",
    [
        "pip install --no-index --find-links dist --no-deps constann==0.1.0",
        "pip install --no-deps --index-url URL constann==0.1.0",
        "pip install ./constann-0.1.0-cp311-cp311-macosx_11_0_arm64.whl",
        "pip install --no-binary constann dist/constann-0.1.0.tar.gz",
        "pip install .",
        "pip install click rich",
        "pip install --no-build-isolation -C build-dir=/tmp/constann-build .",
    ],
)
def test_an_exact_file_or_an_index_of_ones_own_is_no_bare_line(line: str) -> None:
    assert bare_lines(line) == []
