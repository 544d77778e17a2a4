"""Reads a finished wheel and says whether it is what its platform promises. Builds and changes nothing."""

import hashlib
import re
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from functools import cached_property
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from ci.platforms import Platform

_MACHINES = {"x64": "x86_64", "AArch64": "aarch64"}

# Names that glibc's tags had before PEP 600; auditwheel adds them for old versions of pip.
_OLD_NAMES = {
    "manylinux_2_5": "manylinux1",
    "manylinux_2_12": "manylinux2010",
    "manylinux_2_17": "manylinux2014",
}

# The C library and its parts: all that a wheel may ask of the system.
_SYSTEM_LIBRARY = re.compile(
    r"(libc|libm)\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux-[\w-]+\.so\.\d|libc\.musl-\w+\.so\.1"
)


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
    glibc: tuple[int, ...]
    """The oldest glibc that has every symbol it asks for; empty where it asks for none."""


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
    def glibc(self) -> str:
        """Return the oldest glibc that all its compiled files run on, such as "2.17", or "none"."""
        newest = max((extension.glibc for extension in self.extensions), default=())
        return ".".join(map(str, newest)) or "none"


def running_abi() -> str:
    """Return how wheel tags and extension suffixes name the running Python, such as "311" or "314t"."""
    threads = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{sys.version_info.major}{sys.version_info.minor}{threads}"


def expected_tags(platform: Platform, abi: str) -> frozenset[Tag]:
    """Return the tags of a wheel for this platform and Python: the platform's, and its older name if any."""
    names = [platform.wheel.tag]
    policy = platform.wheel.tag.removesuffix(f"_{platform.architecture}")
    if policy in _OLD_NAMES:
        names.append(f"{_OLD_NAMES[policy]}_{platform.architecture}")
    return frozenset(Tag(f"cp{abi.rstrip('t')}", f"cp{abi}", name) for name in names)


def glibc_of_tag(tag: str) -> tuple[int, ...]:
    """Return the glibc that a manylinux tag promises to run on, such as (2, 17); empty for any other tag."""
    found = re.match(r"manylinux_(\d+)_(\d+)_", tag)
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


def check_wheel(path: Path, platform: Platform, abi: str) -> Wheel:
    """Read a wheel and demand that it is for this platform and Python, inside and out.

    Parameters
    ----------
    path
        The wheel, repaired and named.
    platform
        The platform it has to be for.
    abi
        The Python it has to be for, as `running_abi` spells it.

    Raises
    ------
    WheelError
        With every fault, one on a line.
    """
    wheel = read_wheel(path)
    if faults := find_faults(wheel, platform, abi):
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise WheelError(f"{path} is not a wheel for {platform.name}:\n{lines}")
    return wheel


def find_faults(wheel: Wheel, platform: Platform, abi: str) -> list[str]:
    """Return what keeps a wheel from being one for this platform and Python, one sentence each."""
    faults = [*_tag_faults(wheel, platform, abi)]
    if not wheel.extensions:
        faults.append("holds no compiled file: was the extension module installed (CMake's install component)?")
    for extension in wheel.extensions:
        faults += _extension_faults(extension, platform, abi)
    return faults


def _tag_faults(wheel: Wheel, platform: Platform, abi: str) -> Iterator[str]:
    expected = expected_tags(platform, abi)
    if wheel.name_tags != expected:
        yield f"the file name says {_spell(wheel.name_tags)}, expected {_spell(expected)}"
    if wheel.metadata_tags != wheel.name_tags:
        yield f"its WHEEL file says {_spell(wheel.metadata_tags)}, unlike the file name: was it renamed?"


def _extension_faults(extension: Extension, platform: Platform, abi: str) -> Iterator[str]:
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
    promised = glibc_of_tag(platform.wheel.tag)
    if promised and extension.glibc > promised:
        yield (
            f"{extension.name} needs glibc {'.'.join(map(str, extension.glibc))}, but the tag promises"
            f" {'.'.join(map(str, promised))}"
        )


def _spell(tags: frozenset[Tag]) -> str:
    return ", ".join(sorted(map(str, tags))) or "nothing"


def _metadata_tags(archive: zipfile.ZipFile) -> frozenset[Tag]:
    name = next((name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/WHEEL", name)), None)
    if name is None:
        raise ValueError("it has no .dist-info/WHEEL")
    lines = BytesParser().parsebytes(archive.read(name)).get_all("Tag", [])
    return frozenset[Tag]().union(*map(parse_tag, lines))


def _extensions(archive: zipfile.ZipFile) -> Iterator[Extension]:
    """Yield every ELF file, whatever its name: a file of the wrong suffix is what we are here to find."""
    for name in sorted(archive.namelist()):
        with archive.open(name) as file:
            if file.read(4) != b"\x7fELF":
                continue
            file.seek(0)
            try:
                yield _read_elf(name, ELFFile(file))
            except ELFError as error:
                raise ValueError(f"{name} is a broken ELF file: {error}") from None


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
    return Extension(name, _MACHINES.get(machine, machine), tuple(needed), max(versions, default=()))
