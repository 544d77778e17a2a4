"""Lets recordings of machines that are not here join the gate, and says which promised machines nobody has recorded.

A recording proves its machine only where it was made with one of the wheels at hand and is of the same workload.
"""

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ci import matrix
from ci.platforms import Cell, Machine

_PROGRAM = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "recordings.py"
_TIMEOUT = 600.0


class RecordingsError(ValueError):
    """There are no such recordings; the text says what was looked for and where."""


@dataclass(frozen=True)
class Joined:
    """One recording: the cell that it fills, or why it fills none."""

    file: str
    cell: str = ""
    machine: str = ""
    """What it says of its machine."""
    problems: tuple[str, ...] = ()


@dataclass
class Elsewhere:
    """What became of all promised cells."""

    cells: Sequence[Cell]
    joined: list[Joined] = field(default_factory=list)

    @property
    def empty(self) -> list[Cell]:
        """The promised cells that no recording has proven."""
        proven = {each.cell for each in self.joined if not each.problems}
        return [cell for cell in self.cells if cell.name not in proven]

    def problems(self) -> list[str]:
        """One line for each fault of a recording."""
        return [f"{each.file}: {problem}" for each in self.joined for problem in each.problems]

    def remarks(self, wheels: Path) -> list[str]:
        """One line for each cell: what has proven it, or the command that would."""
        lines = [
            f"PROVEN {each.cell or 'a machine that nobody promised'}: {each.file}, recorded on {each.machine}, agrees"
            for each in self.joined
            if not each.problems
        ]
        return lines + [
            f"NOT PROVEN {cell.name}, {cell.what}: there, `{cell.run.format(wheels=wheels.name)}`; then here --with it"
            for cell in self.empty
        ]


def find(places: Iterable[Path]) -> list[Path]:
    """Return the recordings named, and all of folders that are."""
    found = []
    for place in places:
        if place.is_dir():
            inside = sorted(place.glob("*.rec"))
            if not inside:
                raise RecordingsError(f"{place} holds no recording (*.rec)")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise RecordingsError(f"there is no recording {place}")
    return found


def join(
    machines: matrix.Machines,
    machine: Machine,
    paths: Sequence[Path],
    wheels: Iterable[Path],
    *,
    cells: Sequence[Cell],
    output: Path,
) -> Elsewhere:
    """Compare recordings with one made on a machine here, and judge each.

    Parameters
    ----------
    machines, machine
        Where the comparison runs, with a wheel that answers as all others here.
    paths
        The recordings.
    wheels
        What they must have been made with: one of these.
    cells
        The promised machines.
    output
        A folder for what was compared; compared.html is for people.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="constann-recordings-") as work:
        Path(work).chmod(0o755)
        names = {}
        for number, path in enumerate(paths):
            name = path.name if path.name not in names else f"{path.stem}-{number}.rec"
            names[name] = path
            shutil.copy(path, Path(work) / name)
        mounts = {_PROGRAM: "/recordings.py:ro", Path(work): "/recordings:ro", output: "/output"}
        words = ["/recordings.py", "--recordings", "/recordings", "--output", "/output"]
        run = machines.run(machine, words, mounts, {}, _TIMEOUT)
    if not run.ok:
        raise RuntimeError(f"the recordings could not be compared on {machine.full_name}: {run.reason}{run.errors}")
    answer = json.loads((output / "compared.json").read_text())
    extensions = {digest for wheel in wheels for digest in _extensions(wheel)}
    return Elsewhere(cells, [judge(each, answer, cells, extensions) for each in answer["found"]])


def judge(found: dict[str, Any], here: dict[str, Any], cells: Sequence[Cell], extensions: Iterable[str]) -> Joined:
    """Say which cell a recording fills, and all that is wrong with it."""
    if "error" in found:
        return Joined(found["file"], problems=(found["error"],))
    facts = found["facts"]
    says = {name: str(facts.get(name, "")) for name in ("system", "architecture", "cpu")}
    cell = next(
        (each.name for each in cells if all(re.fullmatch(getattr(each, name), says[name]) for name in says)), ""
    )
    problems = []
    if found["workload"] != here["workload"] or found["stages"] != here["stages"]:
        problems.append("it is not of the standard workload of this version: make it anew with these wheels")
    elif not found["agrees"]:
        problems.append(f"it differs: {found['verdict']}")
    extension = facts.get("libraries", {}).get("_core", {}).get("sha256")
    if extension not in extensions:
        problems.append("it was made with another build, not with one of these wheels")
    problems += [f"it was made with a build {fault}" for fault in _unfit(facts)]
    return Joined(found["file"], cell, " ".join(says.values()), tuple(problems))


def _unfit(facts: dict[str, Any]) -> list[str]:
    found = []
    if facts.get("planted_faults"):
        found.append(f"with the planted fault {facts['planted_faults']}")
    if facts.get("tuned_for"):
        found.append(f"tuned for {facts['tuned_for']}")
    return found


def _extensions(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [sha256(archive.read(name)).hexdigest() for name in archive.namelist() if name.endswith(".so")]
