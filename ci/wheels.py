"""Builds the wheels of each platform and Python by cross-compiling on one Linux machine. Publishes and runs none."""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as metadata_version
from pathlib import Path

from build import BuildBackendException, ProjectBuilder
from rich.console import Console
from rich.table import Table

from ci import cache as kept
from ci import compilers, foreign, python_headers
from ci.audit.manifest import summary
from ci.audit.wheel import check_wheel, read_binaries
from ci.backend import NO_COMMIT, BuildEnvironment, Log, date_of, inherited, open_project
from ci.finish import finish_wheel
from ci.platforms import Target, load, load_images, load_targets
from ci.progress import say, step
from ci.wheel_file import Wheel, WheelError, abi_of, read_wheel, running_version
from ci.zig import Toolchain, make_toolchain

_ROOT = Path(__file__).resolve().parent.parent

# What a build reads and what finishes a wheel; the rest of a checkout may be large and is nobody's business.
SOURCES = (
    *("CMakeLists.txt", "LICENSE", "README.md", "THIRD-PARTY-LICENSES", "pyproject.toml"),
    *("ci", "cpp", "platforms", "python"),
)


def build_wheel(
    platform: Target,
    source: Path,
    output: Path,
    *,
    cache: Path,
    defines: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = say,
) -> Path:
    """Build, name and check the wheel of the project for one platform and the running Python; see `build_wheels`."""
    built = build_wheels([platform], source, output, cache=cache, defines=defines, progress=progress)
    return built[platform.name, running_version()]


def build_wheels(
    platforms: Iterable[Target],
    source: Path,
    output: Path,
    *,
    cache: Path,
    pythons: Sequence[str] = (),
    defines: Mapping[str, str] | None = None,
    compiler: str = "",
    progress: Callable[[str], None] = say,
) -> dict[tuple[str, str], Path]:
    """Build, name and check the wheels of the project for several platforms, side by side, and Pythons.

    The core is compiled once for each platform, the binding once for each Python. The first build of a platform
    compiles zig's standard library with one processor, as every binding is: one platform more than processors at a
    time leaves none of them idle.

    Parameters
    ----------
    platforms
        The platforms to build for.
    source
        The folder of pyproject.toml; it is built as it is, committed or not, and nothing is written there.
    output
        Where the wheels go; a wheel of the same name is replaced.
    cache
        A kept folder for compiled libraries, the build environment and the logs; it changes only the time.
    pythons
        Versions such as "3.13"; none means the running one.
    defines
        CMake cache entries besides the project's own; the negative controls plant their faults with these.
    compiler
        One of this computer's (see ci/compilers.py) in place of ziglang's. Such a wheel is for comparing alone: it
        keeps the tag of the backend, is not checked, and runs only where the C library is as new as here.
    progress
        Told each step in one line.

    Returns
    -------
    dict
        The wheels in `output`, by the platform's name and the version of Python.

    Raises
    ------
    WheelError
        When a step fails or a wheel is not what the platform promises. The first error ends the call once the other
        builds have ended.
    ToolchainError
        When the compiler is missing.
    HeadersError
        When a Python's headers are.
    """
    cache = cache.absolute()
    headers = {
        version: python_headers.headers_of(version, cache / "headers") for version in pythons or [running_version()]
    }
    with ThreadPoolExecutor(max_workers=(os.cpu_count() or 1) + 1) as pool:
        builds = {
            platform.name: pool.submit(
                _build_platform,
                platform,
                source,
                output,
                cache=cache,
                headers=headers,
                defines=defines or {},
                compiler=compiler,
                progress=progress,
            )
            for platform in platforms
        }
    return {(name, version): path for name, build in builds.items() for version, path in build.result().items()}


def keep_wheels(
    platforms: Sequence[Target], source: Path, output: Path, *, cache: Path, pythons: Sequence[str]
) -> dict[tuple[str, str], Path]:
    """Give the wheels that `build_wheels` would, and build only those that were not built from the same before.

    The same is: every file that a build reads, the commit's date, the compiler.
    """
    wanted: dict[tuple[str, str], Path] = {}
    for python, digest in digests_of_inputs(source, pythons, cache=cache).items():
        wanted |= {(each.name, python): kept.folder("built-wheels", digest) / each.name for each in platforms}
    missing = [each for each in platforms if not all(wanted[each.name, python].exists() for python in pythons)]
    if missing:
        built = build_wheels(missing, source, output, cache=cache, pythons=pythons)
        for key, path in built.items():
            if not wanted[key].exists():
                with kept.whole(wanted[key]) as folder:
                    folder.mkdir()
                    shutil.copyfile(path, folder / path.name)
    output.mkdir(parents=True, exist_ok=True)
    found = {}
    for key, folder in wanted.items():
        (path,) = folder.iterdir()
        found[key] = Path(shutil.copyfile(path, output / path.name))
    return found


