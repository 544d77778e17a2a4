"""The gate: its stages one after the other, one table, one verdict. It orders the work; each part is its own module.

A stage is one line in STAGES: a name, what it shows, and a function that returns what is wrong.
"""

import argparse
import os
import platform as computer
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
    kept_answers,
    machines,
    macos_kernels,
    matrix,
    offline,
    oldest_system,
    other_builds,
    pages,
    platforms,
    project,
    recordings,
    reproduce,
    resolvers,
    sbom,
    trees,
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
from ci.wheel_file import abi_of, read_wheel, target_of

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
    released: Path | None = None
    """A folder with the wheels of a release, to be run instead of such as cibuildwheel makes here."""
    recorded: Sequence[Path] = ()
    """Recordings of machines that are not here."""
    wheels: dict[WheelKey, Path] = field(default_factory=dict)
    containers: bool = True
    """Whether machines are containers of a Docker engine; else they are trees."""
    offline: bool = False
    """Whether there is no network, and `fetch` has fetched what is needed."""
    again: bool = False
    """Whether every row runs, whatever is kept of earlier runs."""
    rows: dict[str, list[matrix.Row]] = field(default_factory=dict)
    expected: tuple[Machine, ...] = ()
    outcomes: list[controls.Outcome] = field(default_factory=list)
    elsewhere: recordings.Elsewhere = field(default_factory=lambda: recordings.Elsewhere(platforms.load_elsewhere()))
    found: engine.Engine | None = None
    """Where there is none, machines are trees (--engine qemu-user)."""
    prepared: Mapping[images.ImageKey, str] = field(default_factory=dict)

    targets = cached_property(lambda self: platforms.load_targets())
    platforms = cached_property(lambda self: platforms.load())
    facts = cached_property(lambda self: platforms.load_images())

    @property
    def pythons(self) -> list[str]:
        """Return the Python versions of the rows asked for."""
        names = self.machine_names
        rows = [row for platform in self.platforms.values() for row in platform.machines]
        chosen = [row for row in rows if not names or row.full_name in names or ("native" in names and _is_plain(row))]
        return sorted({row.python for row in chosen} or {self.facts.python})

    @property
    def running_engine(self) -> engine.Engine:
        """Return the engine, which stages have that say so."""
        if self.found is None:
            raise GateError("this stage needs a Docker engine: its line in STAGES must say so")
        return self.found

    def open_machines(self, built: Mapping[WheelKey, Path]) -> machines.Machines | trees.Trees:
        """Return the machines with these builds, to be entered as a context."""
        if self.found is None:
            return trees.Trees(self.platforms, self.facts, built)
        return machines.Machines(self.found, self.platforms, self.prepared, built)

    def expected_machines(self) -> tuple[Machine, ...]:
        """Return every row that must run here."""
        if self.found is None:
            return trees.expected(self.platforms)
        return machines.expected(self.found, self.platforms, self.prepared)


@dataclass(frozen=True)
class Stage:
    """One part of the gate."""

    name: str
    shows: str
    work: Callable[[Work], list[str]]
    """Returns what is wrong, one sentence each; nothing is a pass."""
    engine: bool = False
    """Whether it needs a Docker engine for more than machines."""
    network: bool = False
    """Whether it asks the network for more than `fetch` has fetched."""
    machines: bool = False
    """Whether it runs machines, which need an engine or trees."""
    every_wheel: bool = False
    """Whether it looks at the wheels of every platform and Python, not at those alone that machines run."""


