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

_HANDLERS = Path("/proc/sys/fs/binfmt_misc")
# e_machine of an ELF file, in its two bytes.
_ELF_MACHINES = {"aarch64": r"\xb7\x00", "x86_64": r"\x3e\x00"}
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


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
    return _HANDLERS / f"constann-{platform.architecture}"


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
    # F: the kernel opens QEMU now, so that containers need not have it.
    magic = f"{_MAGIC}{_ELF_MACHINES[platform.architecture]}"
    (_HANDLERS / "register").write_text(f":{_handler(platform).name}:M:0:{magic}:{_MASK}:{Path(program).resolve()}:F")
