"""Reads the machine code of ELF and Mach-O files and the names of its functions. Disassembles and judges nothing."""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import lief

from ci.wheel_file import WheelError

_ELF, _MACHO = b"\x7fELF", b"\xcf\xfa\xed\xfe"

# Universal Mach-O files: several in one, for several processors. Java's classes begin with the same word, and go on
# with their version, which is 45 or more where these have the number of files.
_UNIVERSAL, _MOST_SLICES = b"\xca\xfe\xba\xbe", 44
_SLICE = struct.Struct(">IIIII")  # processor, its kind, place, size, alignment

# The numbers of processors, and where they lie in a file.
_ELF_MACHINES, _ELF_MACHINE = {62: "x86_64", 183: "aarch64"}, slice(18, 20)
_MACHO_MACHINES, _MACHO_MACHINE = {0x01000007: "x86_64", 0x0100000C: "arm64"}, slice(4, 8)

# Of the types of a Mach-O symbol: notes for debuggers, and "defined in a section"; of its description: weak.
_MACHO_DEBUG, _MACHO_TYPE, _MACHO_SECTION, _MACHO_WEAK = 0xE0, 0x0E, 0x0E, 0x0080

# Mapping symbols of Arm's ELF files: from here on there is data, or code.
_DATA, _CODE = "$d", "$x"


class NoCodeError(WheelError):
    """A compiled file holds nothing that a CPU could execute."""


@dataclass(frozen=True)
class Function:
    """A stretch of code and everything it is called."""

    start: int
    end: int
    names: tuple[str, ...]
    """Mangled; several where the linker found equal code, none where the file is stripped of names."""
    title: str
    """For people: a demangled name, or where the code lies."""
    weak: bool = False
    """Whether the linker may take it in place of another of the same name, or another in its place."""


@dataclass(frozen=True)
class Section:
    """A stretch of bytes that a CPU may execute."""

    name: str
    address: int
    content: bytes


@dataclass(frozen=True)
class Binary:
    """The machine code of one file."""

    name: str
    architecture: str
    """What platform.machine() answers where it runs."""
    system: str
    """What platform.system() answers there."""
    sections: tuple[Section, ...]
    functions: tuple[Function, ...]
    """In the order of their addresses; where one holds another, the inner one comes later."""
    data: tuple[tuple[int, int], ...] = ()
    """Stretches inside the sections that the file itself says are no code."""

    def function_at(self, address: int) -> Function:
        """Return the function that an instruction lies in; what belongs to none is called by its section."""
        return self.owner_of(address)[0]

    def owner_of(self, address: int) -> tuple[Function, int]:
        """Return `function_at`, and up to where it is the same."""
        place = bisect_right(self._starts, address)
        if place and address < self.functions[place - 1].end:
            return self.functions[place - 1], self.functions[place - 1].end
        section = self._section_at(address)
        return section, min(section.end, *self._starts[place : place + 1], section.end)

    @cached_property
    def _starts(self) -> list[int]:
        return [function.start for function in self.functions]

    def _section_at(self, address: int) -> Function:
        for section in self.sections:
            end = section.address + len(section.content)
            if section.address <= address < end:
                return Function(section.address, end, (), f"section {section.name}")
        raise ValueError(f"{self.name}: {address:#x} is not code")


def is_binary(head: bytes) -> bool:
    """Tell a compiled file by its first eight bytes or more."""
    return head[:4] in (_ELF, _MACHO) or _is_universal(head)


def read_slices(name: str, content: bytes) -> tuple[Binary, ...]:
    """Read a compiled file: one binary, or of a universal Mach-O file one for each processor, called by it.

    Raises
    ------
    NoCodeError
        When there is nothing in it that a CPU could execute.
    WheelError
        When it is broken, or for a processor that the audit does not know.
    """
    if not _is_universal(content):
        return (read_binary(name, content),)
    slices = []
    for number in range(int.from_bytes(content[4:8], "big")):
        header = content[8 + _SLICE.size * number :][: _SLICE.size]
        processor, _, place, size, _ = _SLICE.unpack(header) if len(header) == _SLICE.size else (0,) * 5
        if not 0 < place <= place + size <= len(content):
            raise WheelError(f"{name}: a broken universal Mach-O file")
        machine = _MACHO_MACHINES.get(processor, f"processor {processor:#x}")
        slices.append(read_binary(f"{name} ({machine})", content[place : place + size]))
    return tuple(slices)


def _is_universal(head: bytes) -> bool:
    return head[:4] == _UNIVERSAL and 1 <= int.from_bytes(head[4:8].ljust(4, b"\xff"), "big") <= _MOST_SLICES


def read_binary(name: str, content: bytes) -> Binary:
    """Read a compiled file for one processor; see `read_slices`."""
    lief.logging.disable()
    if content[:4] == _ELF:
        machine, system = _ELF_MACHINES.get(int.from_bytes(content[_ELF_MACHINE], "little")), "Linux"
    elif content[:4] == _MACHO:
        machine, system = _MACHO_MACHINES.get(int.from_bytes(content[_MACHO_MACHINE], "little")), "Darwin"
    else:
        raise WheelError(f"{name}: not an ELF or Mach-O file")
    if machine is None:
        raise WheelError(f"{name}: the audit knows x86-64 and 64-bit Arm, and this is for another processor")
    parsed = _parse(name, content)
    sections = tuple(_elf_sections(parsed) if isinstance(parsed, lief.ELF.Binary) else _macho_sections(parsed))
    if not sections:
        raise NoCodeError(f"{name}: holds no machine code")
    if isinstance(parsed, lief.ELF.Binary):
        symbols, starts = list(_elf_symbols(parsed)), [(each.address, each.size) for each in parsed.functions]
        data = tuple(_elf_data(parsed, sections)) if machine == "aarch64" else ()
    else:
        symbols, starts = list(_macho_symbols(parsed)), [(each.address, 0) for each in parsed.functions]
        data = ()
    return Binary(name, machine, system, sections, tuple(_functions(symbols, starts, sections)), data)


