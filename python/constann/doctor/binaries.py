"""Reads what a compiled file says of itself: for which machine it is, and which libraries and versions it needs.

Parses bytes with the standard library and loads nothing. Any bytes at all end in a `Binary` or a `BinaryError`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Binary", "BinaryError", "parse", "read"]

_ELF_MACHINES = {3: "i686", 8: "mips", 21: "ppc64le", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64"}
_ELF_MACHINES |= {243: "riscv64", 258: "loongarch64"}
_MACHO_MACHINES = {0x0100_0007: "x86_64", 0x0100_000C: "arm64", 7: "i386"}
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRINGS, _STRINGS_LENGTH, _RPATH, _RUNPATH = 1, 5, 10, 15, 29
_DEFINITIONS, _DEFINITION_COUNT, _NEEDS, _NEED_COUNT = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_MOST_RECORDS = 20_000  # of version tables: far above any library's, so that a damaged table ends soon


class BinaryError(ValueError):
    """The bytes are no ELF or Mach-O file that can be read; the text says why."""


@dataclass(frozen=True)
class Binary:
    """What a compiled file says of itself."""

    format: str
    machines: tuple[str, ...]
    """As `platform.machine` names them; more than one in a universal Mach-O file."""
    needed: tuple[str, ...] = ()
    """Names of the libraries it needs (64-bit little-endian ELF only, as all that follows)."""
    search_path: tuple[str, ...] = ()
    needed_versions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each library the versions of symbols that it must define, such as GLIBC_2.17."""
    defined_versions: tuple[str, ...] = ()


def read(path: Path) -> Binary:
    """Read a file.

    Raises
    ------
    BinaryError
        It is neither ELF nor Mach-O, or damaged.
    OSError
        It cannot be read.
    """
    return parse(path.read_bytes())


def parse(data: bytes) -> Binary:
    """Read the bytes of a file; see `read`."""
    magic = data[:4]
    if magic == b"\x7fELF":
        return _parse_elf(data)
    if magic == b"\xcf\xfa\xed\xfe":
        return Binary("Mach-O", (_macho_machine(_at(data, "<I", 4)[0]),))
    if magic == b"\xca\xfe\xba\xbe":
        (count,) = _at(data, ">I", 4)
        if not 1 <= count <= 16:
            raise BinaryError(f"a universal Mach-O file of {count} machines")
        return Binary("Mach-O", tuple(_macho_machine(_at(data, ">I", 8 + 20 * each)[0]) for each in range(count)))
    raise BinaryError("it is empty" if not data else "it is neither an ELF nor a Mach-O file")


def _macho_machine(number: int) -> str:
    return _MACHO_MACHINES.get(number, f"unknown ({number:#x})")


def _at(data: bytes, layout: str, offset: int) -> tuple[Any, ...]:
    if offset < 0 or offset + struct.calcsize(layout) > len(data):
        raise BinaryError("it is damaged or truncated: a table lies outside the file")
    return struct.unpack_from(layout, data, offset)


def _parse_elf(data: bytes) -> Binary:
    width, order = _at(data, "<BB", 4)
    if width not in (1, 2) or order not in (1, 2):
        raise BinaryError("it is damaged: an ELF file of no known word size or byte order")
    (number,) = _at(data, "<H" if order == 1 else ">H", 18)
    machine = _ELF_MACHINES.get(number, f"unknown ({number})")
    if (width, order) != (2, 1):
        return Binary("ELF", (machine,))
    return _Elf(data).binary(machine)


class _Elf:
    """The dynamic section of a 64-bit little-endian ELF file, found through its program headers as the loader does."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = 0
        (headers,) = _at(data, "<Q", 32)
        size, count = _at(data, "<HH", 54)
        self._segments = [_at(data, "<IIQQQQ", headers + size * each) for each in range(count)]
        self._tags: dict[int, list[int]] = {}
        for kind, _, offset, _, _, length in self._segments:
            if kind == _DYNAMIC:
                self._read_tags(offset, length)

    def binary(self, machine: str) -> Binary:
        paths = [self._string(each) for tag in (_RPATH, _RUNPATH) for each in self._tags.get(tag, [])]
        return Binary(
            "ELF",
            (machine,),
            tuple(self._string(each) for each in self._tags.get(_NEEDED, [])),
            tuple(folder for path in paths for folder in path.split(":") if folder),
            {name: tuple(sorted(versions)) for name, versions in self._needs()},
            tuple(self._definitions()),
        )

    def _read_tags(self, offset: int, length: int) -> None:
        for at in range(offset, offset + length, 16):
            tag, value = _at(self._data, "<qQ", at)
            if tag == 0:
                return
            self._tags.setdefault(tag, []).append(value)

    def _tag(self, tag: int) -> int:
        if tag not in self._tags:
            raise BinaryError("it is damaged: its dynamic section is not whole")
        return self._tags[tag][0]

    def _offset_of(self, address: int) -> int:
        for kind, _, offset, start, _, length in self._segments:
            if kind == _LOAD and start <= address < start + length:
                return int(address - start + offset)
        raise BinaryError("it is damaged: an address lies in no segment")

    def _string(self, at: int) -> str:
        if at >= self._tag(_STRINGS_LENGTH):
            raise BinaryError("it is damaged: a name lies outside the table of names")
        start = self._offset_of(self._tag(_STRINGS)) + at
        end = self._data.find(b"\0", start, start + 4096)
        if end < 0:
            raise BinaryError("it is damaged: a name does not end")
        return self._data[start:end].decode("utf-8", "backslashreplace")

    def _chain(self, start: int, count: int, next_at: int) -> Iterator[int]:
        """Yield the offsets of the records of a list in which each says how far the next one is."""
        at = start
        for _ in range(count):
            self._records += 1
            if self._records > _MOST_RECORDS:
                raise BinaryError("it is damaged: a table of versions does not end")
            yield at
            (distance,) = _at(self._data, "<I", at + next_at)
            if distance == 0:
                return
            at += distance

    def _needs(self) -> Iterator[tuple[str, set[str]]]:
        if _NEEDS not in self._tags:
            return
        found: dict[str, set[str]] = {}
        start = self._offset_of(self._tag(_NEEDS))
        for at in self._chain(start, self._tag(_NEED_COUNT), 12):
            _, count, file, first = _at(self._data, "<HHII", at)
            versions = found.setdefault(self._string(file), set())
            for each in self._chain(at + first, count, 12):
                versions.add(self._string(_at(self._data, "<I", each + 8)[0]))
        yield from found.items()

    def _definitions(self) -> Iterator[str]:
        if _DEFINITIONS not in self._tags:
            return
        start = self._offset_of(self._tag(_DEFINITIONS))
        for at in self._chain(start, self._tag(_DEFINITION_COUNT), 16):
            (first,) = _at(self._data, "<I", at + 12)
            yield self._string(_at(self._data, "<I", at + first)[0])
