"""Writes the list of parts (SBOM, CycloneDX, see PEP 770) into an unpacked wheel. Names no machine or day."""

import json
import tomllib
import uuid
from collections.abc import Iterable, Sequence
from email.parser import BytesParser
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"

# How functions of LLVM's C++ library are called: where they are in the machine code, it was linked in.
_LIBCXX = b"St3__1"


def write(folder: Path, information: Path, extensions: Sequence[Path]) -> Path:
    """Write `<name>.cdx.json` beside the wheel's metadata and return its path.

    Parameters
    ----------
    folder
        The unpacked wheel.
    information
        Its .dist-info folder.
    extensions
        Its compiled files.
    """
    metadata = BytesParser().parsebytes((information / "METADATA").read_bytes())
    name, release = str(metadata["Name"]), str(metadata["Version"])
    whole = Component(
        name=name,
        version=release,
        type=ComponentType.LIBRARY,
        bom_ref=name,
        purl=PackageURL("pypi", None, name, release),
        licenses=[LicenseExpression(str(metadata["License-Expression"]))],
        description=str(metadata["Summary"]),
    )
    parts = [*_parts(extensions), *(_file(each, folder) for each in extensions)]
    bom = Bom(components=parts, dependencies=[Dependency(whole.bom_ref, [Dependency(part.bom_ref) for part in parts])])
    bom.metadata.component = whole
    bom.serial_number = _serial_number(parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]  # the day of the build would make another file of the same parts
    path = information / "sboms" / f"{name}.cdx.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _parts(extensions: Iterable[Path]) -> list[Component]:
    """Return what others wrote and is inside the machine code."""
    pybind11 = _pinned("pybind11")
    parts = [
        Component(
            name="pybind11",
            version=pybind11,
            type=ComponentType.LIBRARY,
            scope=ComponentScope.REQUIRED,
            bom_ref="pybind11",
            purl=PackageURL("pypi", None, "pybind11", pybind11),
            licenses=[LicenseExpression("BSD-3-Clause")],
            description="headers, compiled into the extension module",
        )
    ]
    if any(_LIBCXX in each.read_bytes() for each in extensions):
        zig = version("ziglang")
        parts.append(
            Component(
                name="libc++",
                version=f"ziglang-{zig}",
                type=ComponentType.LIBRARY,
                scope=ComponentScope.REQUIRED,
                bom_ref="libc++",
                purl=PackageURL("pypi", None, "ziglang", zig, subpath="lib/libcxx"),
                licenses=[LicenseExpression("Apache-2.0 WITH LLVM-exception")],
                description="LLVM's C++ library with libc++abi and libunwind, linked into the extension module",
            )
        )
    return parts


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
