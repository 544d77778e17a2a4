"""The workflows say what a person would type, may do no more than they must, and use nothing that changes by itself."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci import workflows
from ci.__main__ import _parser
from ci.workflows import FOLDER as WORKFLOWS
from ci.workflows import Line

ROOT = WORKFLOWS.parents[1]
PATHS = sorted(WORKFLOWS.glob("*.yml"))
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}$|^docker://[\w./-]+:[\w.]+@sha256:[0-9a-f]{64}$|^\./\.github/")
OUR_SCRIPTS = ("./ci/test", "./ci/gate", "./ci/run")


def problems_of(line: Line) -> list[str]:
    """What a `run:` line asks for that there is not."""
    if re.search(r"[;&|<>`(){}]", line.command):
        return [f"{line.where}: more than one command: {line.command}"]
    program, *words = shlex.split(line.command)
    if program not in OUR_SCRIPTS or not (ROOT / program).is_file():
        return [f"{line.where}: {program} is none of the project's commands"]
    if program == "./ci/test":
        return []
    try:
        _parser().parse_args((["gate"] if program == "./ci/gate" else []) + words)
    except SystemExit:
        return [f"{line.where}: the harness does not understand {line.command}"]
    return []


def run_tool(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    folder = Path(sys.executable).parent
    return subprocess.run([folder / command[0], *command[1:]], capture_output=True, text=True, check=False)


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in [job, *job.get("steps", ())]]


def test_each_line_is_a_command_that_there_is() -> None:
    lines = workflows.read_lines()
    assert {"test.yml: test", "gate.yml: gate", "wheels.yml: build", "upstream.yml: upstream"} <= {
        line.where for line in lines
    }
    assert {line.runner for line in lines} >= {"ubuntu-24.04", "ubuntu-24.04-arm", "macos-15"}
    assert [problem for line in lines for problem in problems_of(line)] == []


@pytest.mark.parametrize(
    "command",
    [
        "./ci/run wheel",
        "./ci/run wheels --platforms x",
        "./ci/run wheels --platform linux-riscv64",
        "./ci/gate --everything",
        "pip install build",
        "./ci/test && ./ci/gate",
        "./ci/publish",
    ],
)
def test_a_line_that_nobody_could_type_is_found(command: str) -> None:
    assert problems_of(Line("planted", "ubuntu-24.04", command)) != []


@pytest.mark.parametrize("text", ["./ci/run ${{ github.ref }}", "./ci/run ${{ inputs.x }}"])
def test_what_others_write_never_reaches_a_shell(text: str) -> None:
    job = {"runs-on": "ubuntu-24.04", "steps": [{"run": text}]}
    with pytest.raises(ValueError, match="only the matrix"):
        list(workflows.lines_of("planted", {"jobs": {"planted": job}}))


def test_every_line_for_linux_runs_in_a_clean_container_or_says_where_else() -> None:
    linux = {line.command for line in workflows.read_lines() if line.runner.startswith("ubuntu")}
    clean = {command for command in linux if not workflows.runs_elsewhere(command)}
    recorded = './ci/run record --wheels dist "made/ubuntu-24.04-arm.rec"'
    assert {"./ci/run index dist", "./ci/run audit dist/*.whl", "./ci/run upstream", recorded} <= clean
    assert all(any(command.startswith(start) for command in linux) for start in workflows.ELSEWHERE)
    assert workflows.runs_elsewhere("./ci/testing") is None


def test_a_line_that_passed_is_run_again_when_a_file_or_the_image_changed_and_one_that_failed_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    base = {"image": "bookworm"}
    ran: list[str] = []

    def run(engine: object, platform: object, image: str, command: str, files: object) -> str:
        ran.append(command)
        return "exit status 1" if command == "./ci/run broken" else ""

    monkeypatch.setattr(workflows.images, "bases", lambda found, wanted, *_: {wanted[0].name: base["image"]})
    monkeypatch.setattr(workflows, "_run", run)
    lines = [Line("here", "ubuntu-24.04", f"./ci/run {word}") for word in ("index dist", "broken")]
    wheel = tmp_path / "constann.whl"

    def check(*, kept_too: bool = True) -> list[str]:
        ran.clear()
        found: Any = SimpleNamespace(architecture="x86_64")
        assert workflows.check_workflow_lines(found, [wheel], lines, kept_too=kept_too) == [
            "./ci/run broken: exit status 1"
        ]
        return [*ran]

    both = [line.command for line in lines]
    wheel.write_bytes(b"code")
    assert check() == both
    assert check() == ["./ci/run broken"]
    assert check(kept_too=False) == both
    wheel.write_bytes(b"other")
    assert check() == both
    base["image"] = "trixie"
    assert check() == both


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_action_is_pinned_and_says_its_version(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    found = [name for step in steps(workflows.read(path)) if (name := step.get("uses"))]
    assert sorted(found) == sorted(name for name, _ in used)
    for name, comment in used:
        assert PINNED.match(name), name
        assert name.startswith(("./", "docker://")) or re.match(r" # v\d+\.\d+\.\d+$", comment), name


@pytest.mark.parametrize("name", ["actions/checkout@v6", "actions/checkout@main", "docker://rhysd/actionlint:1.7.7"])
def test_an_action_that_can_change_is_found(name: str) -> None:
    assert not PINNED.match(name)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_only_publishing_may_do_more_than_read(path: Path) -> None:
    workflow = workflows.read(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        may_write = {key for key, value in job["permissions"].items() if value == "write"}
        assert may_write == ({"id-token", "attestations"} if name == "publish" else set()), name
        assert not any("secrets." in str(step) for step in steps(workflow))


def test_a_release_waits_for_wheels_and_gate() -> None:
    jobs = workflows.read(WORKFLOWS / "release.yml")["jobs"]
    assert set(jobs["publish"]["needs"]) == {"wheels", "gate"}
    assert "run" not in str(jobs["publish"]["steps"]), "nothing of ours runs where a release can be signed"
    assert jobs["publish"]["environment"]["name"] == "pypi"


def faults_of_a_release(jobs: dict[str, Any]) -> list[str]:
    """What the release's gate does not take of the jobs before it."""
    faults = []
    (line,) = [step["run"] for step in jobs["gate"]["steps"] if "run" in step]
    asked = _parser().parse_args(["gate", *shlex.split(line)[1:]])
    if not asked.release or asked.only or asked.without or asked.machine:
        faults.append("it is not the whole gate of a release")
    brought = {
        step["with"]["path"]: step["with"]["pattern"] for step in jobs["gate"]["steps"] if "pattern" in str(step)
    }
    if not {"wheels", "record"} <= set(jobs["gate"]["needs"]):
        faults.append("it does not wait for wheels and recordings")
    if brought.get(str(asked.wheels)) != "wheels-*":
        faults.append("--wheels is not what the jobs of the wheels made")
    if [brought.get(str(each)) for each in asked.recordings] != ["recording-*"]:
        faults.append("--with is not what the jobs that record made")
    return faults


