"""Reads a finished wheel and says whether it is what its platform promises. Builds and changes nothing."""

import hashlib
import re
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from functools import cached_property
from pathlib import Path

import lief
from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from ci.platforms import Target

_MACHO = (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")  # of 64 bits, and of several processors

_MACHINES = {"x64": "x86_64", "AArch64": "aarch64"}
_MACHO_MACHINES = {lief.MachO.Header.CPU_TYPE.ARM64: "arm64", lief.MachO.Header.CPU_TYPE.X86_64: "x86_64"}

# Names that glibc's tags had before PEP 600; auditwheel adds them for old versions of pip.
_OLD_NAMES = {
    "manylinux_2_5": "manylinux1",
    "manylinux_2_12": "manylinux2010",
    "manylinux_2_17": "manylinux2014",
}

# The C library and its parts: all that a wheel may ask of the system.
_SYSTEM_LIBRARY = re.compile(
    r"(libc|libm)\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux-[\w-]+\.so\.\d|libc\.musl-\w+\.so\.1"
    r"|/usr/lib/lib(System\.B|c\+\+\.1)\.dylib"
)

# Linux on 64-bit Arm may have pages of 64 KiB: segments aligned to less cannot be mapped there.
_LARGEST_PAGE = {"aarch64": 0x10000}


class WheelError(RuntimeError):
    """A wheel cannot be built or is not what its name says; the text says what, where, and what to do."""


@dataclass(frozen=True)
class Extension:
    """One compiled file inside a wheel."""

    name: str
    """The path inside the wheel."""
    machine: str
    """The processor it is for, as platform.machine() spells it."""
    needed: tuple[str, ...]
    """The shared libraries it asks for."""
    glibc: tuple[int, ...] = ()
    """The oldest glibc that has every symbol it asks for; empty where it asks for none."""
    macos: tuple[int, ...] = ()
    """The oldest macOS it says it runs on; empty where it is not for macOS."""
    signed: bool = False
    """Whether it carries a signature, without which macOS runs no code on Apple silicon."""
    alignment: int = 0
    """What its loaded segments are aligned to, in bytes; 0 where that is the system's own affair."""


@dataclass(frozen=True)
class Wheel:
    """What a wheel holds, read from its own bytes."""

    path: Path
    name_tags: frozenset[Tag]
    """The tags of the file name."""
    metadata_tags: frozenset[Tag]
    """The tags of the WHEEL file inside, which must be the same."""
    extensions: tuple[Extension, ...]

    @property
    def size(self) -> int:
        """Return the size of the file in bytes."""
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of the file, in hexadecimal digits."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def floor(self) -> str:
        """Return the oldest system that all its compiled files run on, such as "glibc 2.17" or "macOS 11.0"."""
        glibc = max((extension.glibc for extension in self.extensions), default=())
        macos = max((extension.macos for extension in self.extensions), default=())
        musl = any("musl" in library for extension in self.extensions for library in extension.needed)
        if glibc or macos:
            return f"{'glibc' if glibc else 'macOS'} {'.'.join(map(str, glibc or macos))}"
        return "musl" if musl else "none"


def running_version() -> str:
    """Return the version of the running Python, such as "3.13"."""
    return sysconfig.get_python_version()


def abi_of(version: str) -> str:
    """Return how wheel tags and extension suffixes name a version of Python, such as "313" or "314t"."""
    return version.replace(".", "")


def expected_tags(platform: Target, abi: str, tag: str | None = None) -> frozenset[Tag]:
    """Return the tags of a wheel for this platform and Python: the platform's (or `tag`), and its older name if any."""
    tag = tag or platform.wheel.tag
    names = [tag]
    policy = tag.removesuffix(f"_{platform.architecture}")
    if policy in _OLD_NAMES:
        names.append(f"{_OLD_NAMES[policy]}_{platform.architecture}")
    return frozenset(Tag(f"cp{abi.rstrip('t')}", f"cp{abi}", name) for name in names)


def glibc_of_tag(tag: str) -> tuple[int, ...]:
    """Return the glibc that a manylinux tag promises to run on, such as (2, 17); empty for any other tag."""
    found = re.match(r"manylinux_(\d+)_(\d+)_", tag)
    return (int(found[1]), int(found[2])) if found else ()


def macos_of_tag(tag: str) -> tuple[int, ...]:
    """Return the macOS that a tag promises to run on, such as (11, 0); empty for any other tag."""
    found = re.match(r"macosx_(\d+)_(\d+)_", tag)
    return (int(found[1]), int(found[2])) if found else ()


def read_wheel(path: Path) -> Wheel:
    """Read the facts of a wheel.

    Raises
    ------
    WheelError
        When the file is no wheel: its name, its archive or its metadata cannot be read.
    """
    try:
        name_tags = parse_wheel_filename(path.name)[3]
        with zipfile.ZipFile(path) as archive:
            return Wheel(path, name_tags, _metadata_tags(archive), tuple(_extensions(archive)))
    except InvalidWheelFilename as error:
        raise WheelError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise WheelError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, ValueError) as error:
        raise WheelError(f"{path}: not a wheel that can be read: {error}; build it again") from None


