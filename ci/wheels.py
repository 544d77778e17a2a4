"""Builds the wheels of each platform and Python by cross-compiling on one Linux machine. Publishes and runs none."""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from build import BuildBackendException, BuildException, ProjectBuilder
from build.env import DefaultIsolatedEnv, IsolatedEnv
from rich.console import Console
from rich.table import Table

from ci import cache as kept
from ci import python_headers
from ci.audit.manifest import summary
from ci.audit.wheel import check_wheel, read_binaries
from ci.finish import finish_wheel
from ci.platforms import Target, load_images, load_targets
from ci.progress import say, step
from ci.wheel_file import Wheel, WheelError, abi_of, read_wheel, running_version
from ci.zig import Toolchain, make_toolchain

_ROOT = Path(__file__).resolve().parent.parent

# The flags of whoever runs us must not reach a release; proxies, package indexes and CA bundles must.
_DROPPED = frozenset(
    {
        "ARCHFLAGS",
        "CC",
        "CFLAGS",
        "CPATH",
        "CPLUS_INCLUDE_PATH",
        "CPPFLAGS",
        "CXX",
        "CXXFLAGS",
        "C_INCLUDE_PATH",
        "DESTDIR",
        "LDFLAGS",
        "LIBRARY_PATH",
        "PYTHONHOME",
        "PYTHONPATH",
    }
)
_DROPPED_PREFIXES = ("CMAKE_", "SKBUILD_", "ZIG_")
_KEPT = frozenset({"CMAKE_BUILD_PARALLEL_LEVEL"})

# The date of the files in a wheel built from no commit. Any fixed one serves; zip archives begin in 1980.
_NO_COMMIT = "1577836800"

