"""Any project's gate: a machine that answers otherwise, or not at all, fails it and is named, on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from process_machines import ProcessMachines

from ci import platforms, project
from ci.machines import Run
from ci.platforms import Machine

ROOT = Path(__file__).resolve().parents[2]
KNOWN = platforms.load()
ROWS = [Machine(name, np.__version__, name, "baseline", platform="here") for name in ("old", "new", "odd")]
WORKLOAD = """
import os
import numpy as np
def answers():
    if "BREAK" in os.environ:
        raise SystemExit(3)
    shift = np.float32(os.environ.get("SHIFT", 0))
    return {"input": np.arange(3), "output": np.arange(3, dtype=np.float32) + shift}
"""


class Odd(ProcessMachines):
    """One machine has a variable that the others lack."""

    def __init__(self, name: str, value: str) -> None:
        super().__init__()
        self.variable = {name: value}

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str],
        environment: Mapping[str, str],
        timeout: float,
    ) -> Run:
        extra = self.variable if machine.name == "odd" else {}
        return super().run(machine, arguments, mounts, {**environment, **extra}, timeout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(WORKLOAD)
    (tmp_path / "pyproject.toml").write_text('[tool.gate]\nworkload = "work.py:answers"\n')
    return tmp_path


def gated(folder: Path, machines: ProcessMachines, settings: project.Settings | None = None) -> project.Result:
    result = project.Result("example")
    settings = settings or project.read_settings(folder, KNOWN)
    project.run_machines(machines, ROWS, folder, settings, output=folder / "out", result=result)
    project.show(result, folder)
    return result


def test_machines_that_agree_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gated(folder, ProcessMachines()).passed
    assert "verdict: PASS" in capsys.readouterr().out
    assert "AGREE" in (folder / "gate.html").read_text()


def test_a_machine_that_answers_otherwise_is_named_with_the_stage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = gated(folder, Odd("SHIFT", "1e-7"))
    assert not result.passed and result.compared.first.name == "output"
    printed = capsys.readouterr().out
    assert "here/odd" in printed and "verdict: FAIL" in printed
    page = (folder / "gate.html").read_text()
    assert "DIFFER" in page and "Wheels and their audit" in page
    allowed = replace(project.read_settings(folder, KNOWN), atol=1e-5)
    assert gated(folder, Odd("SHIFT", "1e-7"), allowed).passed


def test_a_machine_that_does_not_answer_fails_the_gate(folder: Path) -> None:
    result = gated(folder, Odd("BREAK", "1"))
    assert not result.passed and result.problems == ["here/odd: finished: exit status 3"]
    assert "here/odd: finished" in (folder / "gate.html").read_text()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "no [tool.gate]"),
        ("[tool.gate]", "'workload' is missing"),
        ('[tool.gate]\nworkload = "nowhere.py:answers"', "nowhere.py"),
        ('[tool.gate]\nworkload = "work.py"', "FILE.py:FUNCTION"),
        ('[tool.gate]\nworkload = "work.py:answers"\nplatform = "x"', "unknown key 'platform'"),
        ('[tool.gate]\nworkload = "work.py:answers"\nplatforms = ["beos"]', "no 'beos'"),
        ('[tool.gate]\nworkload = "work.py:answers"\npythons = [3.11]', "pythons"),
        ('[tool.gate]\nworkload = "work.py:answers"\natol = "much"', "atol"),
        ("[tool.gate", "pyproject.toml"),
    ],
)
def test_a_mistake_names_file_and_key(folder: Path, table: str, words: str) -> None:
    (folder / "pyproject.toml").write_text(table)
    with pytest.raises(project.ProjectError) as caught:
        project.read_settings(folder, KNOWN)
    assert "pyproject.toml" in str(caught.value) and words in str(caught.value)


def test_a_projects_rows_are_cpus_and_no_ways_of_ours_to_a_wheel(folder: Path) -> None:
    settings = project.read_settings(folder, KNOWN)
    x86 = {row.name: row for row in project.rows_of(settings, KNOWN["linux-x86_64"], "x86_64")}
    assert {"native", "qemu64", "core2duo", "Haswell", "max"} <= set(x86)
    assert not any(row.built_by or row.python != "3.11" for row in x86.values())
    assert "native" not in {row.name for row in project.rows_of(settings, KNOWN["linux-aarch64"], "x86_64")}


@pytest.mark.parametrize("example", ["gate", "gate/hnswlib"])
def test_the_examples_say_what_the_gate_reads(example: str) -> None:
    settings = project.read_settings(ROOT / "examples" / example, KNOWN)
    assert settings.platforms == ("linux-x86_64", "linux-aarch64")
