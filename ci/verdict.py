"""Judges what the gate's stages found, save the rows, which ci/matrix.py has judged: what failed, what is not proven.

It runs nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ci import controls, matrix, platforms
from ci.data_set import DataSet
from ci.platforms import Machine, Platform, Target, WheelKey
from ci.report import Report, WheelLine

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "carried-data.json"


def conclude(
    stages: Mapping[str, Sequence[matrix.Row]],
    data: DataSet,
    outcomes: Sequence[controls.Outcome],
    *,
    expected: Sequence[Machine],
    partial: bool,
    without: Sequence[str] = (),
) -> Report:
    """Judge everything but the rows themselves, which ci/matrix.py has judged.

    Parameters
    ----------
    stages
        The rows of each stage; there must be a "slice".
    data
        What they built from.
    outcomes
        Of the negative controls.
    expected
        Every machine that a whole gate runs on.
    partial
        Whether only some of them were asked for.
    without
        The stages of the gate that were left out.
    """
    rows = stages["slice"]
    report = Report(data.description(), stages)
    missing = {machine.full_name for machine in expected} - {row.machine.full_name for row in rows}
    if missing and not partial:
        report.problems.append(f"expected machines have no row: {', '.join(sorted(missing))}")
    if len(rows) < 2 and not data.carried:
        report.problems.append("one machine alone agrees with itself: choose two or more")
    report.problems += [
        f"a wheel for a release has a planted fault: {fault}" for fault in _facts(rows, "planted_faults")
    ]
    report.problems += [f"a wheel for a release is tuned for {cpu}" for cpu in _facts(rows, "tuned_for")]
    report.problems += _missing_native_rows(rows, expected)
    report.problems += [f"negative control: {problem}" for outcome in outcomes for problem in outcome.problems]
    if data.carried:
        report.problems += [f"known answers: {problem}" for problem in check_golden(rows)]
    else:
        report.remarks.append("NOT PROVEN known answers: they are of the carried slice; run the gate without --data")
    if not outcomes and not partial and "controls" not in without:
        report.problems.append("no negative control ran: they need two rows that agree")
    report.remarks += summarise(rows)
    if "controls" not in without:
        report.remarks.append(_control_summary(outcomes))
    if partial:
        report.remarks.append("PARTIAL: --machine chose rows; a release needs them all")
    return report


def _facts(rows: Sequence[matrix.Row], name: str) -> list[str]:
    return sorted({row.answers["facts"][name] for row in rows if row.answers} - {""})


def _missing_native_rows(rows: Sequence[matrix.Row], expected: Sequence[Machine]) -> list[str]:
    """Compare the kernel sets that native processes found with the native rows, which come from what Linux says."""
    problems = []
    for row in rows:
        if row.emulated or not row.answers:
            continue
        forced = {each.kernels for each in expected if each.platform == row.machine.platform and each.model is None}
        available = set(row.answers["facts"]["kernels_available"])
        if forced != available:
            problems.append(
                f"{row.machine.full_name} can run {sorted(available)}, but has rows for {sorted(map(str, forced))}"
            )
    return problems


def summarise(rows: Sequence[matrix.Row]) -> list[str]:
    """Count the rows that agree, and name what no row has proven."""
    agreeing = [row for row in rows if row.bits]
    combinations = {
        (row.answers["facts"]["kernels"], row.answers["facts"]["compiler"], row.emulated)
        for row in agreeing
        if row.answers
    }
    lines = [
        f"{len(agreeing)} of {len(rows)} expected rows agree in every bit; for bits they are "
        f"{len(combinations)} distinct combinations of kernels, compiler, and native or emulated"
    ]
    carried = {(name, kernels.name) for name, platform in platforms.load().items() for kernels in platform.kernels}
    for platform, kernels in sorted(carried - {(row.machine.platform, str(row.machine.kernels)) for row in agreeing}):
        lines.append(f"NOT PROVEN {platform}: kernels {kernels}; ./ci/gate on a machine that has them proves it")
    native = {row.machine.platform for row in agreeing if not row.emulated}
    for platform in sorted(set(platforms.load()) - native):
        lines.append(f"NOT PROVEN {platform} on a CPU of its own, only emulated; ./ci/gate on such a machine proves it")
    return lines


def _control_summary(outcomes: Sequence[controls.Outcome]) -> str:
    failed = [outcome for outcome in outcomes if not outcome.problems]
    names = ", ".join(dict.fromkeys(outcome.control.name for outcome in outcomes)) or "none ran"
    return f"{len(failed)} of {len(outcomes)} negative controls failed as they must ({names})"


def check_golden(rows: Sequence[matrix.Row]) -> list[str]:
    """Compare the carried slice's answers with the known ones; return what differs."""
    known = json.loads(GOLDEN.read_text())
    problems = []
    for row in rows:
        built = row.answers["built"] if row.answers else {}
        for name, expected in known["answers"].items():
            found = built.get(name, {})
            problems += [
                f"{row.machine.full_name}: {name}: {what} is not that of {GOLDEN.name}"
                for what in expected
                if row.runs and found.get(what) != expected[what]
            ]
    return problems


def describe_wheels(
    wheels: Mapping[WheelKey, Path],
    targets: Iterable[Target],
    pythons: Iterable[str],
    rows: Sequence[matrix.Row],
) -> list[WheelLine]:
    """Say of every wheel that a release has how it was proven: what did not run here is never said to have passed.

    Parameters
    ----------
    wheels
        What was built.
    targets
        What a release has wheels for.
    pythons
        The versions that a release has wheels for.
    rows
        Of the matrix; empty where it did not run.
    """
    promised = [WheelKey(target.name, python) for target in targets for python in pythons]
    known = {target.name: target for target in targets}
    lines = []
    for key in dict.fromkeys([*promised, *wheels]):
        proof = "workflow only" if key not in wheels else _proof(key, known[key.platform], rows)
        lines.append(WheelLine(key, wheels.get(key), proof))
    return lines


def _proof(key: WheelKey, target: Target, rows: Sequence[matrix.Row]) -> str:
    if not isinstance(target, Platform):
        return target.proof
    mine = [row for row in rows if row.machine.wheel == key]
    agreeing = sum(row.bits for row in mine)
    if not mine:
        return "built, NOT RUN"
    return f"run on {agreeing} machines" if agreeing == len(mine) else f"FAILED on {len(mine) - agreeing} machines"


def not_proven(lines: Iterable[WheelLine]) -> list[str]:
    """Return one line for each platform, and one for each Python, of which no wheel ran here."""
    lines = list(lines)
    remarks = []
    ran = [line.key for line in lines if line.proof.startswith("run on")]
    for platform in dict.fromkeys(line.key.platform for line in lines):
        if platform not in {key.platform for key in ran}:
            proof = next(line.proof for line in lines if line.key.platform == platform)
            remarks.append(f"NOT PROVEN {platform}: {proof}")
    for python in dict.fromkeys(line.key.python for line in lines):
        if python not in {key.python for key in ran}:
            remarks.append(f"NOT PROVEN Python {python}: no wheel of it ran here; the wheels workflow runs them")
    return remarks
