"""The gate: its stages one after the other, one table, one verdict. It orders the work; each part is its own module.

A stage is one line in STAGES: a name, what it shows, and a function that returns what is wrong.
"""

import argparse
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from docker.errors import DockerException

from ci import (
    cache,
    cibuildwheel,
    controls,
    engine,
    foreign,
    images,
    installing,
    machines,
    macos_kernels,
    matrix,
    oldest_system,
    platforms,
    reproduce,
    resolvers,
    undo,
    verdict,
    wheels,
    workflows,
)
from ci.audit.wheel import audit_wheel
from ci.data_set import CARRIED_DATA, DataSet, find_data
from ci.platforms import Machine, WheelKey
from ci.progress import say, step
from ci.report import Check, Report
from ci.wheel_file import abi_of

ROOT = Path(__file__).resolve().parent.parent
_MARK = ".written-by-the-gate"


class GateError(ValueError):
    """The gate cannot run as asked; the text says why and what to do."""


@dataclass
class Work:
    """What stages have to work with, and what they leave for those after them and for the report."""

    data: DataSet
    folder: Path
    """For what a stage keeps; it goes with the report."""
    stages: Sequence[str]
    """The names of those that run."""
    machine_names: Sequence[str] | None = None
    """The rows asked for; None is all."""
    wheels: dict[WheelKey, Path] = field(default_factory=dict)
    rows: dict[str, list[matrix.Row]] = field(default_factory=dict)
    expected: tuple[Machine, ...] = ()
    outcomes: list[controls.Outcome] = field(default_factory=list)
    found: engine.Engine | None = None
    prepared: Mapping[images.ImageKey, str] = field(default_factory=dict)

    targets = cached_property(lambda self: platforms.load_targets())
    platforms = cached_property(lambda self: platforms.load())
    facts = cached_property(lambda self: platforms.load_images())

    @property
    def pythons(self) -> list[str]:
        """Return the Python versions of the rows asked for."""
        names = self.machine_names
        rows = [row for platform in self.platforms.values() for row in platform.machines]
        chosen = [row for row in rows if not names or row.full_name in names or ("native" in names and not row.model)]
        return sorted({row.python for row in chosen} or {self.facts.python})

    @property
    def running_engine(self) -> engine.Engine:
        """Return the engine, which stages have that say so."""
        if self.found is None:
            raise GateError("this stage needs a Docker engine: its line in STAGES must say so")
        return self.found


@dataclass(frozen=True)
class Stage:
    """One part of the gate."""

    name: str
    shows: str
    work: Callable[[Work], list[str]]
    """Returns what is wrong, one sentence each; nothing is a pass."""
    engine: bool = False
    """Whether it runs containers."""


def build_wheels(work: Work) -> list[str]:
    """Cross-compile the wheels of every platform and Python, or only those that the chosen machines run."""
    wanted: Sequence[platforms.Target] = [*work.platforms.values()]
    pythons: Sequence[str] = work.pythons
    if "audit" in work.stages:
        wanted = [*wanted, *(each for each in work.targets.values() if each.name not in work.platforms)]
        pythons = work.facts.wheels
    with step("wheels"):
        built = wheels.build_wheels(wanted, ROOT, work.folder / "wheels", cache=cache.folder("wheels"), pythons=pythons)
    work.wheels |= {WheelKey(*key): path for key, path in built.items()}
    return []


def audit_wheels(work: Work) -> list[str]:
    """Hold every wheel to the rules of its platform; as a control, those of another platform must not fit it."""
    problems = []
    for key, path in work.wheels.items():
        target = work.targets[key.platform]
        problems += [f"{path.name}: {fault}" for fault in audit_wheel(path, target, abi_of(key.python))]
        other = next(each for each in work.targets.values() if each.wheel.tag != target.wheel.tag)
        if not audit_wheel(path, other, abi_of(key.python)):
            problems.append(f"{path.name} passes the audit of {other.name} too: the audit sees nothing")
    return problems


def build_with_cibuildwheel(work: Work) -> list[str]:
    """Build wheels by the release way in containers, and audit them against their own tags."""
    python = work.facts.python
    output = work.folder / "cibuildwheel"
    built = cibuildwheel.build_locally(
        work.running_engine, list(work.platforms.values()), output, python=python, compiler="image"
    )
    work.wheels |= {WheelKey(name, python, "cibuildwheel"): path for name, path in built.items()}
    return [
        fault for name, path in built.items() for fault in cibuildwheel.audit(path, work.targets[name], own_tag=True)
    ]


def install_on_old_system(work: Work) -> list[str]:
    """Install each wheel as on glibc 2.17."""
    found = list(work.platforms.values())
    return oldest_system.find_problems(work.running_engine, found, work.facts, work.prepared, work.wheels)


