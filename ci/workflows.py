"""Reads the workflows, and runs their command lines for Linux, each in a clean container as on a fresh runner.

Steps that are actions of GitHub are not run: what they would have brought (Python, the wheels) is there already.
"""

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from ruamel.yaml import YAML

from ci import cache as kept
from ci import containers, images, network
from ci.engine import Engine
from ci.machines import describe_status
from ci.platforms import Platform, load, load_images
from ci.progress import say, step

_ROOT = Path(__file__).resolve().parent.parent
FOLDER = _ROOT / ".github" / "workflows"
# Lines that start containers of their own, or take an hour on a fresh machine; and what runs them instead.
ELSEWHERE = {
    "./ci/test": "whoever lands a change runs it",
    "./ci/gate": "it is what runs this",
    "./ci/run cibuildwheel": "a row of the gate, with --local",
    "./ci/run reproduce": "a stage of the gate, where compiled libraries are kept",
}
_PACKAGES = ("python3-dev", "binutils", "g++", "git")
_SECONDS = 3600.0
_SHOWN = 30


@dataclass(frozen=True)
class Line:
    """One command of a workflow, and where it stands."""

    where: str
    runner: str
    command: str


def read(path: Path) -> dict[str, Any]:
    """Return what a workflow's file says."""
    return dict(YAML(typ="safe", pure=True).load(path.read_text()))


def read_lines(folder: Path = FOLDER) -> list[Line]:
    """Return every `run:` line as a runner's shell gets it, with the matrix and the variables put in."""
    return [line for path in sorted(folder.glob("*.yml")) for line in lines_of(path.name, read(path))]


def lines_of(name: str, workflow: Mapping[str, Any]) -> Iterator[Line]:
    """Give the lines of one workflow, once for each combination of a job's matrix."""
    for job_name, job in workflow["jobs"].items():
        for combination in _combinations(job.get("strategy", {}).get("matrix", {})):
            for action in job.get("steps", ()):
                if "run" in action:
                    variables = {**job.get("env", {}), **action.get("env", {})}
                    command = _with_variables(action["run"], variables)
                    yield Line(f"{name}: {job_name}", _fill(job["runs-on"], combination), _fill(command, combination))


def _combinations(matrix: Mapping[str, Any]) -> list[dict[str, str]]:
    """Read a matrix as we write them: a list of `include`, or one key with a list."""
    if not matrix:
        return [{}]
    if "include" in matrix:
        return [dict(each) for each in matrix["include"]]
    ((key, values),) = matrix.items()
    return [{key: value} for value in values]


def _with_variables(command: str, variables: Mapping[str, object]) -> str:
    return re.sub(r"\$(\w+)", lambda found: str(variables[found[1]]), command)


def _fill(text: str, combination: Mapping[str, str]) -> str:
    filled = re.sub(r"\$\{\{ *matrix\.(\w+) *\}\}", lambda found: str(combination[found[1]]), text)
    if "${{" in filled:
        raise ValueError(f"{text!r}: only the matrix may be put into what a shell reads")
    return filled


def runs_elsewhere(command: str) -> str | None:
    """Return what runs a line instead of a clean container; None for a line that can be run there."""
    return next((why for start, why in ELSEWHERE.items() if re.match(rf"{re.escape(start)}(\s|$)", command)), None)


def check_workflow_lines(
    engine: Engine, wheels: Sequence[Path], lines: Sequence[Line] | None = None, *, kept_too: bool = False
) -> list[str]:
    """Run each different line for Linux, in a container of its own; return what failed, nothing if all is well.

    Parameters
    ----------
    engine
        From `ci.engine.running`.
    wheels
        What `download-artifact` would have put into dist/.
    lines
        Those to run; by default all that the workflows have for Linux.
    kept_too
        Leave out those that passed before, with the same files on the same image.
    """
    wanted = [line for line in lines or read_lines() if line.runner.startswith("ubuntu")]
    facts = load_images()
    facts = replace(facts, packages=(*facts.packages, *_PACKAGES))
    platform = next(each for each in load().values() if each.architecture == engine.architecture)
    base = images.bases(engine, [platform], facts.python, facts)[platform.name]
    files = _files(wheels)
    contents = {name: kept.digest_of([path]) for name, path in files.items()}
    problems = []
    for command in dict.fromkeys(line.command for line in wanted):
        if why := runs_elsewhere(command):
            say(f"not run in a clean container: {command}: {why}")
            continue
        passed = kept.folder("workflow-lines") / kept.name_for([command, base, contents])
        if kept_too and passed.exists():
            say(f"in a clean container: {command}: passed before, from the same")
            continue
        try:
            with step(f"in a clean container: {command}"):
                said = _run(engine, platform, base, command, files)
        except DockerException as error:
            said = str(error)
        if said:
            problems.append(f"{command}: {said}")
        else:
            passed.touch()
    return problems


def _run(engine: Engine, platform: Platform, base: str, command: str, files: Mapping[str, Path]) -> str:
    """Run one line in a fresh checkout; return what is wrong."""
    settings = network.pip_settings()
    variables = network.pip_environment(os.environ, settings)
    with containers.container(engine, base, platform.container.platform, network_mode="host") as made:
        if bundle := network.certificates(os.environ, settings):
            containers.copy_in(made, bundle, "/etc", "certificates.pem")
            variables |= dict.fromkeys(network.BUNDLE_VARIABLES, "/etc/certificates.pem")
        made.put_archive("/", _packed(files))
        words = ["/bin/bash", "-c", f"cd /checkout && {command}"]
        done = containers.execute(engine, made, words, timeout=_SECONDS, environment=variables)
    if done.exit_status == 0:
        return ""
    how = f"no end in {_SECONDS:g} s" if done.exit_status is None else describe_status(done.exit_status)
    return "\n".join([how, *f"{done.output}{done.errors}".splitlines()[-_SHOWN:]])


def _files(wheels: Sequence[Path]) -> dict[str, Path]:
    """Return, by their names in a checkout, the files that git knows or would know, and the wheels in dist/."""
    git = ["git", "-C", str(_ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    files = {name: _ROOT / name for name in sorted(set(names)) if name and (_ROOT / name).is_file()}
    return files | {f"dist/{wheel.name}": wheel for wheel in sorted(wheels)}


def _packed(files: Mapping[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, path in files.items():
            archive.add(path, f"checkout/{name}")
    return buffer.getvalue()
