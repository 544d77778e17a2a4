"""Lets containers start programs of another architecture by themselves, as on a desktop's Docker, while it is needed.

Only building foreign images needs that: machines start QEMU by name. A handler that is there already is used; ours is
taken away by the last run that uses it.
"""

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker.errors import APIError, ContainerError

from ci import cache, host
from ci.engine import Engine, EngineError
from ci.platforms import Platform
from ci.progress import say

_HANDLERS = Path("/proc/sys/fs/binfmt_misc")
_PREFIX = "constann-"
# How ELF files number the processors.
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@contextmanager
def runnable(engine: Engine, platform: Platform, image: str) -> Iterator[None]:
    """Have the engine's kernel start this platform's programs; `image` is one of the platform, to try it with.

    Raises
    ------
    EngineError
        They cannot be started, and it is not ours to change that; the text says what to do.
    """
    if platform.architecture == engine.architecture:
        yield
        return
    folder = cache.folder("foreign-programs")
    with (folder / f"{platform.architecture}.users").open("a") as users:
        with cache.lock(folder / "change.lock"):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not _starts(engine, platform, image):
                _register(engine, platform)
                if not _starts(engine, platform, image):
                    raise EngineError(f"{_handler(platform)} is there, but no program of {platform.name} starts")
        try:
            yield
        finally:
            with cache.lock(folder / "change.lock"), suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _handler(platform).exists():
                    _handler(platform).write_text("-1")


def _handler(platform: Platform) -> Path:
    return _HANDLERS / f"{_PREFIX}{platform.architecture}"


def _starts(engine: Engine, platform: Platform, image: str) -> bool:
    try:
        engine.client.containers.run(
            image, ["/bin/true"], platform=platform.container.platform, network_mode="none", remove=True
        )
    except (ContainerError, APIError):
        return False
    return True


def _register(engine: Engine, platform: Platform) -> None:
    program = host.program(platform.emulator.program)
    if not (engine.local and host.is_root() and program):
        name = platform.container.platform.rpartition("/")[2]
        raise EngineError(
            f"the Docker engine cannot start programs of {platform.name}: run this as root where "
            f"{platform.emulator.program} is installed, or once `docker run --privileged --rm tonistiigi/binfmt "
            f"--install {name}`"
        )
    if not (_HANDLERS / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_HANDLERS)], check=True)
    (_HANDLERS / "register").write_text(entry(platform.architecture, _handler(platform).name, Path(program).resolve()))


def entry(architecture: str, name: str, emulator: Path) -> str:
    """Return the line by which the kernel knows another architecture's programs: the start of their ELF files.

    With F it opens the emulator at once, so that containers need not have it.
    """
    start = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + _ELF_MACHINES[architecture].to_bytes(2, "little")
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
    spelled = ("".join(f"\\x{byte:02x}" for byte in part) for part in (start, mask))
    return f":{name}:M:0:{':'.join(spelled)}:{emulator}:F"


def undo() -> None:
    """Take away what a killed run left in the kernel's table."""
    for ours in _HANDLERS.glob(f"{_PREFIX}*"):
        ours.write_text("-1")
        say(f"foreign programs no longer run through {ours.name}")