def target_of(wheel: Wheel, targets: Iterable[Target]) -> Target | None:
    """Return what a wheel is for: by its tags, and by its machine code where they say no more than `linux_x86_64`."""
    known = list(targets)
    platforms = [tag.platform for tag in wheel.name_tags]
    for target in known:
        if any(_family(platform) == _family(target.wheel.tag) for platform in platforms):
            return target
    for extension in wheel.extensions:
        for target in known:
            same_kind = extension.name.endswith(target.wheel.extension_suffix.partition("}")[2])
            if target.architecture == extension.machine and same_kind:
                return target
    return None


def _family(tag: str) -> tuple[str, str]:
    """Return the C library or system of a platform tag, without its version, and the processor."""
    found = re.fullmatch(r"(manylinux|musllinux|macosx|linux)[\d_]*_(\w+)", tag)
    return (found[1], found[2]) if found else ("", tag)


def find_faults(wheel: Wheel, platform: Target, abi: str, tag: str | None = None) -> list[str]:
    """Return what keeps a wheel from being one for this platform and Python, one sentence each.

    It is held to the platform's tag, or to `tag`, which an image with a newer C library makes.
    """
    tag = tag or platform.wheel.tag
    faults = [*_tag_faults(wheel, platform, abi, tag)]
    if not wheel.extensions:
        faults.append("holds no compiled file: was the extension module installed (CMake's install component)?")
    for extension in wheel.extensions:
        faults += _extension_faults(extension, platform, abi, tag)
    return faults


def _tag_faults(wheel: Wheel, platform: Target, abi: str, tag: str) -> Iterator[str]:
    expected = expected_tags(platform, abi, tag)
    if wheel.name_tags != expected:
        yield f"the file name says {_spell(wheel.name_tags)}, expected {_spell(expected)}"
    if wheel.metadata_tags != wheel.name_tags:
        yield f"its WHEEL file says {_spell(wheel.metadata_tags)}, unlike the file name: was it renamed?"


def _extension_faults(extension: Extension, platform: Target, abi: str, tag: str) -> Iterator[str]:
    if extension.machine != platform.architecture:
        yield (
            f"{extension.name} is machine code for {extension.machine}, expected {platform.architecture}:"
            " another compiler than the toolchain's was used"
        )
    suffix = platform.wheel.extension_suffix.format(abi=abi)
    if not extension.name.endswith(suffix):
        yield (
            f"{extension.name} does not end in {suffix}: Python would not find it there"
            " (SETUPTOOLS_EXT_SUFFIX was not honoured)"
        )
    for library in extension.needed:
        if not _SYSTEM_LIBRARY.fullmatch(library):
            yield f"{extension.name} needs {library}, which not every machine has: link it statically"
    page = _LARGEST_PAGE.get(extension.machine, 0)
    if extension.alignment and extension.alignment < page:
        yield (
            f"{extension.name} has segments aligned to {extension.alignment} bytes, but pages may have {page} there:"
            " link with -z max-page-size=65536"
        )
    if platform.system == "Darwin":
        yield from _macos_faults(extension, macos_of_tag(tag))
    promised = glibc_of_tag(tag)
    if promised and extension.glibc > promised:
        yield (
            f"{extension.name} needs glibc {'.'.join(map(str, extension.glibc))}, but the tag promises"
            f" {'.'.join(map(str, promised))}"
        )