def run_matrix(work: Work) -> list[str]:
    """Build and load every index on every machine; where there are more rows than the slice, native ones take all."""
    with machines.Machines(work.running_engine, work.platforms, work.prepared, work.wheels) as ready:
        work.expected = ready.expected()
        chosen = rows_to_run(work)
        rows = [(machine, machine.model is not None) for machine in chosen]
        sliced = matrix.Data(work.data.vectors, work.data.queries, matrix.SLICE_ROWS)
        work.rows["slice"] = matrix.run_matrix(ready, rows, sliced, work.folder / "slice")
        native = [(machine, emulated) for machine, emulated in rows if not emulated]
        if native and not work.data.carried:
            say("the whole set, on the native machines")
            whole = matrix.Data(work.data.vectors, work.data.queries, None)
            work.rows["whole set"] = matrix.run_matrix(ready, native, whole, work.folder / "whole")
    return []  # each row says by itself what is wrong with it


def run_controls(work: Work) -> list[str]:
    """Plant faults, one at a time, and demand that the matrix names them."""

    @contextmanager
    def open_machines(key: WheelKey, entries: Mapping[str, str]) -> Iterator[matrix.Machines]:
        """Give machines with one wheel built with these CMake entries."""
        used = {**work.wheels, key: _faulty_wheel(work, key, entries)} if entries else work.wheels
        with machines.Machines(work.running_engine, work.platforms, work.prepared, used) as opened:
            yield opened

    rows = work.rows.get("slice", [])
    witnesses = [row for row in rows if row.bits]
    if len(witnesses) >= controls.LEAST_WITNESSES:
        planned = controls.planned([row.machine for row in rows], work.platforms.values())
        given = matrix.Data(work.data.vectors, work.data.queries, matrix.SLICE_ROWS)
        work.outcomes += controls.run_controls(planned, witnesses, given, work.folder / "controls", open_machines)
    return []  # the verdict judges the outcomes, and that there are any


def run_macos_kernels(work: Work) -> list[str]:
    """Run the macOS wheels' kernels in a CPU emulator on the known answers."""
    return [
        f"{path.name}: {result.name}: {problem}"
        for key, path in work.wheels.items()
        if work.targets[key.platform].system == "Darwin"
        for result in macos_kernels.run_wheel(path, work.targets[key.platform])
        for problem in result.problems
    ]


def build_twice(work: Work) -> list[str]:
    """Build the sdist and the wheels of every platform again, twice, in folders and at times of their own."""
    return reproduce.problems(list(work.targets.values()), [work.facts.python])


def build_for_others(work: Work) -> list[str]:
    """Build portable wheels of a package that has none, and run them on old CPUs."""
    return foreign.problems(work.running_engine, work.prepared, work.facts.python, work.folder / "others")


def install_as_users(work: Work) -> list[str]:
    """Resolve for every platform, build and run the Docker example, and install from source."""
    python, found = work.facts.python, work.running_engine
    prepared = {name: image for (name, version), image in work.prepared.items() if version == python}
    built = {key.platform: path for key, path in work.wheels.items() if (key.python, key.built_by) == (python, "")}
    sdist = wheels.build_sdist(ROOT, work.folder / "sdist", cache=cache.folder("wheels"))
    foreigner = next(each for each in work.platforms.values() if each.architecture != found.architecture)
    return [
        *resolvers.check_resolvers([path for key, path in work.wheels.items() if not key.built_by]),
        *installing.check_docker_example(found, prepared, built),
        *installing.check_source_build(found, foreigner, sdist),
    ]


def run_workflow_lines(work: Work) -> list[str]:
    """Run what the workflows say for Linux in clean containers."""
    wheels_of_platforms = [path for key, path in work.wheels.items() if not key.built_by]
    return workflows.check_workflow_lines(work.running_engine, wheels_of_platforms)


# In this order. A later stage may use what an earlier one left in Work; wheels are built whatever is chosen.
STAGES: tuple[Stage, ...] = (
    Stage("wheels", "every platform's wheels, cross-compiled", build_wheels),
    Stage("audit", "nothing in a wheel that its platform does not promise", audit_wheels),
    Stage("cibuildwheel", "the release way, in containers", build_with_cibuildwheel, engine=True),
    Stage("old-system", "an install on glibc 2.17 compiles nothing", install_on_old_system, engine=True),
    Stage("matrix", "the same bits on every machine", run_matrix, engine=True),
    Stage("controls", "planted faults are found", run_controls, engine=True),
    Stage("macos", "the kernels of macOS wheels give the known answers, in a CPU emulator", run_macos_kernels),
    Stage("reproduce", "two builds have the same bytes", build_twice),
    Stage("others", "annoy's missing wheels, built, audited and run on old CPUs", build_for_others, engine=True),
    Stage("install", "pip, uv, Poetry, Docker and a build from source", install_as_users, engine=True),
    Stage("workflows", "what GitHub will run, in clean containers", run_workflow_lines, engine=True),
)
_ALWAYS = "wheels"


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
    names = [stage.name for stage in STAGES]
    parser.add_argument("--only", action="append", choices=names, metavar="STAGE", help=f"of {', '.join(names)}")
    parser.add_argument("--without", action="append", choices=names[1:], metavar="STAGE", help="all but this one")
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
    """Run the gate; 0 only if every expected row ran, all agree, and every stage passes."""
    if arguments.undo:
        undo.undo()
        return 0
    data = find_data(arguments.data or Path(os.environ.get("CONSTANN_DATA") or CARRIED_DATA))
    stages = chosen_stages(arguments.only, arguments.without)
    folder = fresh_folder(arguments.report)
    work = Work(data, folder, [stage.name for stage in stages], arguments.machine)
    with ExitStack() as stack:
        checks = _run_stages(work, stages, stack)
    report = _conclude(work, checks)
    report.show(folder)
    return 0 if report.passed else 1


