"""Index files: opening by mmap, digests, atomic saving. No number of an index is computed or changed here."""

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, TypeAlias, Union

import numpy as np

from constann import _core
from constann.errors import FileFormatError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "MEMORY_MODES",
    "HeaderParts",
    "Path",
    "Source",
    "Stored",
    "check_place",
    "header_parts",
    "naming",
    "read",
    "save",
    "settled_parts",
    "sync_folder",
    "to_bytes",
    "unfinished_name",
    "write_atomically",
]

Path = str | os.PathLike[str]
Source: TypeAlias = Union[Path, "ReadableBuffer", BinaryIO]
MEMORY_MODES = ("map", "warm", "copy", "lock")
_DIGEST_LENGTH = len(hashlib.sha256().digest())  # the first takes ten times as long as those of opened files
_CHUNK = 1 << 24


class HeaderParts(NamedTuple):
    """The header of an index file as it is written: its bytes, its SHA-256, and where the sections lie."""

    encoded: bytes
    digest: bytes
    offsets: list[int]

    @property
    def fingerprint(self) -> str:
        """The digest in hex."""
        return self.digest.hex()


class Stored(Protocol):
    """What can be written: an index, or a map of pairs."""

    _parts: HeaderParts | None

    @property
    def built(self) -> bool:
        """Whether there is something to write."""

    def _contents(self) -> list[tuple[str, memoryview]]: ...
    def _encode_header(self, digests: list[bytes]) -> tuple[list[int], bytes]: ...


def header_parts(index: Stored) -> HeaderParts:
    """Return the header of a built index, computing the digests of its sections the first time."""
    if not index.built:
        raise ValueError("the index is not built: call build() first")
    return settled_parts(index)


def settled_parts(index: Stored) -> HeaderParts:
    """Return the header of an index that is built, also where it cannot be used yet because its file is being made."""
    if index._parts is None:
        digests = [hashlib.sha256(content).digest() for _, content in index._contents()]
        offsets, encoded = index._encode_header(digests)
        index._parts = HeaderParts(encoded, hashlib.sha256(encoded).digest(), offsets)
    return index._parts


def save(index: Stored, target: Path | BinaryIO) -> None:
    """Write `index` beside a path and put it there in one step, or into an open file; see `Index.save`."""
    contents = _contents(index, header_parts(index))
    if isinstance(target, (str, os.PathLike)):
        write_atomically(target, contents)
    else:
        _write_all(target, contents)


def to_bytes(index: Stored) -> bytearray:
    """Return what the file of `index` holds."""
    whole = bytearray()
    for content in _contents(index, header_parts(index)):
        whole += content
    return whole


def _write_all(out: BinaryIO, contents: Iterable["ReadableBuffer"]) -> None:
    for content in contents:
        with memoryview(content) as view:
            for start in range(0, len(view), _CHUNK):
                out.write(view[start : start + _CHUNK])


