"""Where the harness keeps what is costly to make again. Results never go here: removing it all may only cost time."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The agreed mark of a cache folder: backups skip it, and `remove` touches no folder without it.
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# The cache of Constann's release harness.\n"


class CacheError(RuntimeError):
    """The cache folder is not what we made it; the text says what to do."""


def root() -> Path:
    """Return the cache folder, which need not exist: the same one for every checkout of one user."""
    if chosen := os.environ.get("CONSTANN_CI_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "constann"


def folder(*names: str) -> Path:
    """Return a folder inside the cache, made where it is missing."""
    top = root()
    if not top.exists() or not any(top.iterdir()):
        top.mkdir(parents=True, exist_ok=True)
        (top / _TAG).write_text(_TAG_TEXT)
    path = top.joinpath(*names)
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest_of(paths: Iterable[Path]) -> str:
    """Return a digest of files and of all files below folders, by their names there and their bytes."""
    total = hashlib.sha256()
    for top in paths:
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            if path.is_file() and path.suffix not in (".pyc", ".so"):
                name = path.relative_to(top).as_posix()
                content = path.read_bytes()
                total.update(f"{name} {len(content)}\n".encode() + content)
    return total.hexdigest()


def name_for(facts: object) -> str:
    """Return a short name for facts, which changes with each of them: what is made of them is kept under it."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its name at the end: an interrupted run leaves no half file."""
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield work / path.name
        (work / path.name).rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a file lock; the kernel frees it if we are killed, so there are no stale locks."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove() -> bool:
    """Remove the whole cache; return whether there was one. A folder that we did not make is left alone."""
    top = root()
    if not top.exists():
        return False
    if not (top / _TAG).exists():
        raise CacheError(f"{top} has no {_TAG}, so it is not ours to remove: remove it by hand if it is")
    # The mark goes last: what stops us half-way leaves a folder that the next attempt still knows.
    for path in top.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _TAG:
            path.unlink()
    (top / _TAG).unlink()
    top.rmdir()
    return True