def chosen_stages(only: Sequence[str] | None, without: Sequence[str] | None) -> list[Stage]:
    """Return the stages asked for, in their order.

    Raises
    ------
    GateError
        When the choice cannot be run.
    """
    names = {*(only or [stage.name for stage in STAGES]), _ALWAYS} - set(without or ())
    if "controls" in names and "matrix" not in names:
        raise GateError("the controls are compared with the rows of the matrix: choose both, or neither")
    return [stage for stage in STAGES if stage.name in names]


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


def _run_stages(work: Work, stages: Sequence[Stage], stack: ExitStack) -> list[Check]:
    first, *others = stages
    if not any(stage.engine for stage in stages):
        return [run_stage(stage, work) for stage in stages]
    known = list(work.platforms.values())
    work.found = stack.enter_context(engine.running(known))
    # Compiling and making images wait for different things: side by side they take half the time.
    pool = stack.enter_context(ThreadPoolExecutor(1))
    building = pool.submit(run_stage, first, work)
    work.prepared = images.prepare(work.found, known, work.facts, work.pythons)
    return [building.result(), *(run_stage(stage, work) for stage in others)]


def run_stage(stage: Stage, work: Work) -> Check:
    """Run a stage. One that breaks is one that fails, but without wheels there is nothing to go on with."""
    say(f"stage {stage.name}: {stage.shows}")
    check = Check(stage.name, stage.shows)
    with check.timed():
        try:
            check.problems += stage.work(work)
        except (RuntimeError, ValueError, OSError, DockerException) as error:
            if stage.name == _ALWAYS:
                raise
            check.problems.append(f"could not be completed: {error}")
    say(f"stage {stage.name}: {'passes' if not check.problems else f'{len(check.problems)} problems'}")
    return check


def _conclude(work: Work, checks: Sequence[Check]) -> Report:
    without = [stage.name for stage in STAGES if stage.name not in work.stages]
    if "matrix" in work.stages:
        expected = [machine for machine in work.expected if _is_possible(machine, work)]
        report = verdict.conclude(
            work.rows,
            work.data,
            work.outcomes,
            expected=expected,
            partial=bool(work.machine_names),
            without=without,
        )
    else:
        report = Report(work.data.description(), {}, rows_wanted=False)
    report.checks = list(checks)
    rows = [row for rows in work.rows.values() for row in rows]
    report.wheels = verdict.describe_wheels(work.wheels, list(work.targets.values()), wheels.released_pythons(), rows)
    report.remarks += verdict.not_proven(report.wheels)
    if without:
        report.remarks.append(f"PARTIAL: without the stages {', '.join(without)}; a release needs them all")
    return report


def _is_possible(machine: Machine, work: Work) -> bool:
    """Return whether a row can run where some stages were left out; else it must, or fails."""
    return "cibuildwheel" in work.stages or not machine.built_by


def rows_to_run(work: Work) -> Sequence[Machine]:
    """Return the rows to run, each once; "native" stands for all rows of the engine's own CPU."""
    possible = [machine for machine in work.expected if _is_possible(machine, work)]
    if not work.machine_names:
        return possible
    chosen: list[Machine] = []
    for name in work.machine_names:
        native = [row for row in possible if row.model is None]
        chosen += native if name == "native" else [platforms.find(name, possible)]
    return list(dict.fromkeys(chosen))


def _faulty_wheel(work: Work, key: WheelKey, entries: Mapping[str, str]) -> Path:
    name = "-".join(f"{key}-{value}" for key, value in sorted(entries.items()))
    folder = cache.folder("faulty", name)
    target = work.targets[key.platform]
    built = wheels.build_wheels(
        [target], ROOT, folder, cache=cache.folder("wheels"), pythons=[key.python], defines=entries
    )
    return built[key.platform, key.python]