def digests_of_inputs(source: Path, pythons: Sequence[str], *, cache: Path) -> dict[str, str]:
    """Return for each Python a short name for all that the bytes of its wheels come from, besides the platform."""
    same = [date_of(source), metadata_version("ziglang"), kept.digest_of(source / name for name in SOURCES)]

    def digest(python: str) -> str:
        headers = python_headers.version_of(python_headers.headers_of(python, cache / "headers"))
        return kept.name_for([*same, python, headers])

    return {python: digest(python) for python in pythons}


def _build_platform(
    platform: Target,
    source: Path,
    output: Path,
    *,
    cache: Path,
    headers: Mapping[str, Path],
    defines: Mapping[str, str],
    compiler: str,
    progress: Callable[[str], None],
) -> dict[str, Path]:
    """Build the wheels of one platform; see `build_wheels`."""
    date = date_of(source)
    if date == NO_COMMIT:
        progress(f"{platform.name}: no commit was found in {source}: the wheel's files are of 2020-01-01")
    log = Log.fresh(cache / "logs" / _log_name(platform, {**defines, **({"compiler": compiler} if compiler else {})}))
    wheels = {}
    how = f"with {compiler}" if compiler else f"for {platform.compiler.zig_target}"
    with tempfile.TemporaryDirectory(prefix="constann-wheel-") as work:
        core: Mapping[str, str] = {}
        for version, folder in headers.items():
            if compiler:
                toolchain = compilers.make_toolchain(platform, compiler, Path(work, "tools"), folder)
            else:
                toolchain = make_toolchain(platform, cache / "zig", folder, once=True)
            variables = _variables(platform, toolchain, date, version)
            builder, environment = open_project(source, cache, log, variables)
            if not core:
                progress(f"{platform.name}: compiling {how}")
                entries = {"CMAKE_TOOLCHAIN_FILE": str(toolchain.file), **defines}
                library = _run_cmake(
                    source,
                    Path(work, "core"),
                    environment,
                    make="constann_core",
                    product="libconstann_core.a",
                    entries=entries,
                    variables=variables,
                    log=log,
                )
                core = {"CONSTANN_CORE": str(library)}
            raw = _compile(builder, Path(work, version), toolchain, {**defines, **core}, log)
            wheel = raw
            if not compiler:
                progress(f"{platform.name}: naming and checking the wheel for Python {version}")
                finished = Path(work, "finished")
                wheel = finish_wheel(raw, platform, abi_of(version), finished, date=date, cross_compiled=True)
                check_wheel(wheel, platform, abi_of(version))
            output.mkdir(parents=True, exist_ok=True)
            with kept.whole(output / wheel.name) as place:
                shutil.copyfile(wheel, place)
            wheels[version] = output / wheel.name
    return wheels


def build_program(target: Target, source: Path, output: Path, *, cache: Path) -> Path:
    """Compile the conformance program, the core without Python, for one target and link it static; return it."""
    log = Log.fresh(cache / "logs" / f"{target.name}-conformance.txt")
    toolchain = make_toolchain(target, cache / "zig", once=True)
    variables = {**inherited(), **toolchain.environment}
    _, environment = open_project(source, cache, log, variables)
    with tempfile.TemporaryDirectory(prefix="constann-program-") as work:
        entries = {"CMAKE_TOOLCHAIN_FILE": str(toolchain.file), "CMAKE_EXE_LINKER_FLAGS": "-static -s"}
        say(f"{target.name}: compiling the conformance program")
        name = "constann_conformance"
        built = _run_cmake(
            source, Path(work), environment, make=name, product=name, entries=entries, variables=variables, log=log
        )
        output.mkdir(parents=True, exist_ok=True)
        with kept.whole(output / f"{name}-{target.name}") as place:
            shutil.copy(built, place)
    return output / f"{name}-{target.name}"


