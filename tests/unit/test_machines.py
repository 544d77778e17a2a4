"""What did not run is told apart from what failed, with the reason; and no run is lost. No engine is needed here."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import DockerException

from ci import containers, platforms
from ci.containers import Done
from ci.machines import Machines, Outcome, describe_status

KNOWN = platforms.load()
IMAGES = {(name, python): f"image-of-{name}" for name in KNOWN for python in KNOWN[name].pythons}


class Stage:
    """Stands in for an engine: notes what is started and removed, and answers as told."""

    def __init__(self, answer: Callable[[Sequence[str]], Done]) -> None:
        self.answer = answer
        self.commands: list[list[str]] = []
        self.alive = 0
        self.engine: Any = SimpleNamespace(
            architecture="x86_64",
            local=True,
            client=SimpleNamespace(),
            log_tail=str,
            rootless=False,
            remaps_users=False,
        )

    @contextmanager
    def container(self, *arguments: object, **options: object) -> Iterator[object]:
        self.alive += 1
        self.options = options
        self.architecture = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[str(arguments[2])]
        try:
            yield self
        finally:
            self.alive -= 1

    def execute(self, engine: object, made: object, command: list[str], **options: object) -> Done:
        self.commands.append(command)
        self.user = options.get("user")
        if "uname" in command[-1]:
            return Done(0, f"{self.architecture}\n", "", 0.1)
        return self.answer(command)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(lambda command: Done(0, "fine\n", "", 1.0))
    monkeypatch.setattr(containers, "container", made.container)
    monkeypatch.setattr(containers, "execute", made.execute)
    return made


def machine(name: str) -> platforms.Machine:
    return platforms.find(name, [row for platform in KNOWN.values() for row in platform.machines])


def test_a_model_is_played_by_qemu_itself(stage: Stage) -> None:
    ready = Machines(stage.engine, KNOWN, IMAGES)
    assert ready.run(machine("linux-x86_64/qemu64"), ["-c", "1"]).ok
    python = "/opt/venv-numpy-2.2.6/bin/python"
    assert stage.commands[-1] == ["/constann/qemu", "-cpu", "qemu64", python, "-c", "1"]
    assert ready.run(machine("linux-aarch64/a64fx"), ["-c", "1"]).ok
    python = "/opt/venv-numpy-2.4.6/bin/python"
    assert stage.commands[-1] == ["/constann/qemu", "-cpu", "a64fx", python, "-c", "1"]


@pytest.mark.parametrize(("rootless", "remaps"), [(False, False), (True, False), (False, True)])
def test_files_in_mounts_are_ours(stage: Stage, rootless: bool, remaps: bool) -> None:
    stage.engine.rootless, stage.engine.remaps_users = rootless, remaps
    assert Machines(stage.engine, KNOWN, IMAGES).run(machine("linux-aarch64/max"), ["-c", "1"]).ok
    if sys.platform == "linux":
        assert stage.user == ("" if rootless else f"{os.getuid()}:{os.getgid()}")
    assert stage.options["userns_mode"] == ("host" if remaps else None)


def test_an_engine_without_a_platform_has_emulated_rows_alone(stage: Stage) -> None:
    stage.engine.architecture = "riscv64"
    assert all(row.model for row in Machines(stage.engine, KNOWN, IMAGES).expected())


def test_containers_are_kept_for_further_runs_and_removed_at_the_end(stage: Stage) -> None:
    ready = Machines(stage.engine, KNOWN, IMAGES)
    for _ in range(3):
        ready.run(machine("linux-aarch64/max"), ["-c", "1"])
    assert stage.alive == 1
    ready.run(machine("linux-aarch64/max"), ["-c", "1"], mounts={Path("/tmp"): "/data"})
    assert stage.alive == 2
    ready.close()
    assert stage.alive == 0
    run = ready.run(machine("linux-aarch64/max"), ["-c", "1"])
    assert (run.outcome, run.reason, stage.alive) == (Outcome.COULD_NOT_START, "interrupted", 0)


def test_running_out_of_time_is_an_outcome_and_ends_the_container(stage: Stage) -> None:
    stage.answer = lambda command: Done(None, "begun\n", "", 2.0)
    run = Machines(stage.engine, KNOWN, IMAGES).run(machine("linux-x86_64/max"), ["-c", "1"], timeout=2)
    assert (run.outcome, run.ok, run.output, run.reason) == (Outcome.TIMED_OUT, False, "begun\n", "no end in 2 s")
    assert stage.alive == 0


def test_dying_is_not_the_same_as_not_starting(stage: Stage) -> None:
    stage.answer = lambda command: Done(132, "", "qemu: uncaught target signal 4 (Illegal instruction)\n", 1.0)
    run = Machines(stage.engine, KNOWN, IMAGES).run(machine("linux-x86_64/qemu64"), ["-c", "1"])
    assert (run.outcome, run.exit_status, run.reason) == (Outcome.FINISHED, 132, "died of SIGILL (illegal instruction)")


def test_the_reason_is_the_last_line_that_says_something(stage: Stage) -> None:
    errors = "Traceback\nValueError: no rows\nqemu: warning: TCG doesn't support requested feature\n"
    stage.answer = lambda command: Done(1, "", errors, 1.0)
    run = Machines(stage.engine, KNOWN, IMAGES).run(machine("linux-x86_64/Haswell"), ["-c", "1"])
    assert run.reason == "exit status 1: ValueError: no rows"


def test_a_wheel_that_pip_refuses_stops_its_platform_once(stage: Stage, tmp_path: Path) -> None:
    wheel = tmp_path / "constann-0.1.0-py3-none-any.whl"
    wheel.touch()
    stage.answer = lambda command: Done(1, "", "ERROR: not a supported wheel\n", 1.0)
    stage.put_archive = lambda folder, data: True  # type: ignore[attr-defined]
    ready = Machines(stage.engine, KNOWN, IMAGES, {machine("linux-aarch64/max").wheel: wheel})
    for name in ("a64fx", "max"):
        run = ready.run(machine(f"linux-aarch64/{name}"), ["-c", "1"])
        assert run.outcome is Outcome.COULD_NOT_START and "not a supported wheel" in run.reason
    assert len(stage.commands) == 1
    assert stage.alive == 0


def test_a_row_of_cibuildwheel_never_runs_another_wheel(stage: Stage, tmp_path: Path) -> None:
    wheel = tmp_path / "constann-0.1.0-cp311-cp311-manylinux_2_17_aarch64.whl"
    ready = Machines(stage.engine, KNOWN, IMAGES, {machine("linux-aarch64/max").wheel: wheel})
    run = ready.run(machine("linux-aarch64/max-cibuildwheel"), ["-c", "1"])
    assert (run.outcome, run.reason) == (
        Outcome.COULD_NOT_START,
        "cibuildwheel made no wheel for linux-aarch64",
    )
    assert stage.commands == []


def test_each_python_has_an_image_of_its_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    known = {("linux-aarch64", "3.11"): "old", ("linux-aarch64", "3.13"): "new"}
    real = stage.container

    def container(*arguments: object, **options: object) -> object:
        seen.append(arguments[1])
        return real(*arguments, **options)

    monkeypatch.setattr(containers, "container", container)
    ready = Machines(stage.engine, KNOWN, known)
    ready.run(machine("linux-aarch64/max"), ["-c", "1"])
    ready.run(machine("linux-aarch64/max-python3.13"), ["-c", "1"])
    assert seen == ["old", "new"]


def test_an_engine_that_fails_is_a_machine_that_could_not_start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def broken(*arguments: object, **options: object) -> Iterator[object]:
        raise DockerException("no space left on device")
        yield

    monkeypatch.setattr(containers, "container", broken)
    run = Machines(stage.engine, KNOWN, IMAGES).run(machine("linux-aarch64/max"), ["-c", "1"])
    assert (run.outcome, run.exit_status) == (Outcome.COULD_NOT_START, None)
    assert "no space left" in run.reason


def test_the_wrong_architecture_could_not_start(stage: Stage) -> None:
    wrong = replace(KNOWN["linux-x86_64"], architecture="riscv64")
    run = Machines(stage.engine, {wrong.name: wrong}, IMAGES).run(machine("linux-x86_64/native"), ["-c", "1"])
    assert run.outcome is Outcome.COULD_NOT_START and "not riscv64 but x86_64" in run.reason


def test_exit_statuses_are_explained() -> None:
    assert describe_status(0) == ""
    assert describe_status(3) == "exit status 3"
    assert describe_status(139) == "died of SIGSEGV"
    assert describe_status(255) == "exit status 255"