def build_wheels(work: Work) -> list[str]:
    """Cross-compile the wheels of every platform and Python, or only those that the chosen machines run."""
    wanted: Sequence[platforms.Target] = [*work.platforms.values()]
    pythons: Sequence[str] = work.pythons
    if any(stage.every_wheel for stage in STAGES if stage.name in work.stages):
        wanted = [*wanted, *(each for each in work.targets.values() if each.name not in work.platforms)]
        pythons = work.facts.wheels
    with step("wheels"):
        built = wheels.keep_wheels(
            wanted, ROOT, folder_of_wheels(work.folder), cache=cache.folder("wheels"), pythons=pythons
        )
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
    """Build wheels by the release way in containers, or take those given, and audit them against their own tags."""
    if work.released is not None:
        return _take_released(work, work.released)
    python = work.facts.python
    output = work.folder / "cibuildwheel"
    built = cibuildwheel.build_locally(
        work.running_engine,
        list(work.platforms.values()),
        output,
        python=python,
        compiler="image",
        kept_too=not work.again,
    )
    work.wheels |= {WheelKey(name, python, "cibuildwheel"): path for name, path in built.items()}
    return [
        fault for name, path in built.items() for fault in cibuildwheel.audit(path, work.targets[name], own_tag=True)
    ]


def _take_released(work: Work, folder: Path) -> list[str]:
    """Take the wheels of a release from a folder, and hold them to the rules of their platforms."""
    problems = []
    for path in sorted(folder.glob("*.whl")):
        wheel = read_wheel(path)
        target = target_of(wheel, work.targets.values())
        abis = {tag.abi.removeprefix("cp") for tag in wheel.name_tags}
        if target is None or len(abis) != 1:
            problems.append(f"{path.name}: no file in platforms/ is for it")
            continue
        (abi,) = abis
        work.wheels[WheelKey(target.name, f"{abi[0]}.{abi[1:]}", "cibuildwheel")] = path
        problems += cibuildwheel.audit(path, target, own_tag=False)
    return problems or ([] if list(folder.glob("*.whl")) else [f"{folder} holds no wheel"])


def install_on_old_system(work: Work) -> list[str]:
    """Install each wheel as on glibc 2.17."""
    found = list(work.platforms.values())
    return oldest_system.find_problems(work.running_engine, found, work.facts, work.prepared, work.wheels)


def run_matrix(work: Work) -> list[str]:
    """Build and load every index on every machine; where there are more rows than the slice, native ones take all."""
    work.expected = work.expected_machines()
    chosen = rows_to_run(work)
    wanted = {row.wheel for row in chosen if row.built_by} - set(work.wheels)
    with step("builds by other compilers, for comparing"):
        others, problems = other_builds.build(
            [key for key in wanted if key.built_by != "cibuildwheel"],
            work.platforms,
            work.targets,
            ROOT,
            may_install=work.found is not None
            and work.found.log is not None,  # one that was there already is not ours to install on
        )
    with work.open_machines({**work.wheels, **others}) as ready:
        rows = [(machine, machine.model is not None) for machine in chosen]
        sliced = matrix.Data(work.data.vectors, work.data.queries, matrix.SLICE_ROWS)
        keeping = kept_answers.KeptAnswers(ready, ready.identity, cache.folder("answers"), again=work.again)
        work.rows["slice"] = matrix.run_matrix(keeping, rows, sliced, work.folder / "slice")
        native = [(machine, emulated) for machine, emulated in rows if not emulated]
        if native and not work.data.carried:
            say("the whole set, on the native machines")
            whole = matrix.Data(work.data.vectors, work.data.queries, None)
            work.rows["whole set"] = matrix.run_matrix(ready, native, whole, work.folder / "whole")
    return problems  # each row says by itself what is wrong with it


def run_controls(work: Work) -> list[str]:
    """Plant faults, one at a time, and demand that the matrix names them."""

    @contextmanager
    def open_machines(key: WheelKey, entries: Mapping[str, str]) -> Iterator[matrix.Machines]:
        """Give machines with one wheel built with these CMake entries."""
        used = {**work.wheels, key: _faulty_wheel(work, key, entries)} if entries else work.wheels
        with work.open_machines(used) as opened:
            yield opened

    rows = work.rows.get("slice", [])
    witnesses = [row for row in rows if row.bits]
    if len(witnesses) >= controls.LEAST_WITNESSES:
        planned = controls.planned([row.machine for row in rows], work.platforms.values())
        given = matrix.Data(work.data.vectors, work.data.queries, matrix.SLICE_ROWS)
        work.outcomes += controls.run_controls(planned, witnesses, given, work.folder / "controls", open_machines)
    return []  # the verdict judges the outcomes, and that there are any


