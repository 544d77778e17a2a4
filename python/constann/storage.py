"""Index files: opening by mmap, digests, atomic saving. No number of an index is computed or changed here."""

import contextlib
import hashlib
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from constann import _core
from constann.errors import FileFormatError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from constann.indexes import Index

__all__ = ["HeaderParts", "Path", "header_parts", "read", "save", "write_atomically"]

Path = str | os.PathLike[str]
_DIGEST_LENGTH = 32
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


def header_parts(index: "Index") -> HeaderParts:
    """Return the header of a built index, computing the digests of its sections the first time."""
    if index._parts is None:
        digests = [hashlib.sha256(content).digest() for _, content in index._contents()]
        offsets, encoded = index._encode_header(digests)
        index._parts = HeaderParts(encoded, hashlib.sha256(encoded).digest(), offsets)
    return index._parts


def save(index: "Index", path: Path) -> None:
    """Write `index` beside `path` and put it there in one step; see `Index.save`."""
    write_atomically(path, _contents(index, header_parts(index)))


def write_atomically(path: Path, contents: Iterable["ReadableBuffer"]) -> None:
    """Write the contents one after another beside `path` and put them there in one step, or leave all as it was."""
    path = os.fsdecode(path)
    unfinished = f"{path}.{os.getpid()}-{secrets.token_hex(4)}.unfinished"
    try:
        # Exclusive, and with the permissions any new file of this user gets.
        with open(unfinished, "xb") as out:
            for content in contents:
                with memoryview(content) as view:
                    for start in range(0, len(view), _CHUNK):
                        out.write(view[start : start + _CHUNK])
            out.flush()
            os.fsync(out.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    _sync_folder(os.path.dirname(path) or ".")


def _contents(index: "Index", parts: HeaderParts) -> Iterator["ReadableBuffer"]:
    """Give the bytes of an index file, in order."""
    yield parts.encoded + parts.digest
    end = len(parts.encoded) + _DIGEST_LENGTH
    for (_, content), offset in zip(index._contents(), parts.offsets, strict=True):
        yield bytes(offset - end)
        yield content
        end = offset + len(content)


def _sync_folder(folder: str) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: Path, verify: bool) -> tuple[str, mmap.mmap, HeaderParts]:
    """Map an index file and check its header, or with `verify` all of it; return its kind, bytes and header.

    Raises
    ------
    FileFormatError, OSError
        As `constann.open`.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise FileFormatError("the file is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    kind, parts = _checked_header(mapped)
    if verify:
        _verify_sections(mapped, parts)
    return kind, mapped, parts


def _checked_header(mapped: mmap.mmap) -> tuple[str, HeaderParts]:
    length, kind, sections = _core.inspect(mapped)
    encoded, digest = mapped[:length], mapped[length : length + _DIGEST_LENGTH]
    if hashlib.sha256(encoded).digest() != digest:
        raise FileFormatError("the header is damaged: its SHA-256 does not fit")
    return kind, HeaderParts(encoded, digest, [offset for _, offset, _, _ in sections])


def _verify_sections(mapped: mmap.mmap, parts: HeaderParts) -> None:
    _, _, sections = _core.inspect(mapped)
    end = len(parts.encoded) + _DIGEST_LENGTH
    with memoryview(mapped) as view:
        for name, offset, length, digest in sections:
            if any(view[end:offset]):
                raise FileFormatError(f"the padding before section {name} is not zero")
            with view[offset : offset + length] as content:
                if hashlib.sha256(content).digest() != digest:
                    raise FileFormatError(f"section {name} is damaged: its SHA-256 does not fit")
            end = offset + length
