"""A release passes only if all is proven with the wheels that will be published; each thing that is lacking fails it.

The gate itself runs, from its command line to its exit status, on machines that are plain processes of this computer.
"""

import argparse
import json
import platform as computer
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from process_machines import ProcessMachines
from stand_in_wheels import stand_in

import constann
from ci import cibuildwheel, controls, gate, matrix, platforms, recordings, verdict, wheels
from ci.machines import Run
from ci.platforms import Machine, WheelKey

SETS = [implementation.name for implementation in constann.kernels.available()]
CELLS = platforms.load_elsewhere()
HERE = next(each.name for each in platforms.load().values() if each.architecture == computer.machine())
ROWS = [
    Machine(
        f"native-{kernels}{built_by}", np.__version__, kernels=kernels, forced=True, python="3.11", platform=HERE,
        built_by=built_by,
    )
    for built_by in ("", "cibuildwheel")
    for kernels in SETS
]  # fmt: skip


@dataclass
class Surroundings:
    """What a release's gate is given; a test spoils one thing of it."""

    folder: Path
    flipped: bool = False
    """Whether the released wheel answers with one bit changed, with one kernel set."""
    cells: Sequence[platforms.Cell] = ()
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def wheels(self) -> Path:
        return self.folder / "dist"

    def run(self, *words: str) -> int:
        parser = argparse.ArgumentParser()
        gate.add_arguments(parser)
        words = ("--engine", "qemu-user", "--report", str(self.folder / "report"), *words)
        status = gate.run(parser.parse_args(words))
        self.report = json.loads((self.folder / "report" / "gate.json").read_text())
        return status

    def release(self, *words: str) -> int:
        return self.run("--release", "--wheels", str(self.wheels), *words)


class Processes(ProcessMachines):
    """Machines of this computer, one of which may answer one bit wrongly."""

    def __init__(self, given: Surroundings) -> None:
        super().__init__()
        self.given = given

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def is_odd(self, machine: Machine) -> bool:
        return self.given.flipped and machine == ROWS[-1]

    def identity(self, machine: Machine) -> list[str]:
        return ["odd"] if self.is_odd(machine) else []

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str],
        environment: Mapping[str, str],
        timeout: float,
    ) -> Run:
        run = super().run(machine, arguments, mounts, environment, timeout)
        if self.is_odd(machine):
            (output,) = (path for path, inside in mounts.items() if inside == "/output")
            path = output / "graph-cosine.distances.npy"
            content = bytearray(path.read_bytes())
            content[-4] ^= 1  # the last place of the last distance
            path.write_bytes(content)
        return run


def released_wheel(folder: Path, target: platforms.Target, python: str, built_by: str = "cibuildwheel") -> Path:
    """Write a wheel with nothing in it but names and who built it."""
    path = stand_in(folder, target, python.replace(".", ""))
    properties = [{"name": "built by", "value": built_by}] if built_by else []
    with zipfile.ZipFile(path, "a") as archive:
        component = {"metadata": {"component": {"properties": properties}}}
        archive.writestr("constann-0.1.0.dist-info/sboms/constann.cdx.json", json.dumps(component))
    return path


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests share: rows that nothing concerns run once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def given(tmp_path: Path, answers: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """A release to which nothing is lacking."""
    found = Surroundings(tmp_path)
    found.wheels.mkdir()
    for target in platforms.load_targets().values():
        for python in wheels.released_pythons():
            released_wheel(found.wheels, target, python)

    def cross_compile(work: gate.Work) -> list[str]:
        work.wheels[WheelKey(HERE, "3.11")] = tmp_path / "cross-compiled.whl"
        return []

    def plant_faults(work: gate.Work) -> list[str]:
        work.outcomes.append(controls.Outcome(controls.Control("planted", ROWS[0], "differs"), []))
        return []

    stages = {stage.name: stage for stage in gate.STAGES}
    monkeypatch.setattr(
        gate,
        "STAGES",
        (
            gate.Stage("wheels", "", cross_compile),
            stages["cibuildwheel"],
            stages["matrix"],
            gate.Stage("controls", "", plant_faults, machines=True),
            stages["elsewhere"],
        ),
    )
    (tmp_path / "cross-compiled.whl").write_bytes(b"")
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(answers))
    monkeypatch.setattr(cibuildwheel, "audit", lambda path, target, own_tag: [])
    monkeypatch.setattr(gate.Work, "expected_machines", lambda self: tuple(ROWS))
    monkeypatch.setattr(gate.Work, "open_machines", lambda self, built: Processes(found))
    monkeypatch.setattr(platforms, "load_elsewhere", lambda: found.cells)
    monkeypatch.setattr(verdict, "check_golden", lambda rows: [])  # of the whole slice
    monkeypatch.setattr(matrix, "SLICE_ROWS", 200)
    return found


