"""The devcontainer is no machine's in particular: Apple silicon and x86-64 each get their own, with what tests need."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".devcontainer"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
# Words that bind an image to one architecture.
BOUND = re.compile(r"--platform|amd64|x86_64|arm64|aarch64|@sha256:")


def settings() -> dict[str, Any]:
    """The file is JSON with comments; none of its strings has two slashes."""
    return dict(json.loads(re.sub(r"//.*", "", (FOLDER / "devcontainer.json").read_text())))


def binding_lines(dockerfile: str) -> list[str]:
    return [line for line in dockerfile.splitlines() if BOUND.search(line.partition("#")[0])]


def test_no_architecture_is_named() -> None:
    assert not BOUND.search(json.dumps(settings()))
    assert binding_lines(DOCKERFILE) == []


@pytest.mark.parametrize("line", ["FROM --platform=linux/amd64 debian", "FROM debian@sha256:00", "RUN get tool-x86_64"])
def test_a_named_architecture_is_found(line: str) -> None:
    assert binding_lines(f"{DOCKERFILE}\n{line}") == [line]


def test_it_builds_the_dockerfile_beside_it() -> None:
    found = settings()
    assert set(found) <= {"name", "build", "mounts", "postCreateCommand", "remoteUser"}, (
        "these are of the specification"
    )
    assert (FOLDER / found["build"]["context"] / found["build"]["dockerfile"]).samefile(FOLDER / "Dockerfile")
    assert re.search(r"^FROM \$\{BASE_IMAGE\}$", DOCKERFILE, re.M)


def test_it_has_all_that_the_tests_ask_of_a_system() -> None:
    script = (FOLDER.parent / "ci" / "environment.sh").read_text()
    (body,) = re.findall(r"^missing_packages\(\) \{\n(.*?)^\}", script, re.M | re.S)
    wanted = {name.replace("$version", "3") for name in re.findall(r"printf ['\"]%?s?([\w+$]+[\w+-]*) ?['\"]", body)}
    wanted |= {re.sub(r"python\$version", "python3", name) for name in re.findall(r'"(python\$version-\w+)"', body)}
    assert {"g++", "clang", "binutils", "python3-venv", "python3-dev"} <= wanted
    missing = [name for name in wanted if not re.search(rf"(?<![\w+-]){re.escape(name)}(?![\w+-])", DOCKERFILE)]
    assert missing == []
