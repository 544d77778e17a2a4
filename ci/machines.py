"""Runs Python programs on machines: a platform in a container, and a CPU that QEMU plays. Never judges what they print.

Where a CPU is played, QEMU is the program that is started, with Python as its argument. So the kernel needs no binfmt
entry, and any model can be played on any engine. But a child process of that Python would silently run on the engine's
own CPU or, for a foreign architecture, not at all: what is measured must be the process that `run` starts.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from docker.errors import APIError, DockerException
from docker.types import Mount, Ulimit
from requests import RequestException

from ci import containers, images
from ci.engine import Engine
from ci.images import ImageKey
from ci.platforms import Machine, Platform, WheelKey
from ci.progress import step
from ci.wheel_file import digest_of_build

_PROGRAM = "/constann/conformance"
_INSTALL_SECONDS = 300.0
_PROBE_SECONDS = 120.0


class Outcome(StrEnum):
    """What became of a run; only `FINISHED` has an exit status."""

    FINISHED = "finished"
    TIMED_OUT = "timed out"
    COULD_NOT_START = "could not start"


@dataclass(frozen=True)
class Run:
    """One program on one machine."""

    machine: Machine
    outcome: Outcome
    exit_status: int | None
    output: str
    errors: str
    """What it printed on standard error, QEMU's own warnings included."""
    seconds: float
    reason: str = ""
    """Why the run is not a success, in one line; empty when the exit status is 0."""
    kept: str = ""
    """When it ran, where an earlier run of the very same stands for it; empty where it ran now."""

    @property
    def ok(self) -> bool:
        """Return whether the program ran to its end and succeeded."""
        return self.outcome is Outcome.FINISHED and self.exit_status == 0


class _CannotStartError(RuntimeError):
    pass


_Key = tuple[Machine, frozenset[tuple[Path, str]]]


