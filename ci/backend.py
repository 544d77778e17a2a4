"""Runs a project's own build backend in a kept environment, with a log. Knows nothing of platforms and compilers."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from build import BuildBackendException, BuildException, ProjectBuilder
from build.env import DefaultIsolatedEnv, IsolatedEnv

from ci import cache as kept
from ci.wheel_file import WheelError

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
NO_COMMIT = "1577836800"

_LINES_SHOWN = 40


@dataclass(frozen=True)
class Log:
    """Where the output of the tools goes: one file a platform, whose end is in the error when a tool fails."""

    path: Path

    @classmethod
    def fresh(cls, path: Path) -> "Log":
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
class BuildEnvironment(IsolatedEnv):
    """A kept environment with the project's build requirements.

    Kept, because installing takes long, and the compiler's cache knows headers again by their path alone.
    """

    folder: Path

    @property
    def python_executable(self) -> str:
        """Return its Python."""
        return str(self.folder / "bin" / "python")

    def make_extra_environ(self) -> Mapping[str, str]:
        """Return the variables that put its programs first."""
        return {"PATH": os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", os.defpath)])}

    def packages_with_headers(self) -> dict[str, str]:
        """Return the version of each package in it that has headers, which a compiler may have read."""
        places = [str(each) for each in (self.folder / "lib").glob("python*/site-packages")]
        return {
            each.name: each.version
            for each in distributions(path=places)
            if any(file.suffix in (".h", ".hpp", ".hh") for file in each.files or ())
        }


def open_project(
    source: Path, cache: Path, log: Log, variables: Mapping[str, str], *, name: str = ""
) -> tuple[ProjectBuilder, BuildEnvironment]:
    """Return the project's builder, whose backend runs with these variables, and the environment it runs in.

    `name` tells the environments of projects apart that ask for more than their pyproject.toml says.
    """

    def run_hook(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        log.run(cmd, {**variables, **(extra_environ or {})}, cwd)

    try:
        requirements = ProjectBuilder(source).build_system_requires
        environment = _build_environment(requirements, source, cache / "environments", name)
        return ProjectBuilder.from_isolated_env(environment, source, run_hook), environment
    except (BuildException, BuildBackendException) as error:
        raise WheelError(f"{source} is no project that can be built: {error}") from error


def _build_environment(requirements: Iterable[str], source: Path, folder: Path, name: str) -> BuildEnvironment:
    """Return an environment with these requirements, made where there is none for this Python."""
    key = "\n".join([sys.version, sys.base_prefix, *sorted(requirements), *([name] if name else [])])
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
    return BuildEnvironment(environment)


def inherited() -> dict[str, str]:
    """Return the variables of whoever runs us that a build may see: no flags, no paths to search."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or (name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES))
    }


def date_of(source: Path) -> str:
    """Return the date of the files in a wheel, in seconds since 1970: the environment's, else the commit's.

    Never the clock's: without a commit it is a fixed one.
    """
    if chosen := os.environ.get("SOURCE_DATE_EPOCH"):
        return chosen
    # Whoever owns it: git would refuse another user's repository, and the wheel would silently be another one.
    trusted = f"safe.directory={source.resolve()}"
    command = ["git", "-c", trusted, "-C", str(source), "log", "-1", "--format=%ct"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
        return NO_COMMIT
    return answer or NO_COMMIT
