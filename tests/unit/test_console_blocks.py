"""Each command of the README and of docs runs as it stands and prints what is below it, or is listed with why not.

Every block says what it is: Python (test_code_blocks.py runs it), a console, TOML, or the text that a program printed.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import constann

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "conformance" / "data"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROMPT = re.compile(r"^(?:\w+)?\$ ")
KINDS = {"python", "console", "toml", "text"}

# Commands that begin so are not run here.
NOT_RUN = {
    "python with_": "tests/unit/test_examples.py runs examples/old_cpu.sh, which prints these lines",
    "pip install numpy": "asks a package index; the wheel that is tested was installed beside it by ci/test",
    "pip install --no-index": "tests/unit/test_installing.py installs from a folder of wheels",
    "pip install --dry-run": "tests/unit/test_installing.py asks so of a folder of wheels",
    "pip download": "asks a package index",
    "./ci/test": "it is what runs this test",
    "./ci/gate": "takes the better part of an hour; its stages are tested in tests/unit/test_gate.py",
    "../constann/ci/gate": "takes minutes; tests/unit/test_project.py gates a project on machines that stand in",
    "./ci/run wheels": "builds for minutes; tests/unit/test_wheels.py and test_foreign.py do",
    "./ci/run reproduce": "builds for minutes; tests/unit/test_reproduce.py does",
    "./ci/run audit": "of files that stand for the reader's own; tests/unit/test_audit.py audits such",
    "./ci/run macos": "of a wheel that is cross-compiled first; tests/unit/test_macos_kernels.py runs it",
}
# Where machines may differ, the command says so by its exit status, and that is no mistake in the page.
MAY_DIFFER = ("constann compare",)


class Command(NamedTuple):
    """A command, and the lines that stand below it."""

    line: str
    printed: list[str]


def real_slice(folder: Path) -> None:
    for name in ("gloss-vectors.npy", "gloss-queries.npy"):
        shutil.copy(DATA / name, folder)


def recordings(folder: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    np.save(folder / "v.npy", rows)
    np.save(folder / "q.npy", rows[:5])
    for name in ("edge", "cloud"):
        with constann.recording(folder / f"{name}.rec") as rec:
            rec.stage("2 embedding", rows)
            rec.neighbours("search", *constann.build(rows, kind="exact").search(rows[:5], 3))


# What a reader of the page has already.
BEFORE: dict[str, Callable[[Path], None]] = {"README.md": real_slice, "comparing.md": recordings}


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[Command]:
    found: list[Command] = []
    for kind, text in blocks(page):
        if kind != "console":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if PROMPT.match(line):
                found.append(Command(PROMPT.sub("", line), []))
            else:
                found[-1].printed.append(line)
    return found


def is_run(command: Command) -> bool:
    return not command.line.startswith(tuple(NOT_RUN))


def mistakes(command: Command, folder: Path) -> list[str]:
    """What is wrong with a command of a page, run in a folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.line],
        cwd=folder,
        env={**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(folder / "summary.md")},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = []
    if run.returncode not in ((0, 1) if command.line.startswith(MAY_DIFFER) else (0,)):
        wrong.append(f"{command.line}: exit status {run.returncode}: {run.stderr or run.stdout}")
    if command.printed and run.stdout.splitlines() != command.printed:
        wrong.append(f"{command.line}: prints\n{run.stdout}and the page says\n" + "\n".join(command.printed))
    return wrong


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(is_run, commands(page)))], ids=lambda page: page.name
)
def test_the_commands_of_the_page_run_and_print_what_it_says(page: Path, tmp_path: Path) -> None:
    BEFORE.get(page.name, lambda folder: None)(tmp_path)
    assert [wrong for command in commands(page) if is_run(command) for wrong in mistakes(command, tmp_path)] == []


def test_each_command_that_is_not_run_is_on_a_page() -> None:
    lines = [command.line for page in PAGES for command in commands(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


def test_the_tests_that_run_such_commands_instead_are_there() -> None:
    for reason in NOT_RUN.values():
        for name in re.findall(r"test_\w+\.py", reason):
            assert (ROOT / "tests" / "unit" / name).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_says_what_it_is(page: Path) -> None:
    assert {kind for kind, _ in blocks(page)} <= KINDS
    assert page.read_text().count("\n```") == 2 * len(blocks(page))
    for kind, text in blocks(page):
        if kind == "toml":
            tomllib.loads(text)
    outside = BLOCK.sub("", page.read_text())
    assert not re.search(r"(?:^|\n)\n    \S", outside), "a block without its kind, which nothing runs"


PLANTED = """
```console
$ constann build rows.npy rows.constann --kind exact --quiet
here$ python -c 'print(1); \\
  print(2)'
1
2
$ constann info no-such-file
$ echo one | cat
two
$ ./ci/test
```
"""


def test_a_command_that_fails_or_prints_something_else_is_found(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text(PLANTED)
    np.save(tmp_path / "rows.npy", np.eye(4, dtype=np.float32))
    assert [is_run(command) for command in commands(page)] == [True, True, True, True, False]
    wrong = [mistakes(command, tmp_path) for command in commands(page)[:4]]
    assert wrong[:2] == [[], []]
    assert "no-such-file" in wrong[2][0] and wrong[3] == ["echo one | cat: prints\none\nand the page says\ntwo"]
