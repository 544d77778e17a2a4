"""The gate for any project with a compiled extension: its wheels, their audit, machines, and which machines disagree.

It reads [tool.gate] of the project's pyproject.toml, and builds with ci/foreign.py. Of Constann it uses what compares
recordings, and nothing else.
"""

import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ci import foreign, matrix, wheels
from ci.machines import Run
from ci.platforms import Machine, Platform, WheelKey
from ci.progress import say
from ci.wheel_file import Wheel, WheelError

_ROOT = Path(__file__).resolve().parent.parent
_PROGRAM = _ROOT / "tests" / "conformance" / "project.py"
_RECORDER = _ROOT / "python" / "constann" / "recorder.py"
_TIMEOUT = 600.0


class ProjectError(ValueError):
    """[tool.gate] says something we cannot use; the text names the file and the key."""


@dataclass(frozen=True)
class Settings:
    """What [tool.gate] says."""

    workload: str
    """FILE.py:FUNCTION, the file from the project's folder; the function takes nothing and returns named arrays."""
    platforms: tuple[str, ...] = ()
    """Of platforms/; empty: all whose machines can be had."""
    pythons: tuple[str, ...] = ("3.11",)
    sources: str = "."
    """The folder with the sources, or NAME==VERSION of a package index's sdist."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Switches for the project's own build."""
    asks_first: bool = False
    """Whether it asks the CPU before it runs instructions beyond the baseline."""
    atol: float = 0.0
    """How far numbers may lie apart and still agree, with `rtol`; by default every bit counts."""
    rtol: float = 0.0


@dataclass
class Result:
    """What a project's gate found."""

    name: str
    wheels: list[foreign.Built] = field(default_factory=list)
    runs: list[tuple[Machine, Run]] = field(default_factory=list)
    compared: Any = None
    """A `constann.comparison.Comparison` of the machines that answered; None where fewer than two did."""
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every machine answered, all agree, and nothing else is wrong."""
        return not self.problems and self.compared is not None and bool(self.compared.agrees)


def read_settings(folder: Path, known: Mapping[str, Platform]) -> Settings:
    """Read [tool.gate].

    Raises
    ------
    ProjectError
        There is none, or it says something we cannot use.
    """
    path = folder / "pyproject.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("gate")
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path}: {error}") from None
    if not isinstance(table, dict):
        raise ProjectError(f"{path} has no [tool.gate]: docs/gate.md says what it holds")
    given: dict[str, Any] = {
        key.replace("-", "_"): tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    kinds: dict[str, Any] = {"workload": str, "sources": str, "env": dict, "asks_first": bool, "atol": (int, float)}
    kinds |= {"rtol": (int, float), "platforms": tuple, "pythons": tuple}
    if unknown := sorted(given.keys() - {each.name for each in fields(Settings)}):
        raise ProjectError(f"{path}: [tool.gate]: unknown key {unknown[0]!r}; known: {', '.join(sorted(kinds))}")
    for key, value in given.items():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
        if not isinstance(value, kinds[key]) or not all(isinstance(each, str) for each in items):
            raise ProjectError(f"{path}: [tool.gate]: {key}: not {value!r}")
    if "workload" not in given:
        raise ProjectError(f"{path}: [tool.gate]: the key 'workload' is missing: FILE.py:FUNCTION")
    settings = Settings(**given)
    file, _, function = settings.workload.partition(":")
    if not function or not (folder / file).is_file():
        raise ProjectError(f"{path}: [tool.gate]: workload: {settings.workload!r} is no FILE.py:FUNCTION of {folder}")
    if wrong := [name for name in settings.platforms if name not in known]:
        raise ProjectError(f"{path}: [tool.gate]: platforms: no {wrong[0]!r}; there are: {', '.join(known)}")
    return settings


def build(folder: Path, settings: Settings, known: Mapping[str, Platform], output: Path, result: Result) -> None:
    """Build and audit the wheels; what goes wrong is the result's."""
    source = settings.sources if "==" in settings.sources else str((folder / settings.sources).resolve())
    targets = [known[name] for name in settings.platforms or known]
    try:
        result.wheels = foreign.build(
            source, targets, settings.pythons, output, switches=settings.env, asks_first=settings.asks_first
        )
    except WheelError as error:
        result.problems.append(str(error))


def rows_of(settings: Settings, platform: Platform, architecture: str) -> list[Machine]:
    """Return a platform's machines that run a project's wheel: each CPU, Python and numpy, but no way of ours to it."""
    return [
        row
        for row in platform.machines
        if not (row.built_by or row.forced or row.threads)
        and row.python in settings.pythons
        and (row.model is not None or platform.architecture == architecture)
    ]


