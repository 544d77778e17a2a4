"""The release way to wheels: runs cibuildwheel as pyproject.toml configures it, and audits what came out.

Where no image registry answers, it builds in images of our own (ci/builders.py) instead of the pinned official ones.
Compiles nothing itself, and publishes nothing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from ci import builders, containers, engine, foreign_programs
from ci import cache as kept
from ci import platforms as facts_of
from ci.audit.wheel import audit_wheel
from ci.backend import date_of
from ci.engine import Engine
from ci.platforms import Platform, Target
from ci.progress import say, step
from ci.wheel_file import WheelError, abi_of, read_wheel
from ci.wheels import SOURCES, digests_of_inputs, print_table, row_of

_ROOT = Path(__file__).resolve().parent.parent

# By cibuildwheel's names for them.
_SYSTEMS = {"Linux": "linux", "Darwin": "macos"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m ci cibuildwheel`."""
    parser.add_argument(
        "--platform",
        action="append",
        required=True,
        choices=sorted(facts_of.load_targets()),
        dest="platforms",
        help="a platform to build for; may be repeated",
    )
    parser.add_argument(
        "--python",
        action="append",
        dest="pythons",
        metavar="VERSION",
        help="such as 3.13; may be repeated (default: all that pyproject.toml names)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("dist"), metavar="DIR", help="where the wheels go (default: dist)"
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="build in images of our own, with Debian's Python and, unless --compiler says otherwise, its compiler:"
        " what can be done where no image registry answers",
    )
    parser.add_argument(
        "--compiler",
        choices=("release", "image"),
        help="the one that pyproject.toml sets up, or the image's own (default with --local)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Build wheels with cibuildwheel, each tested where it was built, and audit them."""
    targets = facts_of.load_targets()
    wanted = [targets[name] for name in dict.fromkeys(arguments.platforms)]
    compiler = arguments.compiler or ("image" if arguments.local else "release")
    wheels: dict[Path, Target] = {}
    if arguments.local:
        pythons = arguments.pythons or [facts_of.load_images().python]
        known = list(facts_of.load().values())
        with engine.running(known) as found:
            for python in pythons:
                built = build_locally(found, _local(wanted), arguments.output, python=python, compiler=compiler)
                wheels |= {path: targets[name] for name, path in built.items()}
    else:
        for target in wanted:
            with _project() as project:
                variables = {"CIBW_BUILD": selected(target, arguments.pythons)} | compiler_settings(compiler)
                paths = _cibuildwheel(project, target, variables, arguments.output)
            wheels |= dict.fromkeys(paths, target)
    print_table(row_of(target, read_wheel(path), target.proof) for path, target in wheels.items())
    own_tag = compiler == "image"
    problems = [problem for path, target in wheels.items() for problem in audit(path, target, own_tag=own_tag)]
    for problem in problems:
        print(f"FAULT: {problem}")
    return 1 if problems else 0


def audit(path: Path, target: Target, *, own_tag: bool) -> list[str]:
    """Hold a wheel to the rules of its platform, and to the platform's tag or, with `own_tag`, to its own."""
    tags = read_wheel(path).name_tags
    abi = min(tag.abi for tag in tags).removeprefix("cp")
    # An older name of the same tag may stand beside it.
    tag = next((each.platform for each in tags if each.platform.startswith("manylinux_")), None) if own_tag else None
    return [f"{path.name}: {fault}" for fault in audit_wheel(path, target, abi, tag=tag)]


def build_locally(
    found: Engine,
    wanted: Sequence[Platform],
    output: Path,
    *,
    python: str,
    compiler: str = "image",
    kept_too: bool = False,
) -> dict[str, Path]:
    """Build in images of our own, those of other architectures under QEMU, and return each platform's wheel.

    Parameters
    ----------
    found
        The engine, which must be this computer's own.
    wanted
        What to build for.
    output
        Where the wheels go.
    python
        The version, such as "3.11".
    compiler
        "image" for the image's own, which makes tags as new as its C library; "release" for the one that
        pyproject.toml sets up.
    kept_too
        Take a wheel that was built before, from the same: where it is emulated, building takes half an hour.

    Raises
    ------
    WheelError
        When cibuildwheel fails; the text has the end of what it said.
    """
    containers.remove_leftovers(found)
    prepared = builders.prepare(found, wanted, facts_of.load_images(), python)
    inputs = digests_of_inputs(_ROOT, [python], cache=kept.folder("wheels"))[python]
    wheels = {}
    with _project() as project:
        for platform in wanted:
            place = _place(platform.name, [inputs, prepared[platform.name], compiler, version("cibuildwheel")])
            if kept_too and (before := _take_kept(platform.name, place, output)):
                wheels[platform.name] = before
                continue
            variables = {
                **found.program_environment,
                "CIBW_BUILD": f"cp{abi_of(python)}-manylinux_{platform.architecture}",
                f"CIBW_MANYLINUX_{platform.architecture.upper()}_IMAGE": prepared[platform.name],
                "CIBW_CONTAINER_ENGINE": f"docker; create_args: {container_options()}; disable_host_mount: true",
                **compiler_settings(compiler),
            }
            with foreign_programs.runnable(found, platform, prepared[platform.name]):
                (wheels[platform.name],) = _cibuildwheel(project, platform, variables, output)
            _keep(platform.name, wheels[platform.name], place)
    return wheels


def _place(platform: str, made_from: Sequence[str]) -> Path:
    """Return where a wheel is kept, by all that it is made of."""
    return kept.folder("cibuildwheel", kept.name_for(made_from)) / platform


def _keep(platform: str, wheel: Path, place: Path) -> None:
    """Keep a wheel and what cibuildwheel said, in place of what was kept."""
    shutil.rmtree(place, ignore_errors=True)
    with kept.whole(place) as folder:
        folder.mkdir()
        shutil.copy(wheel, folder)
        shutil.copy(wheel.parent / _log_name(platform), folder)


def _take_kept(platform: str, place: Path, output: Path) -> Path | None:
    """Copy a wheel that was kept, and what cibuildwheel said, to where a new one would be."""
    if not place.exists():
        return None
    (wheel,) = place.glob("*.whl")
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(place / _log_name(platform), output)
    say(f"{platform}: {wheel.name}, built by cibuildwheel before, from the same")
    shutil.copy(wheel, output)
    return output / wheel.name


def _log_name(platform: str) -> str:
    return f"cibuildwheel-{platform}.txt"


def _local(wanted: Iterable[Target]) -> list[Platform]:
    platforms = []
    for target in wanted:
        if not isinstance(target, Platform):
            raise WheelError(f"{target.name}: no image of our own can be made for it; without --local it can be built")
        platforms.append(target)
    return platforms


def selected(target: Target, pythons: Sequence[str] | None) -> str:
    """Return the builds for a platform, as cibuildwheel names them: all that pyproject.toml names, or some Pythons."""
    kind = target.wheel.tag.partition("_")[0]
    if not pythons:
        every = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["build"]
        return " ".join(f"{pattern.removesuffix('*')}{kind}_{target.architecture}" for pattern in every.split())
    versions = [f"cp{abi_of(python)}" for python in pythons]
    return " ".join(f"{version}-{kind}_{target.architecture}" for version in versions)


def compiler_settings(compiler: str) -> dict[str, str]:
    """Return the settings for one of the two compilers."""
    if compiler == "release":
        return {}
    # In place of those that set up the cross-compiler.
    return {
        "CIBW_BEFORE_ALL_LINUX": "sh {project}/ci/in_container.sh prepare",
        "CIBW_ENVIRONMENT_LINUX": "CONSTANN_TAG=auto",
    }


def container_options() -> str:
    """Return the arguments for Docker: our images hold all that a build installs, so it gets no network."""
    label = (f"--label={name}={value}" for name, value in containers.own_label().items())
    options = ["--network=none", *label, "--env=PIP_NO_INDEX=1", f"--env=PIP_FIND_LINKS={builders.WHEELHOUSE}"]
    return " ".join(f"'{option}'" for option in options)


@contextmanager
def _project() -> Iterator[Path]:
    """Give a copy of what is needed: cibuildwheel takes all of a folder with it."""
    with tempfile.TemporaryDirectory(prefix="constann-cibuildwheel-") as work:
        project = Path(work, "project")
        project.mkdir()
        for name in SOURCES:
            source = _ROOT / name
            if source.is_dir():
                shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(source, project / name)
        yield project


def _cibuildwheel(project: Path, target: Target, variables: Mapping[str, str], output: Path) -> list[Path]:
    """Run cibuildwheel for one platform and return its wheels; what it says goes where our own steps are told."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
    environment = {
        **kept,
        "SOURCE_DATE_EPOCH": date_of(_ROOT),
        "CONSTANN_HARNESS_PYTHON": sys.executable,
        **variables,
    }
    output = output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=output) as fresh, step(f"{target.name}: cibuildwheel"):
        command = [sys.executable, "-P", "-m", "cibuildwheel", "--platform", _SYSTEMS[target.system]]
        command += ["--archs", target.architecture, "--output-dir", fresh, str(project)]
        done = subprocess.run(
            command,
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        (output / _log_name(target.name)).write_text(done.stdout)
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-40:])
            raise WheelError(f"{target.name}: cibuildwheel failed with exit status {done.returncode}:\n{tail}")
        built = sorted(Path(fresh).glob("*.whl"))
        if not built:
            raise WheelError(f"{target.name}: cibuildwheel built nothing: {variables['CIBW_BUILD']} selects no wheel")
        for path in built:
            shutil.copy(path, output / path.name)
            say(f"{target.name}: {path.name}")
    return [output / path.name for path in built]
