"""The gate's negative controls: one machine at a time with a planted fault, which the matrix must name, and only it.

A control that passes is a defect of the gate, and fails it. They prove nothing about the library.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ci import matrix
from ci.platforms import Machine, Platform
from ci.progress import say

ROWS = 500
LEAST_WITNESSES = 2  # so that the odd one out is known


@dataclass(frozen=True)
class Control:
    """A fault, the machine that has it, and words that the gate must say of that machine."""

    name: str
    victim: Machine
    complaint: str
    wheel: Mapping[str, str] = field(default_factory=dict)
    """CMake entries that plant the fault in the wheel of the victim's platform; empty for the true wheel."""
    changed_vector: bool = False
    """Whether the victim gets one different vector."""


@dataclass(frozen=True)
class Outcome:
    """What became of a control; it failed as it must where there are no problems."""

    control: Control
    problems: list[str]


def planned(rows: Sequence[Machine], platforms: Mapping[str, Platform]) -> list[Control]:
    """Choose the controls for these rows: one emulated machine of each platform gets the faults."""
    controls = []
    for name, platform in platforms.items():
        victim = next((row for row in rows if row.platform == name and row.model is not None), None)
        if victim is None:
            continue
        if platform.architecture == "aarch64":
            # Arm compilers fuse by default; x86-64's only with FMA, which our builds never give them.
            entries = {"CONSTANN_PLANT_CONTRACTION": "ON"}
            controls.append(Control("a build without -ffp-contract=off", victim, "distances.npy differs", entries))
        entries = {"CONSTANN_PLANT_LAST_BIT": str(victim.kernels)}
        controls.append(Control("a kernel wrong in its last bit", victim, "distances.npy differs", entries))
        controls.append(Control("one different vector", victim, ".constann differs", changed_vector=True))
        absent = replace(victim, model="no-such-cpu")
        controls.append(Control("a machine that cannot start", absent, "could not start"))
    return controls


Opener = Callable[[str, Mapping[str, str]], AbstractContextManager[matrix.Machines]]


def run_controls(
    controls: Sequence[Control],
    native: Sequence[Machine],
    data: matrix.Data,
    output: Path,
    open_machines: Opener,
) -> list[Outcome]:
    """Run each control beside native machines without the fault.

    Parameters
    ----------
    controls
        From `planned`.
    native
        Machines that are true witnesses, save those that use the very kernels a control spoils.
    data
        What all build from.
    output
        A folder for what they answer.
    open_machines
        Gives machines on which the wheel of one platform, by name, was built with the given CMake entries.
    """
    outcomes = []
    for number, control in enumerate(controls):
        folder = output / f"control-{number}"
        spoiled = _with_a_changed_vector(data, folder) if control.changed_vector else data
        rows = [(row, False) for row in native if not control.wheel or row.kernels != control.victim.kernels]
        special = {control.victim: spoiled}
        with open_machines(control.victim.platform, control.wheel) as machines:
            results = matrix.run_matrix(machines, [*rows, (control.victim, True)], data, folder / "rows", special)
        outcomes.append(judge(control, results))
        verdict = "; ".join(outcomes[-1].problems) or f"the gate named {control.victim.full_name}, as it must"
        say(f"control: {control.name}: {verdict}")
    return outcomes


def judge(control: Control, results: Sequence[matrix.Row]) -> Outcome:
    """Judge a control by its rows: the victim must be named, for its fault, and no other machine."""
    problems = []
    for row in results:
        complaints = [row.failure] if row.failure else row.differences
        if row.machine != control.victim and complaints:
            problems.append(f"{control.name} on {control.victim.full_name}: {row.machine.full_name} was blamed too")
        if row.machine == control.victim and not any(control.complaint in text for text in complaints):
            said = complaints[0] if complaints else "nothing"
            problems.append(f"{control.name} on {row.machine.full_name} was not noticed; the gate said: {said}")
    return Outcome(control, problems)


def _with_a_changed_vector(data: matrix.Data, folder: Path) -> matrix.Data:
    """Copy the data with one bit of the first vector's first element flipped."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.load(data.vectors, mmap_mode="r").copy()
    first = vectors[0, :1].view(np.uint8)
    first[0] ^= 1
    np.save(folder / "vectors.npy", vectors)
    return replace(data, vectors=folder / "vectors.npy")
