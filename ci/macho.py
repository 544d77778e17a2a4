"""Takes the building machine's paths and times out of a Mach-O file that was cross-compiled, and mends its signature.

zig's linker notes for debuggers where each object file lay and when it was written, and leaves that out only together
with the names of functions, by which the audit tells what an instruction is for. Nothing that runs is changed.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_MAGIC = 0xFEEDFACF
_SYMTAB, _SEGMENT, _UUID, _CODE_SIGNATURE = 0x2, 0x19, 0x1B, 0x1D

# An entry of the symbol table (struct nlist_64): place of the name, type, section, description, value.
_ENTRY = struct.Struct("<IBBHQ")
_FOR_DEBUGGERS = 0xE0
_PAGE = 0x4000  # of memory, on every Mac with an Arm CPU
_NO_NOTE = (0, 0x3C, 0, 0, 0)  # N_OPT, which says nothing

_SIGNATURE, _CODE_DIRECTORY, _SHA256 = 0xFADE0CC0, 0xFADE0C02, 2


class MachOError(ValueError):
    """A file is not the Mach-O file that we can clean; the text says why."""


@dataclass(frozen=True)
class _Command:
    kind: int
    place: int
    size: int


def clean(path: Path) -> int:
    """Take out what notes for debuggers say, derive the UUID from what is left, and hash the pages anew to sign them.

    Returns
    -------
    int
        How many notes there were; 0 leaves the file untouched.

    Raises
    ------
    MachOError
        When it is no 64-bit Mach-O file, or is signed in a way that cannot be mended without a key.
    """
    content = bytearray(path.read_bytes())
    commands = {command.kind: command for command in _commands(content, path)}
    if _SYMTAB not in commands:
        return 0
    emptied = _empty_notes(content, commands[_SYMTAB])
    if emptied:
        _pack_names(content, commands, path)
        if _UUID in commands:
            place = commands[_UUID].place + 8
            content[place : place + 16] = bytes(16)
        if _CODE_SIGNATURE in commands:
            start, size = struct.unpack_from("<II", content, commands[_CODE_SIGNATURE].place + 8)
            if _UUID in commands:
                content[place : place + 16] = sha256(content[:start]).digest()[:16]
            _sign(content, start, size, path)
        path.write_bytes(content)
    return emptied


def unsigned_pages(name: str, content: bytes) -> list[int]:
    """Return the numbers of the pages whose hash in the signature is not theirs: macOS would kill the process there.

    Raises
    ------
    MachOError
        When it is no 64-bit Mach-O file, is broken, or has no signature that can be read.
    """
    try:
        commands = {command.kind: command for command in _commands(content, name)}
        if _CODE_SIGNATURE not in commands:
            raise MachOError(f"{name}: has no signature")
        start, _ = struct.unpack_from("<II", content, commands[_CODE_SIGNATURE].place + 8)
        return [
            number
            for number, (place, digest) in enumerate(_hashes(content, start, name))
            if content[place : place + 32] != digest
        ]
    except struct.error:
        raise MachOError(f"{name}: is broken: its signature or its list of commands ends early") from None


def _commands(content: bytes | bytearray, path: Path | str) -> Iterator[_Command]:
    if len(content) < 32 or struct.unpack_from("<I", content)[0] != _MAGIC:
        raise MachOError(f"{path}: not a 64-bit Mach-O file")
    (count,) = struct.unpack_from("<I", content, 16)
    place = 32
    for _ in range(count):
        kind, size = struct.unpack_from("<II", content, place)
        yield _Command(kind, place, size)
        place += size


def _empty_notes(content: bytearray, table: _Command) -> int:
    """Overwrite every symbol for debuggers, and return how many there were."""
    symbols, count = struct.unpack_from("<II", content, table.place + 8)
    entries = [_ENTRY.unpack_from(content, symbols + _ENTRY.size * number) for number in range(count)]
    notes = [number for number, entry in enumerate(entries) if entry[1] & _FOR_DEBUGGERS and entry != _NO_NOTE]
    for number in notes:
        _ENTRY.pack_into(content, symbols + _ENTRY.size * number, *_NO_NOTE)
    return len(notes)


def _pack_names(content: bytearray, commands: Mapping[int, _Command], path: Path) -> None:
    """Write the names that symbols have anew, and nothing between them: the length of a path must not be seen either.

    Names lie last but for the signature, which is moved.
    """
    table, signature = commands[_SYMTAB], commands.get(_CODE_SIGNATURE)
    symbols, count, strings, length = struct.unpack_from("<IIII", content, table.place + 8)
    start, size = struct.unpack_from("<II", content, signature.place + 8) if signature else (len(content), 0)
    if not strings + length <= start < strings + length + 16 or start + size != len(content):
        raise MachOError(f"{path}: what it names does not lie last")
    names, places = bytearray(1), {b"": 0}
    for number in range(count):
        name, *rest = _ENTRY.unpack_from(content, symbols + _ENTRY.size * number)
        text = _name_at(content, strings, name) if name else b""
        if text not in places:
            places[text] = len(names)
            names += text + b"\0"
        _ENTRY.pack_into(content, symbols + _ENTRY.size * number, places[text], *rest)
    names += bytes(-(strings + len(names)) % 16)
    content[strings:start] = names
    struct.pack_into("<I", content, table.place + 20, len(names))
    if signature:
        _fit_signature(content, signature, strings + len(names), path)
    _fit_segment(content, path)


def _fit_signature(content: bytearray, command: _Command, start: int, path: Path) -> None:
    """Have the signature, which now lies at `start`, cover what lies before it."""
    directory = _directory(content, start, path)
    hashes, page_bits = struct.unpack_from(">I", content, directory + 16)[0], content[directory + 39]
    pages = -(-start >> page_bits)
    content[directory + hashes :] = bytes(32 * pages)
    struct.pack_into(">I", content, start + 4, len(content) - start)
    struct.pack_into(">I", content, directory + 4, len(content) - directory)
    struct.pack_into(">II", content, directory + 28, pages, start)
    struct.pack_into("<II", content, command.place + 8, start, len(content) - start)


def _fit_segment(content: bytearray, path: Path) -> None:
    """Have the last segment, of all that is only for the linker, end where the file does."""
    for command in _commands(content, path):
        if command.kind == _SEGMENT and content[command.place + 8 :].startswith(b"__LINKEDIT\0"):
            (begin,) = struct.unpack_from("<Q", content, command.place + 40)
            size = len(content) - begin
            struct.pack_into("<Q", content, command.place + 32, -(-size // _PAGE) * _PAGE)
            struct.pack_into("<Q", content, command.place + 48, size)


def _name_at(content: bytearray, strings: int, name: int) -> bytes:
    return bytes(content[strings + name : content.index(0, strings + name)])


def _sign(content: bytearray, start: int, size: int, path: Path) -> None:
    if struct.unpack_from(">I", content, start)[0] != _SIGNATURE:
        raise MachOError(f"{path}: its signature cannot be read")
    blobs = struct.unpack_from(">I", content, start + 8)[0]
    # An ad-hoc signature holds hashes alone; one with a certificate's would no longer fit.
    if blobs != 1 or size < 1:
        raise MachOError(f"{path}: is signed with more than hashes: clean it before it is signed")
    for place, digest in _hashes(content, start, path):
        content[place : place + 32] = digest


def _directory(content: bytes | bytearray, start: int, path: Path | str) -> int:
    """Return the place of the list of hashes in the signature at `start`."""
    place: int = start + struct.unpack_from(">I", content, start + 16)[0]
    (magic,) = struct.unpack_from(">I", content, place)
    hash_size, hash_type = struct.unpack_from(">BB", content, place + 36)
    if magic != _CODE_DIRECTORY or hash_type != _SHA256 or hash_size != 32:
        raise MachOError(f"{path}: its signature is of a kind unknown here")
    return place


def _hashes(content: bytes | bytearray, start: int, path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Give the place of each page's hash in the signature, and what it must be."""
    directory = _directory(content, start, path)
    hashes, _, _, pages, limit = struct.unpack_from(">5I", content, directory + 16)
    page_bits = content[directory + 39]
    for number in range(pages):
        first = number << page_bits
        yield directory + hashes + 32 * number, sha256(content[first : min(first + (1 << page_bits), limit)]).digest()