class Machines:
    """The machines of some platforms on one engine; what they left is removed on leaving.

    The wheel is installed with pip once for a platform, in a container of that platform without a CPU model: a model
    changes nothing about it, and emulated pip is slow. Each machine then gets a container of its own, without a
    network, which is kept for further runs with the same mounts; each run is started under the machine's model.
    Different machines may run at the same time, one thread each.

    Parameters
    ----------
    engine
        From `ci.engine.running`.
    platforms
        The platforms by name, from `ci.platforms.load`.
    prepared
        The image for each platform's name and Python, from `ci.images.prepare`.
    wheels
        The wheels to install, and the programs of machines without Python; machines that want another wheel get numpy
        alone.
    """

    def __init__(
        self,
        engine: Engine,
        platforms: Mapping[str, Platform],
        prepared: Mapping[ImageKey, str],
        wheels: Mapping[WheelKey, Path] | None = None,
    ) -> None:
        self._engine = engine
        self._platforms = platforms
        self._images = prepared
        self._wheels = wheels or {}
        self._containers: dict[_Key, tuple[ExitStack, Any]] = {}
        self._installed: dict[WheelKey, str | _CannotStartError] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._install_locks = {key: threading.Lock() for key in self._wheels}

    def __enter__(self) -> Self:
        containers.remove_leftovers(self._engine)
        images.remove_leftovers(self._engine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for image in self._installed.values():
            if isinstance(image, str):
                with suppress(DockerException):
                    self._engine.client.images.remove(image, force=True)
        self._installed.clear()

    def close(self) -> None:
        """Remove the containers and start no more: what runs in them, from any thread, ends at once.

        Leaving the context does it too, but a pool of threads must be told before it is waited for.
        """
        with self._lock:
            self._closed = True
            while self._containers:
                self._containers.popitem()[1][0].close()

    def expected(self) -> tuple[Machine, ...]:
        """Return every row that must run on this engine, the native ones first."""
        return expected(self._engine, self._platforms, self._images)

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = 600.0,
    ) -> Run:
        """Run `python ARGUMENTS` on a machine, or its program.

        Parameters
        ----------
        machine
            A row of `expected`, or a machine of one of the platforms.
        arguments
            What follows `python`, or the program.
        mounts
            Folders or files of this computer, and where the program sees them; with `:ro` at the end it cannot write.
        environment
            Variables for the program, besides those that make it this machine.
        timeout
            Seconds after which the container is killed. The install step has a limit of its own.

        Returns
        -------
        Run
            Always: what could not start or took too long is an outcome with its reason, not an exception.
        """
        key = (machine, frozenset((mounts or {}).items()))
        try:
            made = self._container(key)
            command = [*self._started(machine), *arguments]
            variables = {**self._environment(machine), **(environment or {})}
            user = _user(self._engine)
            done = containers.execute(self._engine, made, command, timeout=timeout, environment=variables, user=user)
        except _CannotStartError as error:
            self._discard(key)
            return Run(machine, Outcome.COULD_NOT_START, None, "", "", 0.0, str(error))
        except (DockerException, RequestException, OSError) as error:
            self._discard(key)
            log = self._engine.log_tail() if isinstance(error, APIError) and error.is_server_error() else ""
            return Run(machine, Outcome.COULD_NOT_START, None, "", "", 0.0, f"{error}{log}")
        if done.exit_status is None:
            self._discard(key)
            reason = f"no end in {timeout:g} s"
            return Run(machine, Outcome.TIMED_OUT, None, done.output, done.errors, done.seconds, reason)
        reason = _reason(done)
        return Run(machine, Outcome.FINISHED, done.exit_status, done.output, done.errors, done.seconds, reason)

    @cached_property
    def _flags(self) -> frozenset[str]:
        return _engine_flags(self._engine, self._images)

    def _foreign(self, platform: Platform) -> bool:
        return platform.architecture != self._engine.architecture

    def _started(self, machine: Machine) -> list[str]:
        """Return how this machine's Python, or its program, is started."""
        return [*emulated(machine, images.EMULATOR), _PROGRAM if machine.program else images.venv_python(machine.numpy)]

    def _environment(self, machine: Machine) -> dict[str, str]:
        return {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", **machine.environment}

    def _container(self, key: _Key) -> Any:
        with self._lock:
            if self._closed:
                raise _CannotStartError("interrupted")
            if key in self._containers:
                return self._containers[key][1]
        machine, mounts = key
        platform = self._platforms[machine.platform]
        stack = ExitStack()
        try:
            made = stack.enter_context(
                containers.container(
                    self._engine,
                    self._image(machine, platform),
                    platform.container.platform,
                    emulator=images.EMULATOR if self._foreign(platform) else None,
                    network_mode="none",
                    ulimits=[Ulimit(name="core", soft=0, hard=0)],
                    mounts=[_mount(path, inside) for path, inside in mounts],
                    userns_mode="host" if self._engine.remaps_users else None,
                )
            )
            if machine.program:
                containers.copy_in(made, self._wheels[machine.wheel], "/", _PROGRAM.lstrip("/"), mode=0o755)
            self._probe(made, machine, platform)
            with self._lock:
                if self._closed:
                    raise _CannotStartError("interrupted")
                self._containers[key] = (stack, made)
        except BaseException:
            stack.close()
            raise
        return made

    def _discard(self, key: _Key) -> None:
        with self._lock:
            stack, _ = self._containers.pop(key, (ExitStack(), None))
        stack.close()

    def _probe(self, made: Any, machine: Machine, platform: Platform) -> None:
        """See that Python starts on this machine at all, so that what follows is the program's own doing."""
        if machine.program:
            return
        command = [*self._started(machine), "-IS", "-c", "import os; print(os.uname().machine)"]
        environment = self._environment(machine)
        done = containers.execute(self._engine, made, command, timeout=_PROBE_SECONDS, environment=environment)
        if done.exit_status is None:
            raise _CannotStartError(f"Python did not start in {_PROBE_SECONDS:g} s")
        if done.exit_status != 0:
            raise _CannotStartError(f"Python does not start: {_reason(done)}")
        if done.output.strip() != platform.architecture:
            raise _CannotStartError(f"this is not {platform.architecture} but {done.output.strip()}")

    def _image(self, machine: Machine, platform: Platform) -> str:
        """Return the machine's image with its wheel in it."""
        wheel = self._wheels.get(machine.wheel)
        if wheel is None and machine.built_by:
            raise _CannotStartError(f"{machine.built_by} made no wheel for {platform.name}")
        if wheel is None or machine.program:
            return self._images[platform.name, machine.python]
        with self._install_locks[machine.wheel]:
            if machine.wheel not in self._installed:
                try:
                    with step(f"{platform.name}: pip install {wheel.name}"):
                        self._installed[machine.wheel] = self._install(platform, machine.python, wheel)
                except _CannotStartError as error:
                    self._installed[machine.wheel] = error
            installed = self._installed[machine.wheel]
        if isinstance(installed, _CannotStartError):
            raise installed
        return installed

    def _install(self, platform: Platform, python: str, wheel: Path) -> str:
        """Install the wheel in each environment of the platform; return the image that has it."""
        with containers.container(
            self._engine,
            self._images[platform.name, python],
            platform.container.platform,
            emulator=images.EMULATOR if self._foreign(platform) else None,
            network_mode="none",
        ) as made:
            # Copied, not mounted: a mount would leave its empty place in the image.
            containers.copy_in(made, wheel, "/tmp", wheel.name)
            options = ["--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
            for numpy in platform.numpy_versions(python):
                emulator = [images.EMULATOR] if self._foreign(platform) else []
                pip = [*emulator, images.venv_python(numpy), "-m", "pip", "install", *options, f"/tmp/{wheel.name}"]
                environment = {"PIP_ROOT_USER_ACTION": "ignore", "HOME": "/tmp"}
                done = containers.execute(self._engine, made, pip, timeout=_INSTALL_SECONDS, environment=environment)
                if done.exit_status is None:
                    raise _CannotStartError(f"pip did not install {wheel.name} in {_INSTALL_SECONDS:g} s")
                if done.exit_status != 0:
                    raise _CannotStartError(f"pip could not install {wheel.name}:\n{done.errors.strip()}")
            name = f"{images.INSTALLED}-{platform.name}"
            made.commit(name, made.id[:12])
            return f"{name}:{made.id[:12]}"

    def identity(self, machine: Machine) -> list[str]:
        """Return all that a row's answers may depend on besides its own facts: its build, its image, the CPU below."""
        wheel = self._wheels.get(machine.wheel)
        platform = self._platforms[machine.platform]
        cpu = [] if machine.model else sorted(self._flags)
        return [digest_of_build(wheel) if wheel else "", self._images[platform.name, machine.python], *cpu]


def expected(
    engine: Engine, platforms: Mapping[str, Platform], prepared: Mapping[ImageKey, str]
) -> tuple[Machine, ...]:
    """Return every row that must run on an engine, the native ones first."""
    rows: list[Machine] = []
    for platform in sorted(platforms.values(), key=lambda each: each.architecture != engine.architecture):
        own = platform.architecture == engine.architecture
        rows += platform.expected_rows(engine.architecture, _engine_flags(engine, prepared) if own else frozenset())
    return tuple(rows)


def _engine_flags(engine: Engine, prepared: Mapping[ImageKey, str]) -> frozenset[str]:
    own = images.own_platform(engine)
    return engine.cpu_flags(next(image for (name, _), image in prepared.items() if name == own.name))


def emulated(machine: Machine, emulator: str) -> list[str]:
    """Return what stands before a program that QEMU is to run as this machine; nothing on the engine's own CPU."""
    if machine.model is None:
        return []
    pages = ["-p", str(machine.page_size)] if machine.page_size else []
    return [emulator, "-cpu", machine.model, *pages]


def describe_status(status: int) -> str:
    """Say what an exit status means: nothing for 0, the signal's name for a death by signal."""
    if status == 0:
        return ""
    try:
        name = signal.Signals(status - 128).name
    except ValueError:
        return f"exit status {status}"
    return f"died of {name}" + (" (illegal instruction)" if name == "SIGILL" else "")


def _mount(path: Path, inside: str) -> Mount:
    target = inside.removesuffix(":ro")
    return Mount(target, str(path.resolve()), type="bind", read_only=target != inside)


def _user(engine: Engine) -> str:
    """Return whom to be inside, so that files written into mounts belong to whoever runs this; empty for root."""
    return f"{os.getuid()}:{os.getgid()}" if sys.platform == "linux" and not engine.rootless else ""


def reason_of(exit_status: int, output: str, errors: str) -> str:
    """Say in one line why a command failed: what the status means, and the last line that tells more."""
    status = describe_status(exit_status)
    # QEMU's remarks: features a CPU model lacks in the emulation, and the signal that the status names already.
    noise = re.compile(r"warning: TCG|uncaught target signal")
    lines = f"{output}\n{errors}".splitlines()
    said = [line.strip() for line in lines if line.strip() and not noise.search(line)]
    return f"{status}: {said[-1]}" if status and said else status


def _reason(done: containers.Done) -> str:
    return reason_of(done.exit_status or 0, done.output, done.errors)