def run_machines(
    machines: matrix.Machines,
    rows: Sequence[Machine],
    folder: Path,
    settings: Settings,
    *,
    output: Path,
    result: Result,
) -> None:
    """Run the workload on every machine, and compare the arrays of those that answered."""
    comparison = _comparison()

    def run(machine: Machine) -> tuple[Machine, Run]:
        place = output / machine.full_name
        place.mkdir(parents=True, exist_ok=True)
        mounts = {_PROGRAM: "/project.py:ro", _RECORDER: "/recorder.py:ro", folder: "/project:ro", place: "/output"}
        words = ["/project.py", "--project", "/project", "--workload", settings.workload, "--output", "/output"]
        done = machines.run(machine, [*words, "--recorder", "/recorder.py"], mounts, {}, _TIMEOUT)
        say(f"{machine.full_name}: {done.reason or done.output.strip() or 'nothing said'}")
        return machine, done

    result.runs = matrix.side_by_side(machines, rows, run)
    recorded = []
    for machine, done in result.runs:
        path = output / machine.full_name / "answers.rec"
        if done.ok and path.exists():
            recorded.append(comparison.read(path, machine.full_name))
        else:
            result.problems.append(f"{machine.full_name}: {done.outcome}: {done.reason or 'it wrote no answers'}")
    if len(recorded) < 2:
        result.problems.append(f"{len(recorded)} machines answered, and it takes two to compare")
        return
    rules = (("*", "atol", settings.atol), ("*", "rtol", settings.rtol))
    result.compared = comparison.compare(recorded, comparison.Tolerances(rules))


def show(result: Result, folder: Path) -> None:
    """Print the outcome, and leave it in the folder as gate.txt and, on one page, gate.html."""
    comparison = _comparison()
    console = Console(record=True, width=150, highlight=False, markup=False)
    if result.wheels:
        table = Table(title="wheels", title_justify="left", box=None, pad_edge=False)
        for heading in _WHEEL:
            table.add_column(heading, overflow="fold")
        for built in result.wheels:
            table.add_row(*_wheel_row(built))
        console.print(table)
        for line in foreign.remarks(result.wheels):
            console.print(line, soft_wrap=True)
    for machine, run in result.runs:
        console.print(f"{machine.full_name:32} {'answered' if run.ok else f'FAILED: {run.reason}'}", soft_wrap=True)
    if result.compared is not None:
        console.print(comparison.text(result.compared), soft_wrap=True)
        (folder / "gate.xml").write_text(comparison.junit(result.compared), encoding="utf-8")
    for problem in result.problems:
        console.print(f"FAILED {problem}", soft_wrap=True)
    console.print(f"verdict: {'PASS' if result.passed else 'FAIL'}")
    (folder / "gate.txt").write_text(console.export_text())
    (folder / "gate.html").write_text(_page(result), encoding="utf-8")


def _page(result: Result) -> str:
    """Return the page of the comparison with the wheels before it; where nothing was compared, the wheels alone."""
    title = f"The gate of {result.name}"
    if result.compared is not None:
        page: str = _comparison().html(result.compared, title)
        return page.replace("<main>", f"<main>{_section(result)}", 1)
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
    said = f"<h1>{escape(title)}: no machines were compared</h1>"
    return f"{head}<body>{said}<main>{_section(result)}</main></body></html>\n"


_WHEEL = ("platform", "Python", "wheel", "SHA-256", "audit")


def _wheel_row(built: foreign.Built) -> tuple[str, ...]:
    wheel: Wheel = built.wheel
    row = wheels.row_of(built.target, wheel, "")
    faults = "; ".join(built.verdict.faults)
    return built.target.name, built.version, wheel.path.name, wheel.sha256, faults or f"no fault; {row[5]}"


def _section(result: Result) -> str:
    """Return the part of the page that tells of wheels, and of machines that did not answer."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in _WHEEL)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(each)}</td>" for each in _wheel_row(built)) + "</tr>" for built in result.wheels
    )
    notes = [*foreign.remarks(result.wheels), *(f"FAILED {problem}" for problem in result.problems)]
    listed = "".join(f"<li>{escape(each)}</li>" for each in notes)
    return (
        '<section aria-labelledby="wheels"><h2 id="wheels">Wheels and their audit</h2>'
        f'<div class="scroll"><table class="facts"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{f'<ul>{listed}</ul>' if listed else ''}</section>"
    )


def built_wheels(result: Result) -> dict[WheelKey, Path]:
    """Return the wheels as machines take them."""
    return {WheelKey(each.target.name, each.version): each.wheel.path for each in result.wheels}


def _comparison() -> Any:
    """Return what compares recordings: pure Python, from the checkout where Constann is not installed."""
    try:
        return import_module("constann.comparison")
    except ModuleNotFoundError:
        sys.path.append(str(_ROOT / "python"))
        return import_module("constann.comparison")