def join_recordings(work: Work) -> list[str]:
    """Compare recordings of machines that are not here with one of this gate's own."""
    if not work.recorded:
        return []
    machine = next(row for row in work.expected_machines() if row.wheel in work.wheels and not row.built_by)
    release = [path for key, path in work.wheels.items() if key.built_by or work.released is None]
    with work.open_machines(work.wheels) as ready:
        work.elsewhere = recordings.join(
            ready, machine, work.recorded, release, cells=work.elsewhere.cells, output=work.folder / "elsewhere"
        )
    return work.elsewhere.problems()


def run_macos_kernels(work: Work) -> list[str]:
    """Run the macOS wheels' kernels in a CPU emulator on the known answers."""
    ours = [(path, work.targets[key.platform]) for key, path in work.wheels.items()]
    of_macos = [(path, target) for path, target in ours if target.system == "Darwin"]
    problems = [] if of_macos else ["no wheel for macOS was built"]
    for path, target in of_macos:
        for result in macos_kernels.run_wheel(path, target):
            problems += [f"{path.name}: {result.name}: {problem}" for problem in result.problems]
    return problems


def build_twice(work: Work) -> list[str]:
    """Build the sdist and the wheels of every platform again, twice, in folders and at times of their own."""
    return reproduce.problems(list(work.targets.values()), [work.facts.python], kept_too=not work.again)


def build_natively(work: Work) -> list[str]:
    """Build the wheel of the Arm platform in a container of it, and hold it against the cross-compiled one."""
    (target,) = (each for each in work.platforms.values() if each.architecture == "aarch64")
    cross_compiled = None if work.again else work.wheels.get(WheelKey(target.name, work.facts.python))
    return reproduce.container_problems(cross_compiled=cross_compiled)


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
    answers: dict[str, str] = {}
    return [
        *resolvers.check_resolvers([path for key, path in work.wheels.items() if not key.built_by]),
        *installing.check_docker_example(found, prepared, built, answers),
        *installing.check_source_build(found, foreigner, sdist, answers, kept_too=not work.again),
        *installing.differences(answers),
    ]


def run_workflow_lines(work: Work) -> list[str]:
    """Run what the workflows say for Linux in clean containers."""
    wheels_of_platforms = [path for key, path in work.wheels.items() if not key.built_by]
    return workflows.check_workflow_lines(work.running_engine, wheels_of_platforms, kept_too=not work.again)