def build_sdist(source: Path, output: Path, *, cache: Path) -> Path:
    """Build the source archive, whose bytes depend on the sources and the commit's date alone, and return it."""
    log = Log.fresh(cache.absolute() / "logs" / "sdist.txt")
    given = inherited() | {"SOURCE_DATE_EPOCH": date_of(source)}
    builder, _ = open_project(source, cache.absolute(), log, given)
    output.mkdir(parents=True, exist_ok=True)
    try:
        return Path(builder.build("sdist", output.absolute()))
    except BuildBackendException:
        raise log.failure(f"{source} makes no sdist") from None


def add_sdist_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the option of `./ci/run sdist`."""
    parser.add_argument(
        "--output", type=Path, default=Path("dist"), metavar="DIR", help="where it goes (default: dist)"
    )


def run_sdist(arguments: argparse.Namespace) -> int:
    """Build the source archive."""
    path = build_sdist(_ROOT, arguments.output, cache=kept.folder("wheels"))
    print(f"{path}  {path.stat().st_size:,} bytes  SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return 0


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say which wheels: --platform and --python."""
    parser.add_argument(
        "--platform",
        action="append",
        choices=sorted(load_targets()),
        dest="platforms",
        help="a platform to build for; may be repeated (default: every one in platforms/)",
    )
    parser.add_argument(
        "--python",
        action="append",
        dest="pythons",
        metavar="VERSION",
        help=f"a Python to build for, such as 3.13; may be repeated (default: {' and '.join(load_images().wheels)})",
    )


def chosen(arguments: argparse.Namespace) -> tuple[list[Target], tuple[str, ...]]:
    """Return the targets and Pythons asked for, or all."""
    known = load_targets()
    pythons = tuple(dict.fromkeys(arguments.pythons or load_images().wheels))
    return [known[name] for name in dict.fromkeys(arguments.platforms or known)], pythons


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `./ci/run wheels`."""
    add_choice(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("dist"), metavar="DIR", help="where the wheels go (default: dist)"
    )
    parser.add_argument(
        "--sdist",
        metavar="NAME==VERSION|FILE|FOLDER",
        help="build another project's wheels for Linux instead: from a package index, an sdist, or a checkout",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="with --sdist: a switch of the project's own build, such as ANNOY_COMPILER_ARGS=-O2; may be repeated",
    )
    parser.add_argument(
        "--asks-first",
        action="store_true",
        help="with --sdist: the project asks the CPU before it runs instructions beyond the baseline: tell them, and"
        " keep the wheel",
    )


def run(arguments: argparse.Namespace) -> int:
    """Build the wheels asked for and print one table; return the exit status."""
    if arguments.sdist:
        return _run_foreign(arguments)
    if arguments.env or arguments.asks_first:
        raise WheelError("--env and --asks-first are for other projects' wheels: name one with --sdist")
    wanted, pythons = chosen(arguments)
    known = {each.name: each for each in wanted}
    with step(f"wheels for {', '.join(platform.name for platform in wanted)}"):
        paths = build_wheels(wanted, _ROOT, arguments.output, cache=kept.folder("wheels"), pythons=pythons)
    rows = [row_of(known[name], read_wheel(path), known[name].proof) for (name, _), path in paths.items()]
    print_table([*rows, *_workflow_rows(wanted, pythons)])
    return 0


def _run_foreign(arguments: argparse.Namespace) -> int:
    """Build another project's wheels; see ci/foreign.py."""
    targets = [each for each in load().values() if not arguments.platforms or each.name in arguments.platforms]
    if other := set(arguments.platforms or ()) - {each.name for each in targets}:
        raise WheelError(f"another project's wheels are built for Linux with glibc alone, not for {', '.join(other)}")
    if wrong := [each for each in arguments.env if "=" not in each]:
        raise WheelError(f"--env {wrong[0]}: say NAME=VALUE")
    switches = dict(each.split("=", 1) for each in arguments.env)
    pythons = tuple(dict.fromkeys(arguments.pythons or load_images().wheels))
    with step(f"wheels of {arguments.sdist}"):
        built = foreign.build(
            arguments.sdist,
            targets,
            pythons,
            arguments.output,
            switches=switches,
            asks_first=arguments.asks_first,
        )
    print_table(row_of(each.target, each.wheel, "built and audited, not run") for each in built)
    print(*foreign.remarks(built), sep="\n")
    print(foreign.use_lines(built, arguments.output))
    return 0