def write_atomically(path: Path, contents: Iterable["ReadableBuffer"]) -> None:
    """Write the contents one after another beside `path` and put them there in one step, or leave all as it was."""
    path = os.fsdecode(path)
    unfinished = unfinished_name(path)
    try:
        # Exclusive, and with the permissions any new file of this user gets.
        with open(unfinished, "xb") as out:
            _write_all(out, contents)
            out.flush()
            os.fsync(out.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    sync_folder(os.path.dirname(path) or ".")


def _contents(index: Stored, parts: HeaderParts) -> Iterator["ReadableBuffer"]:
    """Give the bytes of an index file, in order."""
    yield parts.encoded + parts.digest
    end = len(parts.encoded) + _DIGEST_LENGTH
    for (_, content), offset in zip(index._contents(), parts.offsets, strict=True):
        yield bytes(offset - end)
        yield content
        end = offset + len(content)


def check_place(path: Path) -> None:
    """Find out now, not after hours of building, that no file can be put at `path`; what is there stays.

    Raises
    ------
    OSError
        It is a folder, or nothing can be written beside it.
    """
    path = os.fsdecode(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "a folder is there, an index is a file", path)
    with open(unfinished := unfinished_name(path), "xb"):
        os.unlink(unfinished)


def unfinished_name(path: str) -> str:
    """Return a new name beside `path` for what will be put there."""
    return f"{path}.{os.getpid()}-{os.urandom(4).hex()}.unfinished"


def sync_folder(folder: str) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(source: Source, verify: bool, memory: str) -> tuple[str, "ReadableBuffer", HeaderParts]:
    """Get the bytes of an index file and check its header, or with `verify` all; return its kind, bytes and header.

    Raises
    ------
    FileFormatError, OSError, ValueError
        As `constann.open`.
    """
    if memory not in MEMORY_MODES:
        raise ValueError(f"there is no memory mode {memory!r}: use {', '.join(map(repr, MEMORY_MODES))}")
    content = _content(source, memory)
    length, kind, sections = _core.inspect(content)
    with memoryview(content) as view:
        encoded, digest = bytes(view[:length]), bytes(view[length : length + _DIGEST_LENGTH])
        if hashlib.sha256(encoded).digest() != digest:
            raise FileFormatError("the header is damaged: its SHA-256 does not fit")
        if verify:
            _verify_sections(view, length + _DIGEST_LENGTH, sections)
    return kind, content, HeaderParts(encoded, digest, [offset for _, offset, _, _ in sections])


@contextlib.contextmanager
def naming(source: Source, kind: type[ValueError] = FileFormatError) -> Iterator[None]:
    """Put the path, where there is one, before what is wrong with the file."""
    try:
        yield
    except kind as error:
        if not isinstance(source, (str, os.PathLike)):
            raise
        raise kind(f"{os.fspath(source)}: {error}") from None


def _content(source: Source, memory: str) -> "ReadableBuffer":
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb", buffering=0) as file:
            return _file_content(file, memory)
    if hasattr(source, "read"):
        return _not_empty(source.read())
    with memoryview(source) as view:
        if not view.c_contiguous:
            raise ValueError("the bytes of an index must lie one after another")
    return source


def _not_empty(content: bytes) -> bytes:
    if not content:
        raise FileFormatError("the file is empty")
    return content


def _file_content(file: FileIO, memory: str) -> "ReadableBuffer":
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise FileFormatError("the file is empty")
    if memory == "copy":
        return _copy(file, size)
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if memory == "warm":
        _touch_every_page(mapped)
    elif memory == "lock":
        _lock(mapped)
    return mapped


def _copy(file: FileIO, size: int) -> mmap.mmap:
    """Read the file into memory of this process alone, in huge pages where the system has them."""
    # Python's default is memory that processes can share, for which most systems have no huge pages.
    copy = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # it only makes searches faster
            copy.madvise(mmap.MADV_HUGEPAGE)
    with memoryview(copy) as view:
        done = 0
        while done < size:
            read = file.readinto(view[done : done + _CHUNK])
            if not read:
                raise FileFormatError(f"the file ended after {done} of {size} bytes while it was read")
            done += read
    return copy


def _touch_every_page(mapped: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_WILLNEED"):
        mapped.madvise(mmap.MADV_WILLNEED)
    with memoryview(mapped) as view:
        for start in range(0, len(view), _CHUNK):
            bytes(view[start : start + _CHUNK : mmap.PAGESIZE])


def _lock(mapped: mmap.mmap) -> None:
    """Keep the pages in memory until the mapping ends, which frees them."""
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    library = ctypes.CDLL(None, use_errno=True)
    if library.mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped))) == 0:
        return
    import resource  # noqa: PLC0415 - only where it can be needed

    error, limit = ctypes.get_errno(), resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    raise OSError(
        error,
        f"{os.strerror(error)}: the system refuses to lock {len(mapped)} bytes in memory, this process may lock "
        f"{limit} (RLIMIT_MEMLOCK): raise it with `ulimit -l` or LimitMEMLOCK=, or open with memory='warm'",
    )


def _verify_sections(view: memoryview, end: int, sections: list[tuple[str, int, int, bytes]]) -> None:
    for name, offset, length, digest in sections:
        if any(view[end:offset]):
            raise FileFormatError(f"the padding before section {name} is not zero")
        with view[offset : offset + length] as content:
            if hashlib.sha256(content).digest() != digest:
                raise FileFormatError(f"section {name} is damaged: its SHA-256 does not fit")
        end = offset + length
