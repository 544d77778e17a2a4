"""docs/errors.md quotes messages as they are: Constann's own occur in the sources, and no family of them is missing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text()
OWN_PARTS = ("## Kernels", "## Index files")
# Calls that raise a FileFormatError with the text they are given.
RAISING = re.compile(r"\b(?:FormatError|refuse|expect)\((.*?)\);", re.DOTALL)
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


def headings(text: str) -> list[str]:
    """The messages quoted in the headings of a part of the page."""
    return [
        quoted for line in text.splitlines() if line.startswith("### ") for quoted in re.findall(r"`([^`]*)`", line)
    ]


def own_headings(page: str) -> list[str]:
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return [each for part in parts if part.startswith(OWN_PARTS) for each in headings(part)]


def fragments(quoted: str) -> list[str]:
    return [part.strip(" '") for part in quoted.split("…") if len(part.strip(" '")) > 2]


def literals(path: Path) -> list[str]:
    """The strings of a source file; of an f-string what stands between its values."""
    text = path.read_text()
    if path.suffix == ".py":
        return [
            node.value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    return [found.replace('\\"', '"') for found in LITERAL.findall(text)]


def sources() -> list[Path]:
    found = [*(ROOT / "cpp").rglob("*.cpp"), *(ROOT / "python").rglob("*.py")]
    assert found
    return found


def not_in_sources(quoted: list[str]) -> list[str]:
    known = "\n".join(each for path in sources() for each in literals(path))
    return [part for each in quoted for part in fragments(each) if part not in known]


def families_in_cpp(text: str) -> Iterator[str]:
    """Each message, with … for what is put in."""
    for arguments in RAISING.findall(text):
        message = "…".join(each.replace('\\"', '"') for each in LITERAL.findall(arguments))
        # One without words of its own only joins others.
        if re.search("[a-z]", message):
            yield message


def families_in_python(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "FileFormatError"):
            continue
        strings = [each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
        if any(re.search("[a-z]", each) for each in strings):
            yield "…".join(strings)


def families() -> set[str]:
    found = set()
    for path in (ROOT / "cpp").rglob("*.cpp"):
        text = path.read_text()
        # Other files have a refuse() of their own, for other errors.
        if "FormatError" in text:
            found |= set(families_in_cpp(text))
    for path in (ROOT / "python").rglob("*.py"):
        found |= set(families_in_python(path.read_text()))
    return found


def undocumented(all_families: set[str], page: str) -> list[str]:
    """Those that no heading quotes, from their beginning on."""
    known = [".*".join(re.escape(part) for part in fragments(quoted)) for quoted in own_headings(page)]
    return sorted(family for family in all_families if not any(re.match(quoted, family) for quoted in known if quoted))


def test_each_own_message_that_the_page_quotes_is_in_the_sources() -> None:
    quoted = own_headings(PAGE)
    assert len(quoted) > 20
    assert not_in_sources(quoted) == []


@pytest.mark.parametrize("invented", ["the file is `rotten`", "there are no kernels called '…'"])
def test_a_message_that_is_not_in_the_sources_is_found(invented: str) -> None:
    assert not_in_sources([invented]) != []


def test_each_family_of_format_errors_is_on_the_page() -> None:
    found = families()
    assert len(found) > 20, found
    assert undocumented(found, PAGE) == []


def test_a_family_that_is_not_on_the_page_is_found() -> None:
    assert undocumented({"the file smells"}, PAGE) == ["the file smells"]
    without = PAGE.replace("`the file is empty`", "")
    assert undocumented(families(), without) == ["the file is empty"]


def test_raised_texts_are_found_wherever_they_stand() -> None:
    cpp = """throw file::FormatError("one " +
        std::to_string(x) + " more"); if (a) refuse("two", b);
        expect(reader, 1, "three:");"""
    assert list(families_in_cpp(cpp)) == ["one … more", "two", "three:"]
    python = """
raise FileFormatError(f"four {x} more")
raise FileFormatError(f"{path}: {error}")
raise FileFormatError("five")"""
    assert list(families_in_python(python)) == ["four … more", "five"]


def test_the_page_has_what_people_paste() -> None:
    text = "\n".join(headings(PAGE))
    for message in [
        "Illegal instruction (core dumped)",
        "SIGILL",
        "Exec format error",
        "Unable to find installation candidates for constann",
        "No matching distribution found",
        "GLIBC_2.",
        "multiarray failed to import",
        "there are no kernels named",
        "this CPU cannot run the kernels",
        "CONSTANN_KERNELS",
    ]:
        assert message in text
    assert "exit code 132" in PAGE


def test_every_section_says_what_to_do() -> None:
    sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    idle = [
        section.splitlines()[0] for section in sections if not re.search(r"\*\*Fix|`pip|`unset|`verify=True`", section)
    ]
    assert idle == []
