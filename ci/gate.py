"""The gate: wheels, machines, matrix, one table, one verdict. It orders the work; each part is a module of its own."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ci import cache, controls, engine, images, machines, matrix, platforms, undo, wheels
from ci.platforms import Machine
from ci.progress import say, step
from ci.report import Report

ROOT = Path(__file__).resolve().parent.parent
CARRIED_DATA = ROOT / "tests" / "conformance" / "data"
GOLDEN = ROOT / "tests" / "golden" / "carried-data.json"
_MARK = ".written-by-the-gate"


class GateError(ValueError):
    """The gate cannot run as asked; the text says why and what to do."""


@dataclass(frozen=True)
class DataSet:
    """A folder's vectors and queries, by name and digest."""

    vectors: Path
    queries: Path

    @property
    def carried(self) -> bool:
        """Whether this is the slice that the project carries, for which there are known answers."""
        return self.vectors.parent == CARRIED_DATA

    def description(self) -> list[str]:
        """One line for each file: its name and SHA-256."""
        return [_name_and_digest(path) for path in (self.vectors, self.queries)]


def _name_and_digest(path: Path) -> str:
    return f"{path.name}  SHA-256 {sha256(path.read_bytes()).hexdigest()}"


def find_data(folder: Path) -> DataSet:
    """Find the one `*vectors.npy` and the one `*queries.npy` of a folder."""
    if not folder.is_dir():
        raise GateError(f"there is no folder {folder}")
    found = []
    for ending in ("vectors.npy", "queries.npy"):
        paths = sorted(folder.glob(f"*{ending}"))
        if len(paths) != 1:
            raise GateError(f"{folder} must hold exactly one *{ending}, but it holds {len(paths)}")
        found.append(paths[0].resolve())
    return DataSet(*found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m ci gate`."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="holds *vectors.npy and *queries.npy (default: CONSTANN_DATA, or the slice carried here)",
    )
    parser.add_argument(
        "--machine",
        action="append",
        metavar="NAME",
        help="only this row, such as linux-aarch64/max, or `native` for the engine's own CPU; may be repeated",
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("gate-report"),
        metavar="FOLDER",
        help="where answers and the report go",
    )
    parser.add_argument(
        "--undo", action="store_true", help="remove containers, images, the engine we started and all caches, and end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the gate; 0 only if every expected row ran and all agree."""
    if arguments.undo:
        undo.undo()
        return 0
    data = find_data(arguments.data or Path(os.environ.get("CONSTANN_DATA") or CARRIED_DATA))
    folder = fresh_folder(arguments.report)
    known = platforms.load()
    every = list(known.values())
    with ExitStack() as stack:
        found = stack.enter_context(engine.running(every))
        # Compiling and making images wait for different things: side by side they take half the time.
        pool = stack.enter_context(ThreadPoolExecutor(1))
        building = pool.submit(_build_wheels, every, folder / "wheels")
        prepared = images.prepare(found, every, platforms.load_images(), _python())
        built = building.result()
        with machines.Machines(found, known, prepared, built) as ready:
            expected = ready.expected()
            chosen = _chosen(expected, arguments.machine)
            stages = _run_stages(ready, chosen, data, folder)

        @contextmanager
        def open_machines(name: str, entries: Mapping[str, str]) -> Iterator[matrix.Machines]:
            """Give machines with one platform's wheel built with these CMake entries."""
            used = {**built, name: _faulty_wheel(known[name], entries)} if entries else built
            with machines.Machines(found, known, prepared, used) as opened:
                yield opened

        outcomes = _run_controls(controls.planned(chosen, every), stages["slice"], data, folder, open_machines)
    report = conclude(stages, data, outcomes, expected=expected, partial=bool(arguments.machine))
    report.wheels = [_name_and_digest(path) for path in built.values()]
    report.show(folder)
    return 0 if report.passed else 1


def fresh_folder(folder: Path) -> Path:
    """Make the report's folder empty: what an earlier gate left must not be taken for this one's.

    Raises
    ------
    GateError
        It holds something that no gate wrote.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise GateError(
            f"{folder} holds other things than a gate's report: name an empty or a new folder with --report"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).write_text("Written by the gate, and removed by the next one.\n")
    return folder


def _run_controls(
    planned: Sequence[controls.Control],
    rows: Sequence[matrix.Row],
    data: DataSet,
    folder: Path,
    open_machines: controls.Opener,
) -> list[controls.Outcome]:
    witnesses = [row for row in rows if row.bits]
    if len(witnesses) < controls.LEAST_WITNESSES:
        return []
    given = matrix.Data(data.vectors, data.queries, matrix.SLICE_ROWS)
    return controls.run_controls(planned, witnesses, given, folder / "controls", open_machines)


def _faulty_wheel(platform: platforms.Platform, entries: Mapping[str, str]) -> Path:
    name = "-".join(f"{key}-{value}" for key, value in sorted(entries.items()))
    folder = cache.folder("faulty", name)
    return wheels.build_wheel(platform, ROOT, folder, cache=cache.folder("wheels"), defines=entries)


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _build_wheels(every: Sequence[platforms.Platform], output: Path) -> dict[str, Path]:
    with step("wheels"):
        built = wheels.build_wheels(every, ROOT, output, cache=cache.folder("wheels"))
    return {name: path for (name, _), path in built.items()}


def _chosen(expected: Sequence[Machine], names: Sequence[str] | None) -> Sequence[Machine]:
    """Return the rows named, each once; "native" stands for all rows of the engine's own CPU."""
    if not names:
        return expected
    chosen: list[Machine] = []
    for name in names:
        native = [row for row in expected if row.model is None]
        chosen += native if name == "native" else [platforms.find(name, expected)]
    return list(dict.fromkeys(chosen))


def _run_stages(
    ready: matrix.Machines, chosen: Sequence[Machine], data: DataSet, folder: Path
) -> dict[str, list[matrix.Row]]:
    """Every machine builds the slice; where there are more rows than that, native ones build the whole set too."""
    rows = [(machine, machine.model is not None) for machine in chosen]
    sliced = matrix.Data(data.vectors, data.queries, matrix.SLICE_ROWS)
    stages = {"slice": matrix.run_matrix(ready, rows, sliced, folder / "slice")}
    native = [(machine, emulated) for machine, emulated in rows if not emulated]
    if native and not data.carried:
        say("the whole set, on the native machines")
        whole = matrix.Data(data.vectors, data.queries, None)
        stages["whole set"] = matrix.run_matrix(ready, native, whole, folder / "whole")
    return stages


def conclude(
    stages: Mapping[str, Sequence[matrix.Row]],
    data: DataSet,
    outcomes: Sequence[controls.Outcome],
    *,
    expected: Sequence[Machine],
    partial: bool,
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
    """
    rows = stages["slice"]
    report = Report(data.description(), [], stages)
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
    if not outcomes and not partial:
        report.problems.append("no negative control ran: they need two rows that agree")
    report.remarks += [*_summary(rows, partial), _control_summary(outcomes)]
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


def _summary(rows: Sequence[matrix.Row], partial: bool) -> list[str]:
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
    if partial:
        lines.append("PARTIAL: --machine chose rows; a release needs them all")
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