# In this order. A later stage may use what an earlier one left in Work; wheels are built whatever is chosen.
STAGES: tuple[Stage, ...] = (
    Stage("wheels", "every platform's wheels, cross-compiled", build_wheels),
    Stage("audit", "nothing in a wheel that its platform does not promise", audit_wheels, every_wheel=True),
    Stage("cibuildwheel", "the release way, in containers", build_with_cibuildwheel, engine=True),
    Stage("old-system", "an install on glibc 2.17 compiles nothing", install_on_old_system, engine=True, network=True),
    Stage("matrix", "the same bits on every machine", run_matrix, machines=True),
    Stage("controls", "planted faults are found", run_controls, machines=True),
    Stage("elsewhere", "recordings of machines that are not here agree", join_recordings, machines=True),
    Stage(
        "macos",
        "the kernels of macOS wheels give the known answers, in a CPU emulator",
        run_macos_kernels,
        every_wheel=True,
    ),
    Stage("reproduce", "two builds have the same bytes", build_twice, network=True),
    Stage(
        "native-build",
        "the Arm wheel built on Arm has the bytes of the cross-compiled one",
        build_natively,
        engine=True,
        network=True,
    ),
    Stage(
        "others",
        "annoy's missing wheels, built, audited and run on old CPUs",
        build_for_others,
        engine=True,
        network=True,
    ),
    Stage(
        "install",
        "pip, uv, Poetry, Docker and a build from source",
        install_as_users,
        engine=True,
        network=True,
        every_wheel=True,
    ),
    Stage(
        "workflows",
        "what GitHub will run, in clean containers",
        run_workflow_lines,
        engine=True,
        network=True,
        every_wheel=True,
    ),
)
_ALWAYS = "wheels"
_RELEASED = "cibuildwheel"  # takes the wheels of a release


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
        "--again", action="store_true", help="run every row, also those of which nothing changed since they last ran"
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument("--only", action="append", choices=names, metavar="STAGE", help=f"of {', '.join(names)}")
    parser.add_argument("--without", action="append", choices=names[1:], metavar="STAGE", help="all but this one")
    parser.add_argument(
        "--with",
        dest="recordings",
        type=Path,
        nargs="+",
        default=[],
        metavar="RECORDING",
        help="recordings of machines that are not here, made there with these wheels, or folders of them",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        metavar="FOLDER",
        help="the wheels of a release, from the wheels workflow, to run as well",
    )
    parser.add_argument(
        "--engine",
        choices=("docker", "qemu-user"),
        default="docker",
        help="qemu-user: the same wheels without Docker, root or binfmt, in Debian's packages unpacked into a folder",
    )
    parser.add_argument(
        "--project", type=Path, metavar="DIR", help="gate another project, as [tool.gate] of its pyproject.toml says"
    )
    parser.add_argument(
        "--offline", type=Path, metavar="DIR", help="use what `./ci/run fetch DIR` has fetched, and no network"
    )
    parser.add_argument(
        "--release",
        action="store_true",
        help="fail unless all is proven: every stage, row and promised machine, with wheels of cibuildwheel alone",
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
    """Run the gate; 0 only if every expected row ran, all agree, and every stage passes."""
    if arguments.undo:
        undo.undo()
        return 0
    if arguments.project:
        if arguments.release or arguments.wheels or arguments.recordings:
            raise GateError("--release, --wheels and --with are of this project's releases: --project has none of them")
        return _run_project(arguments)
    data = find_data(arguments.data or Path(os.environ.get("CONSTANN_DATA") or CARRIED_DATA))
    containers = arguments.engine == "docker"
    if arguments.offline:
        offline.go_offline(arguments.offline)
    stages = stages_to_run(arguments)
    folder = fresh_folder(arguments.report)
    work = Work(
        data,
        folder,
        [stage.name for stage in stages],
        arguments.machine,
        released=arguments.wheels,
        recorded=recordings.find(arguments.recordings),
        containers=containers,
        offline=arguments.offline is not None,
        again=arguments.again,
    )
    with ExitStack() as stack:
        checks = _run_stages(work, stages, stack)
    report = _conclude(work, checks)
    if arguments.release:
        report.problems += release_problems(work, report)
    report.show(folder)
    pages.write(report, folder)
    return 0 if report.passed else 1


def _run_project(arguments: argparse.Namespace) -> int:
    """Run the gate of another project: wheels, audit, machines, and which of them disagree."""
    containers = arguments.engine == "docker"
    if arguments.offline:
        offline.go_offline(arguments.offline)
    source = arguments.project.resolve()
    known = platforms.load()
    settings = project.read_settings(source, known)
    folder = fresh_folder(arguments.report)
    result = project.Result(source.name)
    project.build(source, settings, known, folder_of_wheels(folder), result)
    built = project.built_wheels(result)
    with ExitStack() as stack:
        work = Work(find_data(CARRIED_DATA), folder, [], containers=containers)
        architecture = computer.machine()
        if built and containers:
            chosen = [known[name] for name in settings.platforms or known]
            work.found = stack.enter_context(engine.running(list(known.values())))
            work.prepared = images.prepare(work.found, chosen, work.facts, settings.pythons)
            architecture = work.found.architecture
        names = dict.fromkeys(key.platform for key in built)
        rows = [row for name in names for row in project.rows_of(settings, known[name], architecture)]
        if rows:
            with work.open_machines(built) as ready:
                project.run_machines(ready, rows, source, settings, output=folder / "machines", result=result)
    project.show(result, folder)
    return 0 if result.passed else 1


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


def stages_to_run(arguments: argparse.Namespace) -> list[Stage]:
    """Return the stages asked for that can run with this engine and network.

    Raises
    ------
    GateError
        When the choice cannot be run, or nothing would look at what was given.
    """
    stages = [
        stage
        for stage in chosen_stages(arguments.only, arguments.without)
        # Wheels that were given need no container to be built in.
        if (arguments.engine == "docker" or not stage.engine or (stage.name == _RELEASED and arguments.wheels))
        and not (arguments.offline and stage.network)
    ]
    names = {stage.name for stage in stages}
    for option, given, name in (("wheels", arguments.wheels, _RELEASED), ("with", arguments.recordings, "elsewhere")):
        if given and name not in names:
            raise GateError(f"--{option} is looked at by the stage {name}, which is left out: choose it, or neither")
    return stages


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
    if not work.containers or not any(stage.engine or stage.machines for stage in stages):
        return [run_stage(stage, work) for stage in stages]
    known = list(work.platforms.values())
    work.found = stack.enter_context(engine.running(known))
    if work.found.log is None and work.offline:
        offline.load_images(work.found)
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
    report.remarks += work.elsewhere.remarks(work.released or folder_of_wheels(work.folder))
    if not work.containers:
        report.remarks.append(trees.SAYS)
    if without:
        report.remarks.append(f"PARTIAL: without the stages {', '.join(without)}; a release needs them all")
    return report


def release_problems(work: Work, report: Report) -> list[str]:
    """Say what keeps this gate from being one of a release, whatever else it found."""
    problems = [f"for a release: {remark}" for remark in report.remarks if remark.startswith("PARTIAL")]
    problems += [f"for a release, not proven: {cell.name}, {cell.what}" for cell in work.elsewhere.empty]
    for target in work.targets.values():
        for python in wheels.released_pythons():
            path = work.wheels.get(WheelKey(target.name, python, "cibuildwheel"))
            where = f"for a release: {target.name}, Python {python}"
            if path is None:
                problems.append(f"{where}: there is no wheel of cibuildwheel; --wheels names the folder that has them")
            elif sbom.built_by(path) != "cibuildwheel":
                problems.append(f"{where}: {path.name} did not come from cibuildwheel")
    if work.released is None:
        problems.append("for a release: no wheels were given (--wheels); those that are made here are never published")
    return problems


def folder_of_wheels(report: Path) -> Path:
    """Return where a gate leaves the wheels that it built."""
    return report / "wheels"


def _is_possible(machine: Machine, work: Work) -> bool:
    """Return whether a row can run where some stages were left out; else it must, or fails."""
    return "cibuildwheel" in work.stages or machine.built_by != "cibuildwheel"


def rows_to_run(work: Work) -> Sequence[Machine]:
    """Return the rows to run, each once; "native" stands for those of the engine's own CPU with the release's wheel."""
    possible = [machine for machine in work.expected if _is_possible(machine, work)]
    if not work.machine_names:
        return possible
    chosen: list[Machine] = []
    for name in work.machine_names:
        native = [row for row in possible if _is_plain(row)]
        chosen += native if name == "native" else [platforms.find(name, possible)]
    return list(dict.fromkeys(chosen))


def _is_plain(machine: Machine) -> bool:
    """Return whether a row is the engine's own CPU and nothing else is unusual about it."""
    return machine.model is None and not machine.threads and machine.built_by in ("", "cibuildwheel")


def _faulty_wheel(work: Work, key: WheelKey, entries: Mapping[str, str]) -> Path:
    name = "-".join(f"{key}-{value}" for key, value in sorted(entries.items()))
    folder = cache.folder("faulty", name)
    target = work.targets[key.platform]
    built = wheels.build_wheels(
        [target], ROOT, folder, cache=cache.folder("wheels"), pythons=[key.python], defines=entries
    )
    return built[key.platform, key.python]