def test_a_release_to_which_nothing_is_lacking_passes(given: Surroundings) -> None:
    assert given.release() == 0
    assert given.report["passed"] and given.report["failures"] == []
    assert len(given.report["stages"]["slice"]) == len(ROWS)
    released = [line["proof"] for line in given.report["wheels"] if line["built_by"] and line["platform"] == HERE]
    assert f"run on {len(SETS)} machines" in released


def test_one_other_bit_in_an_answer_of_a_released_wheel_fails(given: Surroundings) -> None:
    given.flipped = True
    assert given.release() == 1
    where = f"{ROWS[-1].full_name} (slice)"
    assert given.report["failures"] == [f"{where}: graph-cosine.distances.npy differs from that of {ROWS[0].full_name}"]
    assert given.run("--wheels", str(given.wheels)) == 1, "nor does a gate that is of no release pass"


def test_a_wheel_that_cibuildwheel_did_not_build_fails(given: Surroundings) -> None:
    target = platforms.load_targets()["macos-arm64"]
    path = released_wheel(given.wheels, target, "3.12", built_by="")
    assert given.release() == 1
    assert given.report["failures"] == [
        f"for a release: macos-arm64, Python 3.12: {path.name} did not come from cibuildwheel"
    ]


def test_a_wheel_that_is_not_there_fails(given: Surroundings) -> None:
    (path,) = given.wheels.glob("*cp314*musllinux*aarch64.whl")
    path.unlink()
    assert given.release() == 1
    (problem,) = given.report["failures"]
    assert problem.startswith("for a release: musllinux-aarch64, Python 3.14: there is no wheel of cibuildwheel")


def test_a_promised_machine_that_nobody_recorded_fails_a_release_and_only_that(given: Surroundings) -> None:
    given.cells = CELLS
    assert given.release() == 1
    assert given.report["failures"] == [f"for a release, not proven: {cell.name}, {cell.what}" for cell in CELLS]
    told = [remark for remark in given.report["remarks"] if "constann record" in remark]
    assert all(remark.startswith("NOT PROVEN") for remark in told) and len(told) == len(CELLS)
    assert given.run("--wheels", str(given.wheels)) == 0


def test_wheels_made_here_are_never_released(given: Surroundings) -> None:
    assert given.run("--release", "--without", "cibuildwheel") == 1
    assert (
        "for a release: no wheels were given (--wheels); those that are made here are never published"
        in (given.report["failures"])
    )


def test_a_row_left_out_fails_a_release(given: Surroundings) -> None:
    assert given.release("--machine", ROWS[0].full_name) == 1
    assert any(problem.startswith("for a release: PARTIAL: --machine") for problem in given.report["failures"])


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--wheels", "dist", "--only", "matrix"], "--wheels"),
        (["--wheels", "dist", "--without", "cibuildwheel"], "--wheels"),
        (["--with", "recordings", "--without", "elsewhere"], "--with"),
    ],
)
def test_what_nothing_would_look_at_is_refused(given: Surroundings, words: list[str], option: str) -> None:
    with pytest.raises(gate.GateError, match=f"{option} is looked at by the stage"):
        given.run(*words)


def test_recordings_are_not_forgotten(given: Surroundings) -> None:
    with pytest.raises(recordings.RecordingsError, match="there is no recording"):
        given.release("--with", str(given.folder / "recordings"))