def _macos_faults(extension: Extension, promised: tuple[int, ...]) -> Iterator[str]:
    if extension.macos != promised:
        yield (
            f"{extension.name} says it is for macOS {'.'.join(map(str, extension.macos)) or 'of any version'}, but the"
            f" tag promises {'.'.join(map(str, promised))}"
        )
    if not extension.signed:
        yield f"{extension.name} is not signed, and macOS kills unsigned code: it was changed after it was linked"


def _spell(tags: frozenset[Tag]) -> str:
    return ", ".join(sorted(map(str, tags))) or "nothing"


def _metadata_tags(archive: zipfile.ZipFile) -> frozenset[Tag]:
    name = next((name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/WHEEL", name)), None)
    if name is None:
        raise ValueError("it has no .dist-info/WHEEL")
    lines = BytesParser().parsebytes(archive.read(name)).get_all("Tag", [])
    return frozenset[Tag]().union(*map(parse_tag, lines))


def _extensions(archive: zipfile.ZipFile) -> Iterator[Extension]:
    """Yield every compiled file, whatever its name: one of the wrong suffix is what we are here to find."""
    for name in sorted(archive.namelist()):
        with archive.open(name) as file:
            magic = file.read(4)
            file.seek(0)
            if magic in _MACHO:
                yield _read_macho(name, file.read())
            elif magic == b"\x7fELF":
                try:
                    yield _read_elf(name, ELFFile(file))
                except ELFError as error:
                    raise ValueError(f"{name} is a broken ELF file: {error}") from None


def _read_macho(name: str, content: bytes) -> Extension:
    lief.logging.disable()
    parsed = lief.MachO.parse(content)
    if parsed is None or parsed.size == 0:
        raise ValueError(f"{name} is a broken Mach-O file")
    if parsed.size > 1:
        raise ValueError(f"{name} is for several processors at once, which no wheel of ours is")
    binary = parsed.at(0)
    if binary is None:
        raise ValueError(f"{name} is a broken Mach-O file")
    build = binary.build_version
    return Extension(
        name,
        _MACHO_MACHINES.get(binary.header.cpu_type, str(binary.header.cpu_type)),
        tuple(
            str(library.name) for library in binary.libraries if library.command != lief.MachO.LoadCommand.TYPE.ID_DYLIB
        ),
        macos=tuple(build.minos[:2]) if build else (),
        signed=binary.has_code_signature,
    )


def _read_elf(name: str, elf: ELFFile) -> Extension:
    sections = list(elf.iter_sections())
    needed = [
        str(entry.needed)  # type: ignore[attr-defined]  # set for this kind of entry alone
        for section in sections
        if isinstance(section, DynamicSection)
        for entry in section.iter_tags("DT_NEEDED")
    ]
    versions = [
        tuple(map(int, found[1].split(".")))
        for section in sections
        if isinstance(section, GNUVerNeedSection)
        for _, symbols in section.iter_versions()
        for symbol in symbols
        if (found := re.fullmatch(r"GLIBC_([\d.]+)", symbol.name))
    ]
    machine = elf.get_machine_arch()
    loaded = [segment["p_align"] for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"]
    return Extension(
        name,
        _MACHINES.get(machine, machine),
        tuple(needed),
        glibc=max(versions, default=()),
        alignment=min(loaded, default=0),
    )


def digest_of_build(path: Path) -> str:
    """Return a digest of what a wheel installs, without its dates and lists, or of a program."""
    if not zipfile.is_zipfile(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if ".dist-info/" not in name:
                content = archive.read(name)
                total.update(f"{name} {len(content)}\n".encode() + content)
    return total.hexdigest()