Row = tuple[str, ...]


def row_of(target: Target, wheel: Wheel, proof: str) -> Row:
    """Return what there is to say of a wheel."""
    sets = summary(read_binaries(wheel.path), target)
    return (target.name, wheel.path.name, f"{wheel.size:,}", wheel.sha256, wheel.floor, sets, proof)


def _workflow_rows(targets: Iterable[Target], pythons: Sequence[str]) -> list[Row]:
    """Return a row for each wheel that a release has and that was not built here: the workflow alone makes it."""
    return [
        (target.name, f"{target.wheel.tag} for Python {version}", "-", "-", "-", "-", "workflow only: not built here")
        for target in targets
        for version in released_pythons()
        if version not in pythons
    ]


def released_pythons() -> list[str]:
    """Return every Python that a release has wheels for, such as "3.13" or "3.14t": what cibuildwheel builds for."""
    chosen = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["build"]
    words = chosen.split() if isinstance(chosen, str) else chosen
    found = [re.match(r"cp(\d)(\d+t?)-", word) for word in words]
    return list(dict.fromkeys(f"{each[1]}.{each[2]}" for each in found if each))


def print_table(rows: Iterable[Row]) -> None:
    """Print one table of wheels."""
    table = Table(box=None, pad_edge=False)
    for heading in ("platform", "file", "size", "SHA-256", "floor", "instruction sets", "proof"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "size" else "left")
    for row in rows:
        table.add_row(*row)
    # Names and digests are there to be copied: a terminal may wrap the lines, but nothing is cut.
    Console(width=1000, soft_wrap=True, highlight=False, markup=False).print(table)


def _log_name(platform: Target, defines: Mapping[str, str]) -> str:
    """Return a file name for each kind of build: one with a planted fault must not overwrite the release's."""
    digest = hashlib.sha256(repr(sorted(defines.items())).encode()).hexdigest()[:8]
    return f"{platform.name}{f'-{digest}' if defines else ''}.txt"


def _variables(platform: Target, toolchain: Toolchain, date: str, version: str) -> dict[str, str]:
    """Return the variables that the build backend runs with: ours without flags, and the target's names.

    pip must not see them: by _PYTHON_HOST_PLATFORM it would install CMake and Ninja for the target.
    """
    return {
        **inherited(),
        **toolchain.environment,
        "SETUPTOOLS_EXT_SUFFIX": platform.wheel.extension_suffix.format(abi=abi_of(version)),
        "SOURCE_DATE_EPOCH": date,
        "_PYTHON_HOST_PLATFORM": platform.wheel.host_platform,
    }


def _run_cmake(
    source: Path,
    work: Path,
    environment: BuildEnvironment,
    *,
    make: str,
    product: str,
    entries: Mapping[str, str],
    variables: Mapping[str, str],
    log: Log,
) -> Path:
    """Compile one of CMake's targets that know nothing of Python, and return what it is for."""
    cmake = str(environment.folder / "bin" / "cmake")
    options = [f"-D{name}={value}" for name, value in entries.items()]
    found = {**variables, **environment.make_extra_environ()}
    try:
        log.run([cmake, "-S", str(source), "-B", str(work), "-G", "Ninja", *options], found, None)
        log.run([cmake, "--build", str(work), "--target", make], found, None)
    except subprocess.CalledProcessError:
        raise log.failure(f"{source} does not build") from None
    return work / product


def _compile(builder: ProjectBuilder, output: Path, toolchain: Toolchain, defines: Mapping[str, str], log: Log) -> Path:
    """Run the project's own build backend and return its wheel, still tagged linux_…."""
    entries = {"CMAKE_TOOLCHAIN_FILE": str(toolchain.file), **defines}
    settings = {f"cmake.define.{name}": value for name, value in entries.items()}
    # The building machine's strip cannot read another machine's files, and the audit wants the symbols.
    settings["install.strip"] = "false"
    try:
        return Path(builder.build("wheel", output, settings))
    except BuildBackendException:
        raise log.failure(f"{builder.source_dir} does not build") from None