def test_the_gate_of_a_release_has_its_wheels_and_its_recordings() -> None:
    jobs = workflows.read(WORKFLOWS / "release.yml")["jobs"]
    assert faults_of_a_release(jobs) == []
    published = [step["with"]["pattern"] for step in jobs["publish"]["steps"] if "pattern" in str(step)]
    assert published == ["wheels-*"], "what the gate ran, and nothing else"
    made = [step["with"]["name"] for step in jobs["record"]["steps"] if "upload-artifact" in str(step)]
    assert [name.partition("$")[0] for name in made] == ["recording-"]


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        ("./ci/gate --wheels dist --with recordings", "it is not the whole gate of a release"),
        ("./ci/gate --release --without matrix --wheels dist --with recordings", "it is not the whole gate"),
        ("./ci/gate --release --with recordings", "--wheels is not"),
        ("./ci/gate --release --wheels wheelhouse --with recordings", "--wheels is not"),
        ("./ci/gate --release --wheels dist", "--with is not"),
    ],
)
def test_a_gate_that_proves_other_wheels_than_the_published_is_found(planted: str, fault: str) -> None:
    jobs = workflows.read(WORKFLOWS / "release.yml")["jobs"]
    (step,) = [step for step in jobs["gate"]["steps"] if "run" in step]
    step["run"] = planted
    assert any(fault in each for each in faults_of_a_release(jobs))


def test_zizmor_finds_nothing() -> None:
    done = run_tool("zizmor", "--offline", "--no-progress", WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_schema_of_workflows_holds(schema: str) -> None:
    done = run_tool("check-jsonschema", "--builtin-schema", schema, *PATHS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_tools_find_planted_faults(tmp_path: Path) -> None:
    text = (WORKFLOWS / "gate.yml").read_text()
    planted = tmp_path / ".github" / "workflows" / "planted.yml"
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace("./ci/gate --report", "echo ${{ github.event.issue.title }}"))
    assert "template-injection" in run_tool("zizmor", "--offline", "--no-progress", planted).stdout
    planted.write_text(text.replace("runs-on:", "run-on:"))
    assert run_tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", planted).returncode == 1


def test_the_readme_says_that_no_job_has_run_on_github() -> None:
    assert "None of their jobs has ever run\n  on GitHub" in (ROOT / "README.md").read_text()
