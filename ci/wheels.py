"""Builds each platform's wheel by cross-compiling on one Linux machine. Publishes and runs none of them."""

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
from ci.platforms import Platform, load
from ci.progress import say, step
from ci.wheel_file import Wheel, WheelError, check_wheel, read_wheel, running_abi
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
    platform: Platform,
    source: Path,
    output: Path,
    *,
    cache: Path,
    defines: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = say,
) -> Path:
    """Build, name and check the wheel of the project for one platform and the running Python.

    Parameters
    ----------
    platform
        The platform to build for.
    source
        The folder of pyproject.toml; it is built as it is, committed or not, and nothing is written there.
    output
        Where the wheel goes; a wheel of the same name is replaced.
    cache
        A kept folder for compiled libraries, the build environment and the logs; it changes only the time.
    defines
        CMake cache entries besides the project's own; the negative controls plant their faults with these.
    progress
        Told each step in one line.

    Returns
    -------
    Path
        The wheel, in `output`.

    Raises
    ------
    WheelError
        When a step fails or the wheel is not what the platform promises.
    ToolchainError
        When the compiler or Python's headers are missing.
    """
    cache = cache.absolute()
    log = _Log(cache / "logs" / _log_name(platform, defines or {}))
    toolchain = make_toolchain(platform, cache / "zig", once=True)
    date = _date(source)
    if date == _NO_COMMIT:
        progress(f"{platform.name}: no commit was found in {source}: the wheel's files are of 2020-01-01")
    variables = _variables(platform, toolchain, date)
    with tempfile.TemporaryDirectory(prefix="constann-wheel-") as work:
        progress(f"{platform.name}: compiling for {platform.compiler.zig_target}")
        builder = _builder(source, cache, log, variables)
        raw = _compile(builder, Path(work, "raw"), toolchain, defines or {}, log)
        progress(f"{platform.name}: naming and checking {raw.name}")
        wheel = _name_by_policy(raw, platform, Path(work), variables)
        check_wheel(wheel, platform, running_abi())
        output.mkdir(parents=True, exist_ok=True)
        with kept.whole(output / wheel.name) as place:
            shutil.copyfile(wheel, place)
    return output / wheel.name


def build_wheels(
    platforms: Iterable[Platform],
    source: Path,
    output: Path,
    *,
    cache: Path,
    defines: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = say,
) -> dict[str, Path]:
    """Build the wheels of several platforms side by side, and return them by the platform's name.

    The first build of a platform compiles zig's standard library with one processor: the others have work meanwhile.
    See `build_wheel` for the parameters and errors; the first error ends the call once the other builds have ended.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        builds = {
            platform.name: pool.submit(
                build_wheel, platform, source, output, cache=cache, defines=defines, progress=progress
            )
            for platform in platforms
        }
    return {name: build.result() for name, build in builds.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `./ci/run wheels`."""
    parser.add_argument(
        "--platform",
        action="append",
        choices=sorted(load()),
        dest="platforms",
        help="a platform to build for; may be repeated (default: every one in platforms/)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("dist"), metavar="DIR", help="where the wheels go (default: dist)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Build the wheels asked for and print one table; return the exit status."""
    known = load()
    wanted = [known[name] for name in dict.fromkeys(arguments.platforms or known)]
    with step(f"wheels for {', '.join(platform.name for platform in wanted)}"):
        paths = build_wheels(wanted, _ROOT, arguments.output, cache=kept.folder("wheels"))
    _print_table((name, read_wheel(path)) for name, path in paths.items())
    return 0


def _print_table(wheels: Iterable[tuple[str, Wheel]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("platform", "file", "size", "SHA-256", "glibc"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "size" else "left")
    for name, wheel in wheels:
        table.add_row(name, wheel.path.name, f"{wheel.size:,}", wheel.sha256, wheel.glibc)
    # Names and digests are there to be copied: a terminal may wrap the lines, but nothing is cut.
    Console(width=1000, soft_wrap=True).print(table)


def _log_name(platform: Platform, defines: Mapping[str, str]) -> str:
    """Return a file name for each kind of build: one with a planted fault must not overwrite the release's."""
    digest = hashlib.sha256(repr(sorted(defines.items())).encode()).hexdigest()[:8]
    return f"{platform.name}-cp{running_abi()}{f'-{digest}' if defines else ''}.txt"


@dataclass(frozen=True)
class _Log:
    """Where the output of the tools goes: one file a wheel, whose end is in the error when a tool fails."""

    path: Path

    def run(self, command: Sequence[str], variables: Mapping[str, str], cwd: str | None) -> None:
        """Run a command with its output in the log; raises CalledProcessError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w") as file:
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


def _builder(source: Path, cache: Path, log: _Log, variables: Mapping[str, str]) -> ProjectBuilder:
    """Return the project's builder, in an environment of its own, whose backend runs with these variables."""

    def run_hook(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        log.run(cmd, {**variables, **(extra_environ or {})}, cwd)

    try:
        requirements = ProjectBuilder(source).build_system_requires
        environment = _build_environment(requirements, source, cache / "environments")
        return ProjectBuilder.from_isolated_env(environment, source, run_hook)
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


def _variables(platform: Platform, toolchain: Toolchain, date: str) -> dict[str, str]:
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
        "SETUPTOOLS_EXT_SUFFIX": platform.wheel.extension_suffix.format(abi=running_abi()),
        "SOURCE_DATE_EPOCH": date,
        "_PYTHON_HOST_PLATFORM": platform.wheel.host_platform,
    }


def _date(source: Path) -> str:
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


def _name_by_policy(wheel: Path, platform: Platform, work: Path, variables: Mapping[str, str]) -> Path:
    """Let auditwheel judge the wheel and name it for the platform's policy; the same bytes whoever runs this."""
    output = work / "named"
    command = [sys.executable, "-m", "ci.wheel_policy", str(wheel), platform.wheel.tag, str(output)]
    result = subprocess.run(
        command, cwd=_ROOT, env=dict(variables), umask=0o022, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise WheelError(result.stderr.strip())
    (named,) = output.glob("*.whl")
    return named
