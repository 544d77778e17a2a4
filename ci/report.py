"""What the gate says in the end: tables, failures, what was not proven, the verdict. It judges nothing itself."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ci import matrix
from ci.platforms import WheelKey

_FACTS = ("machine", "how", "CPU features", "kernels")
_MEASURES = ("fingerprints", "ids", "distances", "max |Δ|", "ULP", "allclose")

# The features that part CPU models from each other, of all that the process read.
_TELLING = ("ssse3", "sse4_2", "avx", "avx2", "fma", "avx512f", "atomics", "asimddp", "sve")


@dataclass
class Check:
    """What became of one stage of the gate."""

    name: str
    shows: str
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Note how long it takes."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds = time.monotonic() - begin


@dataclass(frozen=True)
class WheelLine:
    """One wheel of a release, and how it was proven; without a file it was not built here."""

    key: WheelKey
    path: Path | None
    proof: str

    def as_json(self) -> dict[str, Any]:
        """Return all of it, with the digest of the file."""
        known = {"platform": self.key.platform, "python": self.key.python, "built_by": self.key.built_by}
        if self.path is None:
            return {**known, "proof": self.proof}
        content = self.path.read_bytes()
        facts = {"file": self.path.name, "size": len(content), "sha256": sha256(content).hexdigest()}
        return {**known, **facts, "proof": self.proof}


@dataclass
class Grid:
    """A table, whatever it is written as."""

    title: str
    headings: Sequence[str]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    numbers: Sequence[str] = ()
    folded: Sequence[str] = ()
    """Columns that may be wrapped; where none is named, all."""


@dataclass
class Report:
    """All that a gate found, ready to be shown and kept."""

    data: list[str]
    stages: Mapping[str, Sequence[matrix.Row]]
    wheels: list[WheelLine] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    rows_wanted: bool = True
    """Whether machines were to run at all: then no rows are a failure."""
    problems: list[str] = field(default_factory=list)
    """What failed besides rows."""
    remarks: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every row agrees and nothing else failed; no rows at all is a failure where any were wanted."""
        rows = [row for rows in self.stages.values() for row in rows]
        ran = bool(rows) or not self.rows_wanted
        return (
            ran
            and all(row.bits for row in rows)
            and not any(each.problems for each in self.checks)
            and not self.problems
        )

    def failures(self) -> list[str]:
        """Every failure in one line, rows first, then stages."""
        lines = []
        for name, rows in self.stages.items():
            for row in rows:
                found = [row.failure] if row.failure else row.differences
                lines += [f"{row.machine.full_name} ({name}): {text}" for text in found]
        lines += [f"{check.name}: {problem}" for check in self.checks for problem in check.problems]
        return lines + self.problems

    def show(self, folder: Path) -> None:
        """Print it, and keep it in `folder` as gate.txt and gate.json."""
        console = Console(record=True, width=180)
        for line in self.data:
            console.print(Text(f"data   {line}"), soft_wrap=True)
        for grid in grids(self):
            console.print(_as_table(grid))
        for line in [*(f"FAILED {text}" for text in self.failures()), *self.remarks]:
            console.print(Text(line), soft_wrap=True)
        console.print("verdict: " + ("PASS" if self.passed else "FAIL"))
        (folder / "gate.txt").write_text(console.export_text())
        (folder / "gate.json").write_text(json.dumps(self._as_json(), indent=1))

    def _as_json(self) -> dict[str, Any]:
        stages = {name: [_row_as_json(row) for row in rows] for name, rows in self.stages.items()}
        return {
            "passed": self.passed,
            "data": self.data,
            "wheels": [line.as_json() for line in self.wheels],
            "checks": [
                {"stage": each.name, "problems": each.problems, "seconds": round(each.seconds, 1)}
                for each in self.checks
            ],
            "failures": self.failures(),
            "remarks": self.remarks,
            "stages": stages,
        }


def _row_as_json(row: matrix.Row) -> dict[str, Any]:
    return {
        "machine": row.machine.full_name,
        "emulated": row.emulated,
        "kept": row.kept,
        "runs": row.runs,
        "bits": row.bits,
        "failure": row.failure,
        "differences": row.differences,
        "largest_delta": row.largest_delta,
        "largest_ulp": row.largest_ulp,
        "allclose": row.allclose,
        "answers": row.answers,
    }


def grids(report: Report) -> list[Grid]:
    """Return all tables of a report: wheels, rows, stages."""
    found = [_wheels(report.wheels)] if report.wheels else []
    found += [_rows(name, rows) for name, rows in report.stages.items()]
    return found + ([_checks(report.checks)] if report.checks else [])


def _wheels(lines: Sequence[WheelLine]) -> Grid:
    grid = Grid("", ("wheel for", "Python", "by", "size", "SHA-256", "proof"), numbers=("size",))
    for line in lines:
        facts = line.as_json()
        size = f"{facts['size']:,}" if "size" in facts else "-"
        by = line.key.built_by or ("cross-compiler" if line.path else "-")
        grid.rows.append((line.key.platform, line.key.python, by, size, facts.get("sha256", "-"), line.proof))
    return grid


def _checks(checks: Sequence[Check]) -> Grid:
    grid = Grid("", ("stage", "shows", "seconds", "verdict"), numbers=("seconds",))
    for each in checks:
        verdict = f"FAIL ({len(each.problems)})" if each.problems else "pass"
        grid.rows.append((each.name, each.shows, f"{each.seconds:.0f}", verdict))
    return grid


def _rows(name: str, rows: Sequence[matrix.Row]) -> Grid:
    counts = {row.answers["rows"] for row in rows if row.answers}
    title = f"{name}: {' or '.join(f'{count:,}' for count in sorted(counts)) or 'no'} rows"
    grid = Grid(title, (*_FACTS, *_MEASURES, "runs", "bits"), folded=("CPU features",))
    for row in rows:
        facts = row.answers["facts"] if row.answers else {}
        features = " ".join(each for each in _TELLING if each in facts.get("cpu_features", [])) or "(baseline)"
        grid.rows.append(
            (
                row.machine.full_name,
                ("emulated" if row.emulated else "native") + (", kept" if row.kept else ""),
                features if facts else "-",
                facts.get("kernels", "-"),
                *_measured(row),
                "yes" if row.runs else "NO",
                "yes" if row.bits else "NO",
            )
        )
    return grid


def _as_table(grid: Grid) -> Table:
    table = Table(title=grid.title or None, title_justify="left", box=None, pad_edge=False)
    for heading in grid.headings:
        fixed = bool(grid.folded) and heading not in grid.folded
        justify: Literal["left", "right"] = "right" if heading in grid.numbers else "left"
        table.add_column(heading, overflow="fold", no_wrap=fixed, justify=justify)
    for row in grid.rows:
        table.add_row(*row)
    return table


def _measured(row: matrix.Row) -> tuple[str, ...]:
    if not row.runs:
        return ("-",) * len(_MEASURES)
    digests = tuple(row.digest(suffix)[:10] for suffix in (".constann", ".ids.npy", ".distances.npy"))
    return (*digests, f"{row.largest_delta:.3g}", str(row.largest_ulp), "yes" if row.allclose else "NO")
