"""Containers that never outlive us, and commands inside them that never outlast their time.

What runs inside them, and what it means, is the business of images.py and machines.py.
"""

import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, DockerException, NotFound

from ci.engine import Engine
from ci.progress import say

# The label that says who made a container: computer, process and its start. So a later run can tell what a killed one
# left behind.
OWNER = "org.constann.ci.owner"


@dataclass(frozen=True)
class Done:
    """How a command inside a container ended; `exit_status` is None where its time ran out."""

    exit_status: int | None
    output: str
    errors: str
    seconds: float


@contextmanager
def container(
    engine: Engine, image: str, platform: str, *, emulator: str | None = None, start: bool = True, **options: Any
) -> Iterator[Any]:
    """Start a container that waits for commands, and remove it at the end, however that comes.

    Parameters
    ----------
    engine, image, platform
        Where, and what; the image must be there already: nothing is pulled.
    emulator
        The program in the image that runs its architecture, where the engine's is another.
    start
        Files can be copied in and out of a container that was never started.
    options
        As for `containers.create` of the Docker SDK.
    """
    made = engine.client.containers.create(
        image,
        [*([emulator] if emulator else []), "/bin/sleep", "infinity"],
        platform=platform,
        labels=own_label(),
        **options,
    )
    try:
        if start:
            made.start()
        yield made
    finally:
        remove(made)


def remove(made: Any) -> None:
    """Remove a container at once, whether it runs or not."""
    with suppress(NotFound):
        made.remove(force=True, v=True)


def execute(
    engine: Engine,
    made: Any,
    command: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    user: str = "",
) -> Done:
    """Run one command in a container; when its time is over, the whole container is killed.

    `environment` is the command's alone: it is not stored when the container is committed as an image.
    """
    api = engine.client.api
    begin = time.monotonic()
    identity = api.exec_create(made.id, list(command), environment=dict(environment or {}), user=user)["Id"]
    stream = api.exec_start(identity, stream=True, demux=True)
    output: list[bytes] = []
    errors: list[bytes] = []
    # The stream ends with the command; a thread reads it, since reading has no time limit of its own.
    reader = threading.Thread(target=_collect, args=(stream, output, errors), daemon=True)
    reader.start()
    reader.join(timeout)
    late = reader.is_alive()
    if late:
        with suppress(APIError):
            made.kill()
        reader.join(10)
    seconds = time.monotonic() - begin
    status = None if late else api.exec_inspect(identity)["ExitCode"]
    return Done(status, _text(output), _text(errors), seconds)


def _collect(stream: Iterator[tuple[bytes | None, bytes | None]], output: list[bytes], errors: list[bytes]) -> None:
    # A connection that breaks is a container that was removed: the status tells, not the stream.
    with suppress(OSError, DockerException):
        for out, error in stream:
            output.append(out or b"")
            errors.append(error or b"")


def _text(chunks: list[bytes]) -> str:
    return b"".join(chunks).decode(errors="replace")


def copy_between(source: Any, path: str, target: Any, folder: str) -> None:
    """Copy a folder of one container into a folder of another, through the engine alone."""
    stream, _ = source.get_archive(path)
    target.put_archive(folder, stream)


def copy_in(made: Any, source: Path, folder: str, name: str, mode: int = 0o644) -> None:
    """Copy one file into a folder of a container; `name` may have folders of its own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        information = tarfile.TarInfo(name)
        content = source.read_bytes()
        information.size, information.mode = len(content), mode
        archive.addfile(information, io.BytesIO(content))
    made.put_archive(folder, buffer.getvalue())


def remove_leftovers(engine: Engine, *, everything: bool = False) -> int:
    """Remove containers whose run was killed (or all of ours); return how many."""
    count = 0
    for made in engine.client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True):
        if everything or is_dead(made.labels.get(OWNER, "")):
            remove(made)
            count += 1
    if count:
        say(f"removed {count} containers that an earlier run left behind")
    return count


def own_label() -> dict[str, str]:
    """Return the label by which a later run knows what this one left behind."""
    return {OWNER: _owner(os.getpid())}


def _owner(process: int) -> str:
    return f"{socket.gethostname()} {process} {_started(process)}"


def is_dead(owner: str) -> bool:
    """Return whether the run of this label is over; another computer's runs are not ours to judge."""
    computer, _, rest = owner.partition(" ")
    number = rest.partition(" ")[0]
    return computer == socket.gethostname() and number.isdigit() and owner != _owner(int(number))


def _started(process: int) -> str:
    """Return when a process began, in a form that no other process of this number shares; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"  # no /proc here (macOS)