def _parse(name: str, content: bytes) -> "lief.ELF.Binary | lief.MachO.Binary":
    parsed: lief.ELF.Binary | lief.MachO.Binary | None = None
    if content[:4] == _ELF:
        parsed = lief.ELF.parse(content)
    else:
        several = lief.MachO.parse(content)
        parsed = several.at(0) if several is not None and several.size else None
    if parsed is None:
        raise WheelError(f"{name}: a broken ELF or Mach-O file")
    return parsed


@dataclass(frozen=True)
class _Symbol:
    address: int
    size: int
    name: str
    title: str
    weak: bool


def _elf_sections(parsed: lief.ELF.Binary) -> Iterator[Section]:
    executable = lief.ELF.Section.FLAGS.EXECINSTR
    named = [each for each in parsed.sections if executable in each.flags_list and each.size]
    for each in named:
        yield Section(str(each.name), each.virtual_address, bytes(each.content))
    if not named:
        # A file may have no table of sections at all: what runs is what is mapped to be run.
        for number, segment in enumerate(parsed.segments):
            if lief.ELF.Segment.FLAGS.X in lief.ELF.Segment.FLAGS(segment.flags) and segment.physical_size:
                yield Section(f"of segment {number}", segment.virtual_address, bytes(segment.content))


def _macho_sections(parsed: lief.MachO.Binary) -> Iterator[Section]:
    code = {lief.MachO.Section.FLAGS.PURE_INSTRUCTIONS, lief.MachO.Section.FLAGS.SOME_INSTRUCTIONS}
    for each in parsed.sections:
        if code & set(each.flags_list) and each.size:
            yield Section(str(each.name), each.virtual_address, bytes(each.content))


def _elf_symbols(parsed: lief.ELF.Binary) -> Iterator[_Symbol]:
    kinds = {lief.ELF.Symbol.TYPE.FUNC, lief.ELF.Symbol.TYPE.GNU_IFUNC}
    weak = {lief.ELF.Symbol.BINDING.WEAK, lief.ELF.Symbol.BINDING.GNU_UNIQUE}
    for each in (*parsed.symtab_symbols, *parsed.dynamic_symbols):
        if each.type in kinds and each.value and each.shndx:
            name = str(each.name)
            yield _Symbol(each.value, each.size, name, _demangled(name), each.binding in weak)


def _macho_symbols(parsed: lief.MachO.Binary) -> Iterator[_Symbol]:
    for each in parsed.symbols:
        if not each.raw_type & _MACHO_DEBUG and each.raw_type & _MACHO_TYPE == _MACHO_SECTION and each.name:
            name = str(each.name).removeprefix("_")
            yield _Symbol(each.value, 0, name, _demangled(name), bool(each.description & _MACHO_WEAK))


def _demangled(name: str) -> str:
    """Return the name as it stands in the source: lief can tell, of a symbol without macOS's underscore."""
    symbol = lief.ELF.Symbol()
    symbol.name = name
    return str(symbol.demangled_name or name)


def _elf_data(parsed: lief.ELF.Binary, sections: Sequence[Section]) -> Iterator[tuple[int, int]]:
    """Give the stretches between a mark of data and the next of code, or the section's end."""
    marks = sorted(
        (each.value, str(each.name)[:2]) for each in parsed.symtab_symbols if str(each.name)[:2] in (_DATA, _CODE)
    )
    for section in sections:
        end = section.address + len(section.content)
        inside = [mark for mark in marks if section.address <= mark[0] < end]
        for (start, kind), (following, _) in pairwise([*inside, (end, _CODE)]):
            if kind == _DATA and start < following:
                yield start, following


def _functions(
    symbols: Iterable[_Symbol], starts: Iterable[tuple[int, int]], sections: Sequence[Section]
) -> Iterator[Function]:
    """Bring together what the symbols say and what the tables for unwinding and loading say."""
    named: dict[int, list[_Symbol]] = {}
    for symbol in symbols:
        named.setdefault(symbol.address, []).append(symbol)
    sizes = {address: max(symbol.size for symbol in found) for address, found in named.items()}
    for address, size in starts:
        sizes[address] = max(size, sizes.get(address, 0))
    for section in sections:
        end = section.address + len(section.content)
        inside = sorted(address for address in sizes if section.address <= address < end)
        for start, following in pairwise([*inside, end]):
            known = {symbol.name: symbol for symbol in named.get(start, ())}
            titles = [symbol.title for _, symbol in sorted(known.items())]
            # A symbol without a size goes on to the next one, as in every Mach-O file.
            until = min(start + sizes[start], following) if sizes[start] else following
            yield Function(
                start,
                until,
                tuple(sorted(known)),
                titles[0] if titles else f"function at {start:#x}",
                any(symbol.weak for symbol in known.values()),
            )