_LINES_SHOWN = 40


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
    progress: Callable[[str], None] = say,
) -> dict[tuple[str, str], Path]:
    """Build, name and check the wheels of the project for several platforms, side by side, and Pythons.

    The core is compiled once for each platform, the binding once for each Python. The first build of a platform
    compiles zig's standard library with one processor: the others have work meanwhile.

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
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        builds = {
            platform.name: pool.submit(
                _build_platform,
                platform,
                source,
                output,
                cache=cache,
                headers=headers,
                defines=defines or {},
                progress=progress,
            )
            for platform in platforms
        }
    return {(name, version): path for name, build in builds.items() for version, path in build.result().items()}


def _build_platform(
    platform: Target,
    source: Path,
    output: Path,
    *,
    cache: Path,
    headers: Mapping[str, Path],
    defines: Mapping[str, str],
    progress: Callable[[str], None],
) -> dict[str, Path]:
    """Build the wheels of one platform; see `build_wheels`."""
    date = date_of(source)
    if date == _NO_COMMIT:
        progress(f"{platform.name}: no commit was found in {source}: the wheel's files are of 2020-01-01")
    log = _Log.fresh(cache / "logs" / _log_name(platform, defines))
    wheels = {}
    with tempfile.TemporaryDirectory(prefix="constann-wheel-") as work:
        core: Mapping[str, str] = {}
        for version, folder in headers.items():
            toolchain = make_toolchain(platform, cache / "zig", folder, once=True)
            variables = _variables(platform, toolchain, date, version)
            builder, environment = _builder(source, cache, log, variables)
            if not core:
                progress(f"{platform.name}: compiling for {platform.compiler.zig_target}")
                entries = {"CMAKE_TOOLCHAIN_FILE": str(toolchain.file), **defines}
                library = _compile_core(
                    source, Path(work, "core"), environment, entries=entries, variables=variables, log=log
                )
                core = {"CONSTANN_CORE": str(library)}
            raw = _compile(builder, Path(work, version), toolchain, {**defines, **core}, log)
            progress(f"{platform.name}: naming and checking the wheel for Python {version}")
            wheel = finish_wheel(raw, platform, abi_of(version), Path(work, "finished"), date=date)
            check_wheel(wheel, platform, abi_of(version))
            output.mkdir(parents=True, exist_ok=True)
            with kept.whole(output / wheel.name) as place:
                shutil.copyfile(wheel, place)
            wheels[version] = output / wheel.name
    return wheels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `./ci/run wheels`."""
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
    parser.add_argument(
        "--output", type=Path, default=Path("dist"), metavar="DIR", help="where the wheels go (default: dist)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Build the wheels asked for and print one table; return the exit status."""
    known = load_targets()
    wanted = [known[name] for name in dict.fromkeys(arguments.platforms or known)]
    pythons = tuple(dict.fromkeys(arguments.pythons or load_images().wheels))
    with step(f"wheels for {', '.join(platform.name for platform in wanted)}"):
        paths = build_wheels(wanted, _ROOT, arguments.output, cache=kept.folder("wheels"), pythons=pythons)
    print_table((known[name], read_wheel(path)) for (name, _), path in paths.items())
    return 0


def print_table(wheels: Iterable[tuple[Target, Wheel]]) -> None:
    """Print what there is to say of each wheel."""
    table = Table(box=None, pad_edge=False)
    for heading in ("platform", "file", "size", "SHA-256", "floor", "instruction sets", "proof"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "size" else "left")
    for target, wheel in wheels:
        sets = summary(read_binaries(wheel.path), target)
        table.add_row(target.name, wheel.path.name, f"{wheel.size:,}", wheel.sha256, wheel.floor, sets, target.proof)
    # Names and digests are there to be copied: a terminal may wrap the lines, but nothing is cut.
    Console(width=1000, soft_wrap=True).print(table)


def _log_name(platform: Target, defines: Mapping[str, str]) -> str:
    """Return a file name for each kind of build: one with a planted fault must not overwrite the release's."""
    digest = hashlib.sha256(repr(sorted(defines.items())).encode()).hexdigest()[:8]
    return f"{platform.name}{f'-{digest}' if defines else ''}.txt"


@dataclass(frozen=True)
class _Log:
    """Where the output of the tools goes: one file a platform, whose end is in the error when a tool fails."""

    path: Path

    @classmethod
    def fresh(cls, path: Path) -> "_Log":
        """Begin the log anew."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        return cls(path)

    def run(self, command: Sequence[str], variables: Mapping[str, str], cwd: str | None) -> None:
        """Run a command with its output in the log; raises CalledProcessError."""
        with self.path.open("a") as file:
            print(f"$ {' '.join(command)}", file=file, flush=True)
            subprocess.run(command, cwd=cwd, env=dict(variables), stdout=file, stderr=file, check=True)

    def failure(self, what: str) -> WheelError:
        """Return the error for a tool that failed, with the end of the log."""
        lines = self.path.read_text(errors="replace").splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-_LINES_SHOWN:])
        return WheelError(f"{what}; the end of {self.path}:\n{shown}")


@dataclass(frozen=True)
class _BuildEnvironment(IsolatedEnv):
    """A kept environment with the project's build requirements.

    Kept, because installing takes long, and the compiler's cache knows headers again by their path alone.
    """

    folder: Path

    @property
    def python_executable(self) -> str:
        return str(self.folder / "bin" / "python")

    def make_extra_environ(self) -> Mapping[str, str]:
        return {"PATH": os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", os.defpath)])}


def _builder(
    source: Path, cache: Path, log: _Log, variables: Mapping[str, str]
) -> tuple[ProjectBuilder, _BuildEnvironment]:
    """Return the project's builder, whose backend runs with these variables, and the environment it runs in."""

    def run_hook(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        log.run(cmd, {**variables, **(extra_environ or {})}, cwd)

    try:
        requirements = ProjectBuilder(source).build_system_requires
        environment = _build_environment(requirements, source, cache / "environments")
        return ProjectBuilder.from_isolated_env(environment, source, run_hook), environment
    except (BuildException, BuildBackendException) as error:
        raise WheelError(f"{source} is no project that can be built: {error}") from error


def _build_environment(requirements: Iterable[str], source: Path, folder: Path) -> _BuildEnvironment:
    """Return an environment with these requirements, made where there is none for this Python."""
    key = "\n".join([sys.version, sys.base_prefix, *sorted(requirements)])
    environment = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    finished = environment / "finished"
    folder.mkdir(parents=True, exist_ok=True)
    with kept.lock(environment.with_suffix(".lock")):
        if not finished.exists():
            shutil.rmtree(environment, ignore_errors=True)
            try:
                # Entered by hand: leaving it as a context would remove the folder.
                made = DefaultIsolatedEnv(path=str(environment)).__enter__()
                made.install([*requirements])
                made.install(ProjectBuilder.from_isolated_env(made, source).get_requires_for_build("wheel"))
            except subprocess.CalledProcessError as error:
                raise WheelError(
                    f"{source / 'pyproject.toml'}: the build requirements cannot be installed, see pip's"
                    " output above: is a package index within reach? PIP_INDEX_URL and the like are honoured"
                ) from error
            finished.touch()
    return _BuildEnvironment(environment)


def _variables(platform: Target, toolchain: Toolchain, date: str, version: str) -> dict[str, str]:
    """Return the variables that the build backend runs with: ours without flags, and the target's names.

    pip must not see them: by _PYTHON_HOST_PLATFORM it would install CMake and Ninja for the target.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or (name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES))
    }
    return {
        **inherited,
        **toolchain.environment,
        "SETUPTOOLS_EXT_SUFFIX": platform.wheel.extension_suffix.format(abi=abi_of(version)),
        "SOURCE_DATE_EPOCH": date,
        "_PYTHON_HOST_PLATFORM": platform.wheel.host_platform,
    }


def date_of(source: Path) -> str:
    """Return the date of the files in the wheel: the environment's, else the commit's; never the clock's."""
    if chosen := os.environ.get("SOURCE_DATE_EPOCH"):
        return chosen
    # Whoever owns it: git would refuse another user's repository, and the wheel would silently be another one.
    trusted = f"safe.directory={source.resolve()}"
    command = ["git", "-c", trusted, "-C", str(source), "log", "-1", "--format=%ct"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
        return _NO_COMMIT
    return answer or _NO_COMMIT


def _compile_core(
    source: Path,
    work: Path,
    environment: _BuildEnvironment,
    *,
    entries: Mapping[str, str],
    variables: Mapping[str, str],
    log: _Log,
) -> Path:
    """Compile what knows nothing of Python, and return the library."""
    cmake = str(environment.folder / "bin" / "cmake")
    options = [f"-D{name}={value}" for name, value in entries.items()]
    found = {**variables, **environment.make_extra_environ()}
    try:
        log.run([cmake, "-S", str(source), "-B", str(work), "-G", "Ninja", *options], found, None)
        log.run([cmake, "--build", str(work), "--target", "constann_core"], found, None)
    except subprocess.CalledProcessError:
        raise log.failure(f"{source} does not build") from None
    return work / "libconstann_core.a"


def _compile(
    builder: ProjectBuilder, output: Path, toolchain: Toolchain, defines: Mapping[str, str], log: _Log
) -> Path:
    """Run the project's own build backend and return its wheel, still tagged linux_…."""
    entries = {"CMAKE_TOOLCHAIN_FILE": str(toolchain.file), **defines}
    settings = {f"cmake.define.{name}": value for name, value in entries.items()}
    # The building machine's strip cannot read another machine's files, and the audit wants the symbols.
    settings["install.strip"] = "false"
    try:
        return Path(builder.build("wheel", output, settings))
    except BuildBackendException:
        raise log.failure(f"{builder.source_dir} does not build") from None
