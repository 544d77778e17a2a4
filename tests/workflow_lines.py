"""Reads the workflows: every `run:` line as a runner's shell gets it, with the matrix and the variables put in."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

WORKFLOWS = Path(__file__).resolve().parents[1] / ".github" / "workflows"


@dataclass(frozen=True)
class Line:
    """One command of a workflow, and where it stands."""

    where: str
    runner: str
    command: str


def read(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(path.read_text()))


def lines(folder: Path = WORKFLOWS) -> list[Line]:
    return [line for path in sorted(folder.glob("*.yml")) for line in lines_of(path.name, read(path))]


def lines_of(name: str, workflow: Mapping[str, Any]) -> Iterator[Line]:
    for job_name, job in workflow["jobs"].items():
        for combination in combinations(job.get("strategy", {}).get("matrix", {})):
            for step in job.get("steps", ()):
                if "run" in step:
                    variables = {**job.get("env", {}), **step.get("env", {})}
                    known = {key: fill(str(value), combination) for key, value in variables.items()}
                    command = re.sub(r"\$(\w+)", lambda found, known=known: known[found[1]], step["run"])
                    yield Line(f"{name}: {job_name}", fill(job["runs-on"], combination), fill(command, combination))


def combinations(matrix: Mapping[str, Any]) -> list[dict[str, str]]:
    """Our matrices are a list of `include`, or one key with a list."""
    if not matrix:
        return [{}]
    if "include" in matrix:
        return [dict(each) for each in matrix["include"]]
    ((key, values),) = matrix.items()
    return [{key: value} for value in values]


def fill(text: str, combination: Mapping[str, str]) -> str:
    filled = re.sub(r"\$\{\{ *matrix\.(\w+) *\}\}", lambda found: str(combination[found[1]]), text)
    assert "${{" not in filled, f"{text!r}: only the matrix may be put into what a shell reads"
    return filled
