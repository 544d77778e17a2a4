"""The gate's negative controls: one machine at a time with a planted fault, which the matrix must name, and only it.

A control that passes is a defect of the gate, and fails it. They prove nothing about the library.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from ci import matrix
from ci.platforms import Machine, Platform, WheelKey
from ci.progress import say

LEAST_WITNESSES = 2  # so that the odd one out is known


@dataclass(frozen=True)
class Control:
    """A fault, the machine that has it, and words that the gate must say of that machine."""

    name: str
    victim: Machine
    complaint: str
    wheel: Mapping[str, str] = field(default_factory=dict)
    """CMake entries that plant the fault in the victim's wheel; empty for the true wheel."""
    changed_vector: bool = False
    """Whether the victim gets one different vector."""


@dataclass(frozen=True)
class Outcome:
    """What became of a control; it failed as it must where there are no problems."""

    control: Control
    problems: list[str]


Opener = Callable[[WheelKey, Mapping[str, str]], AbstractContextManager[matrix.Machines]]


def planned(rows: Sequence[Machine], platforms: Iterable[Platform]) -> list[Control]:
    """Choose the controls for these rows: one machine of each platform, native if there is one, gets the faults."""
    controls = []
    for platform in platforms:
        mine = [row for row in rows if row.platform == platform.name and row.kernels != "scalar" and not row.built_by]
        if not mine:
            continue
        victim = mine[0]
        if platform.architecture == "aarch64":
            # Arm compilers fuse by default; x86-64's only with FMA, which our builds never give them.
            entries = {"CONSTANN_PLANT_CONTRACTION": "ON"}
            controls.append(Control("kernels without -ffp-contract=off", victim, "distances.npy differs", entries))
        entries = {"CONSTANN_PLANT_LAST_BIT": str(victim.kernels)}
        controls.append(Control("a kernel wrong in its last bit", victim, "distances.npy differs", entries))
        controls.append(Control("one different vector", victim, ".constann differs", changed_vector=True))
        absent = replace(victim, model="no-such-cpu")
        controls.append(Control("a machine that cannot start", absent, "could not start"))
    return controls


def run_controls(
    controls: Sequence[Control],
    witnesses: Sequence[matrix.Row],
    data: matrix.Data,
    output: Path,
    open_machines: Opener,
) -> list[Outcome]:
    """Run each control beside rows without a fault, which have answered already; as many at a time as there are CPUs.

    Parameters
    ----------
    controls
        From `planned`.
    witnesses
        Rows that agree, of the same data.
    data
        What the witnesses built from.
    output
        A folder for what the victims answer.
    open_machines
        Gives machines on which one wheel was built with the given CMake entries; from several threads at once.
    """
    opened = ExitStack()  # closed where this is interrupted

    def run_some(numbered: Sequence[tuple[int, Control]]) -> list[Outcome]:
        """Run controls of one wheel one after another: it is installed once."""
        first = numbered[0][1]
        with open_machines(first.victim.wheel, first.wheel) as machines:
            opened.callback(machines.close)
            return [run_one(machines, number, control) for number, control in numbered]

    def run_one(machines: matrix.Machines, number: int, control: Control) -> Outcome:
        where = f"{control.name}, on {control.victim.full_name}"
        say(f"control, planting a fault: {where}")
        folder = output / str(number)
        given = _with_a_changed_vector(data, folder) if control.changed_vector else data
        outcome = judge(control, matrix.run_beside(machines, witnesses, control.victim, given, folder / "rows"))
        say(f"control, {where}: {'; '.join(outcome.problems) or 'found, as it must be'}")
        return outcome

    of_one_wheel = groupby(enumerate(controls), lambda numbered: (numbered[1].victim.wheel, numbered[1].wheel))
    groups = [list(group) for _, group in of_one_wheel]
    return list(chain.from_iterable(matrix.side_by_side(opened, groups, run_some)))


def judge(control: Control, rows: Sequence[matrix.Row]) -> Outcome:
    """Judge a control by its rows: the victim, the last of them, must be named for its fault, and no other machine."""
    *witnesses, victim = rows
    where = f"{control.name} on {control.victim.full_name}"
    problems = [f"{where}: {row.machine.full_name} was blamed too" for row in witnesses if not row.bits]
    if len(witnesses) < LEAST_WITNESSES:
        problems.append(f"{where}: there were only {len(witnesses)} machines to compare with")
    complaints = [victim.failure] if victim.failure else victim.differences
    if victim.machine != control.victim or not any(control.complaint in text for text in complaints):
        problems.append(f"{where} was not noticed; the gate said: {complaints[0] if complaints else 'nothing'}")
    return Outcome(control, problems)


def _with_a_changed_vector(data: matrix.Data, folder: Path) -> matrix.Data:
    """Copy the data with one bit of the first vector's first element flipped."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.load(data.vectors, mmap_mode="r").copy()
    first = vectors[0, :1].view(np.uint8)
    first[0] ^= 1
    np.save(folder / "vectors.npy", vectors)
    return replace(data, vectors=folder / "vectors.npy")
