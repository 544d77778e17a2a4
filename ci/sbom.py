"""Writes the list of parts (SBOM, CycloneDX, see PEP 770) into an unpacked wheel. Names no machine or day."""

import json
import os
import re
import tomllib
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from email.parser import BytesParser
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import lief
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"

# How functions of LLVM's C++ library are called, linked in or not.
_LIBCXX = b"St3__1"

# The name of a class that the compiler's own code refers to and that only the library itself defines.
_CXX_INSIDE = b"N10__cxxabiv120__si_class_type_infoE\0"

_LICENCES = {"libc++": "Apache-2.0 WITH LLVM-exception", "libstdc++": "GPL-3.0-or-later WITH GCC-exception-3.1"}
# Both come with a compiler, which leaves its version in ELF files.
_COMPILERS = {"libc++": r"clang version ([\d.]+)", "libstdc++": r"GCC: \(.*?\) ([\d.]+)"}
_DESCRIPTIONS = {
    "libc++": "LLVM's C++ library with libc++abi and libunwind",
    "libstdc++": "GCC's C++ library with its support library",
}

_BUILT_BY = "built by"


def write(
    folder: Path,
    information: Path,
    extensions: Sequence[Path],
    built_from: Iterable[Component],
    *,
    cross_compiled: bool,
) -> Path:
    """Write `<name>.cdx.json` beside the wheel's metadata and return its path.

    Parameters
    ----------
    folder
        The unpacked wheel.
    information
        Its .dist-info folder.
    extensions
        Its compiled files.
    built_from
        What else is inside the machine code: `headers_of_ours` or `build_requirements`.
    cross_compiled
        Whether ziglang compiled them here; the files do not tell it from any other Clang.
    """
    metadata = BytesParser().parsebytes((information / "METADATA").read_bytes())
    name, release = str(metadata["Name"]), str(metadata["Version"])
    whole = Component(
        name=name,
        version=release,
        type=ComponentType.LIBRARY,
        bom_ref=name,
        purl=PackageURL("pypi", None, name, release),
        licenses=_licences(metadata),
        description=str(metadata["Summary"]),
        properties=[Property(name=_BUILT_BY, value="cibuildwheel")] if os.environ.get("CIBUILDWHEEL") else [],
    )
    parts = [
        *built_from,
        *_runtimes(extensions, cross_compiled=cross_compiled),
        *(_file(each, folder) for each in extensions),
    ]
    bom = Bom(components=parts, dependencies=[Dependency(whole.bom_ref, [Dependency(part.bom_ref) for part in parts])])
    bom.metadata.component = whole
    bom.serial_number = _serial_number(parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]  # the day of the build would make another file of the same parts
    path = information / "sboms" / f"{name}.cdx.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def built_by(wheel: Path) -> str:
    """Return which way a wheel says that it was built: `cibuildwheel`, or empty for any other."""
    with zipfile.ZipFile(wheel) as archive:
        lists = [name for name in archive.namelist() if name.endswith(".cdx.json")]
        component = json.loads(archive.read(lists[0])).get("metadata", {}).get("component", {}) if lists else {}
    found = {each["name"]: each["value"] for each in component.get("properties", ())}
    return str(found.get(_BUILT_BY, ""))


def headers_of_ours() -> list[Component]:
    """Return what this project compiles in: pybind11, which pyproject.toml pins."""
    pybind11 = _package("pybind11", _pinned("pybind11"), "headers, compiled into the extension module")
    pybind11.licenses.add(LicenseExpression("BSD-3-Clause"))
    return [pybind11]


def build_requirements(versions: Mapping[str, str]) -> list[Component]:
    """Return the packages that another project was built with; what of them is inside, nobody wrote down."""
    text = "was installed for the build: its headers may be compiled in"
    return [_package(name, versions[name], text) for name in sorted(versions)]


def _package(name: str, release: str, description: str) -> Component:
    return Component(
        name=name,
        version=release,
        type=ComponentType.LIBRARY,
        scope=ComponentScope.REQUIRED,
        bom_ref=name,
        purl=PackageURL("pypi", None, name, release),
        description=description,
    )


def _licences(metadata: Message) -> list[LicenseExpression | DisjunctiveLicense]:
    """Return the licence as the package's metadata name it, in the new way or the old; it may be none."""
    if expression := metadata["License-Expression"]:
        return [LicenseExpression(str(expression))]
    named = str(metadata["License"] or "").strip()
    return [DisjunctiveLicense(name=named.splitlines()[0])] if named and named != "UNKNOWN" else []


def _runtimes(extensions: Iterable[Path], *, cross_compiled: bool) -> list[Component]:
    """Return the C++ libraries that were linked into compiled files; one that they ask the system for is no part."""
    found = {runtime: comment for each in extensions for runtime, comment in [_runtime(each)] if runtime}
    parts = []
    for name, comment in sorted(found.items()):
        part = Component(
            name=name,
            type=ComponentType.LIBRARY,
            scope=ComponentScope.REQUIRED,
            bom_ref=name,
            licenses=[LicenseExpression(_LICENCES[name])],
            description=f"{_DESCRIPTIONS[name]}, linked into the machine code",
        )
        if name == "libc++" and cross_compiled:
            zig = version("ziglang")
            part.version = f"ziglang-{zig}"
            part.purl = PackageURL("pypi", None, "ziglang", zig, subpath="lib/libcxx")
        elif compiler := re.search(_COMPILERS[name], comment):
            part.version = compiler[1]
        parts.append(part)
    return parts


def _runtime(path: Path) -> tuple[str, str]:
    """Return the C++ library inside a file, or an empty name, and what the file says of its compiler."""
    content = path.read_bytes()
    lief.logging.disable()
    parsed = lief.parse(content)
    if not isinstance(parsed, lief.ELF.Binary | lief.MachO.Binary):
        return "", ""
    asked = {Path(str(getattr(each, "name", each))).name for each in parsed.libraries}
    if _CXX_INSIDE not in content or any(re.match(r"lib(c|stdc)\+\+", name) for name in asked):
        return "", ""
    if _LIBCXX not in content:
        return "libstdc++", _comment(parsed)
    return "libc++", _comment(parsed)


def _comment(parsed: "lief.ELF.Binary | lief.MachO.Binary") -> str:
    section = parsed.get_section(".comment") if isinstance(parsed, lief.ELF.Binary) else None
    return bytes(section.content).decode(errors="replace") if section else ""


def _file(path: Path, folder: Path) -> Component:
    name = path.relative_to(folder).as_posix()
    digest = HashType(alg=HashAlgorithm.SHA_256, content=sha256(path.read_bytes()).hexdigest())
    return Component(
        name=name,
        type=ComponentType.FILE,
        bom_ref=name,
        hashes=[digest],
        properties=[Property(name="kind", value="extension module")],
    )


def _pinned(name: str) -> str:
    """Return the version of a build requirement, which pyproject.toml pins."""
    requirements = map(Requirement, tomllib.loads(_PROJECT.read_text())["build-system"]["requires"])
    (found,) = [each for each in requirements if each.name == name]
    (pin,) = found.specifier
    return pin.version


def _serial_number(parts: Iterable[Component]) -> uuid.UUID:
    """Return a number that is the same for the same parts; the standard's own would be drawn anew each time."""
    told = [f"{part.name} {part.version} {[each.content for each in part.hashes]}" for part in parts]
    return uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(told))
