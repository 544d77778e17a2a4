"""What the gate says in the end: tables, failures, what was not proven, the verdict. It judges nothing itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ci import matrix

_FACTS = ("machine", "how", "CPU features", "kernels")
_MEASURES = ("fingerprints", "ids", "distances", "max |Δ|", "ULP", "allclose")

# The features that part CPU models from each other, of all that the process read.
_TELLING = ("ssse3", "sse4_2", "avx", "avx2", "fma", "avx512f", "atomics", "asimddp", "sve")


@dataclass
class Report:
    """All that a gate found, ready to be shown and kept."""

    data: list[str]
    wheels: list[str]
    stages: Mapping[str, Sequence[matrix.Row]]
    problems: list[str] = field(default_factory=list)
    """What failed besides rows."""
    remarks: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every row agrees and nothing else failed; no rows at all is a failure."""
        rows = [row for rows in self.stages.values() for row in rows]
        return bool(rows) and all(row.bits for row in rows) and not self.problems

    def failures(self) -> list[str]:
        """Every failure in one line, rows first."""
        lines = []
        for name, rows in self.stages.items():
            for row in rows:
                found = [row.failure] if row.failure else row.differences
                lines += [f"{row.machine.full_name} ({name}): {text}" for text in found]
        return lines + self.problems

    def show(self, folder: Path) -> None:
        """Print it, and keep it in `folder` as gate.txt and gate.json."""
        console = Console(record=True, width=150)
        for line in [*(f"data   {text}" for text in self.data), *(f"wheel  {text}" for text in self.wheels)]:
            console.print(Text(line), soft_wrap=True)
        for name, rows in self.stages.items():
            console.print(_table(name, rows))
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
            "wheels": self.wheels,
            "failures": self.failures(),
            "remarks": self.remarks,
            "stages": stages,
        }


def _row_as_json(row: matrix.Row) -> dict[str, Any]:
    return {
        "machine": row.machine.full_name,
        "emulated": row.emulated,
        "runs": row.runs,
        "bits": row.bits,
        "failure": row.failure,
        "differences": row.differences,
        "largest_delta": row.largest_delta,
        "largest_ulp": row.largest_ulp,
        "allclose": row.allclose,
        "answers": row.answers,
    }


def _table(name: str, rows: Sequence[matrix.Row]) -> Table:
    counts = {row.answers["rows"] for row in rows if row.answers}
    title = f"{name}: {' or '.join(f'{count:,}' for count in sorted(counts)) or 'no'} rows"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in (*_FACTS, *_MEASURES, "runs", "bits"):
        table.add_column(heading, no_wrap=heading != "CPU features", overflow="fold")
    for row in rows:
        facts = row.answers["facts"] if row.answers else {}
        features = " ".join(each for each in _TELLING if each in facts.get("cpu_features", [])) or "(baseline)"
        table.add_row(
            row.machine.full_name,
            "emulated" if row.emulated else "native",
            features if facts else "-",
            facts.get("kernels", "-"),
            *_measured(row),
            "yes" if row.runs else "NO",
            "yes" if row.bits else "NO",
        )
    return table


def _measured(row: matrix.Row) -> tuple[str, ...]:
    if not row.runs:
        return ("-",) * len(_MEASURES)
    digests = tuple(row.digest(suffix)[:10] for suffix in (".constann", ".ids.npy", ".distances.npy"))
    return (*digests, f"{row.largest_delta:.3g}", str(row.largest_ulp), "yes" if row.allclose else "NO")
