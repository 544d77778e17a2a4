"""Judges a whole wheel of ours: its names, its files, its metadata, its list of parts and its machine code."""

import json
import re
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from csv import reader
from hashlib import sha256
from pathlib import Path

from packaging.metadata import ExceptionGroup as MetadataErrors
from packaging.metadata import Metadata
from readme_renderer import markdown

from ci import macho
from ci.audit import rules
from ci.audit.binaries import Binary, is_binary, read_slices
from ci.audit.manifest import NAME, manifest_of, to_text
from ci.audit.scan import Use, scan
from ci.platforms import Target
from ci.wheel_file import WheelError, find_faults, read_wheel

LARGEST = 2 << 20
"""Bytes: what a wheel may have at most."""

# What users' type checkers and `import constann` look for.
_DEMANDED = ("constann/__init__.py", "constann/py.typed", "constann/_core.pyi", NAME)
_LICENCES = ("LICENSE", "THIRD-PARTY-LICENSES")

# Any path in a compiled file is the building machine's, save those that are the same on every machine: the loader's and
# the kernel's. Our own sources are named from the checkout's root, which the compiler is told.
_PATH = re.compile(rb"(?:(?<![\w.+@:/-])|(?<=-[ILB]))/[\w.+@-]{2,}/[\w.+@/-]{3,}")
_EVERYWHERE = re.compile(rb"/(?:usr/lib(?:64)?|lib(?:64)?|proc|sys|dev|etc)/")

_checkout = Path(__file__).resolve().parent.parent.parent


def read_binaries(path: Path) -> dict[Binary, Sequence[Use]]:
    """Disassemble every compiled file of a wheel, or a compiled file by itself.

    Raises
    ------
    WheelError
        When it is neither, or cannot be read.
    """
    return {binary: scan(binary) for name, content in compiled_files(path) for binary in read_slices(name, content)}


def compiled_files(path: Path) -> list[tuple[str, bytes]]:
    """Return the names and contents of the compiled files of a wheel, or of a compiled file by itself.

    Raises
    ------
    WheelError
        When there is no such file, or nothing compiled in it.
    """
    try:
        whole = path.read_bytes() if not zipfile.is_zipfile(path) else b""
        files = [(path.name, whole)] if whole else [*_members(path)]
    except FileNotFoundError:
        raise WheelError(f"{path}: no such file") from None
    if not files:
        raise WheelError(f"{path}: holds no compiled file")
    return files


def audit_wheel(
    path: Path,
    target: Target,
    abi: str,
    scanned: Mapping[Binary, Sequence[Use]] | None = None,
    *,
    tag: str | None = None,
) -> list[str]:
    """Return what keeps a wheel from being released for a platform and Python, one sentence each.

    Parameters
    ----------
    path
        The wheel, finished and named.
    target
        The platform.
    abi
        The Python, such as "313".
    scanned
        What `read_binaries` found, where that is known already.
    tag
        The platform tag that it must have and keep, where it is not the platform's: such as manylinux_2_34_x86_64,
        which a build in an image with a newer C library gives.
    """
    wheel = read_wheel(path)
    scanned = read_binaries(path) if scanned is None else scanned
    faults = find_faults(wheel, target, abi, tag)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    faults += [
        *_member_faults(contents),
        *_record_faults(contents),
        *_metadata_faults(contents),
        *_parts_faults(contents),
    ]
    if wheel.size > LARGEST:
        faults.append(f"has {wheel.size:,} bytes, more than {LARGEST:,}")
    shipped = contents[NAME].decode(errors="replace") if NAME in contents else None
    return [*faults, *audit_code(scanned, target, shipped)]


def audit_code(scanned: Mapping[Binary, Sequence[Use]], target: Target, shipped: str | None) -> list[str]:
    """Return what is wrong with our machine code, in a wheel or installed, and with the list shipped with it."""
    if not any(rules.kernel_set_of(each.names, target) for binary in scanned for each in binary.functions):
        return ["no kernel has a name, by which the audit judges: it was stripped (build with install.strip=false)"]
    faults = [fault for binary, uses in scanned.items() for fault in rules.find_faults(binary, uses, target)]
    if shipped is not None and shipped != to_text(manifest_of(scanned, target)):
        faults.append(f"{NAME} is not what the audit finds: the machine code was changed after the wheel was finished")
    return faults


def check_wheel(path: Path, target: Target, abi: str, *, tag: str | None = None) -> None:
    """Demand that a wheel can be released; see `audit_wheel`.

    Raises
    ------
    WheelError
        With every fault, one on a line.
    """
    if faults := audit_wheel(path, target, abi, tag=tag):
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise WheelError(f"{path} is not a wheel for {target.name}:\n{lines}")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            with archive.open(name) as file:
                if is_binary(file.read(8)):
                    yield name, archive.read(name)


def _member_faults(contents: Mapping[str, bytes]) -> Iterator[str]:
    for name in _DEMANDED:
        if name not in contents:
            yield f"lacks {name}"
    for name, content in contents.items():
        if not re.match(r"constann/|constann-[\w.]+\.dist-info/", name):
            yield f"{name} would be installed beside other people's packages"
        yield from _path_faults(name, content)
        if content[:4] == b"\xcf\xfa\xed\xfe":
            yield from _signature_faults(name, content)


def _path_faults(name: str, content: bytes) -> Iterator[str]:
    """Say which paths of the building machine a file names: ours in any file, and any like them in compiled ones."""
    found = {
        str(each).encode() for each in {_checkout, Path.home()} - {Path("/")} if str(each).encode() + b"/" in content
    }
    if is_binary(content):
        found |= {each[0] for each in _PATH.finditer(content) if not _EVERYWHERE.match(each[0])}
    for each in sorted(found):
        yield f"{name} names a path of the machine it was built on: {each.decode()}"


def _signature_faults(name: str, content: bytes) -> Iterator[str]:
    try:
        pages = macho.unsigned_pages(name, content)
    except macho.MachOError as error:
        yield f"{error}: macOS kills code without a signature that fits"
    else:
        if pages:
            yield f"{name}: its signature does not fit pages {pages}: macOS would kill the process there"


def _record_faults(contents: Mapping[str, bytes]) -> Iterator[str]:
    """Compare the list of files with the files: pip does not, and installs whatever there is."""
    name = next((each for each in contents if each.endswith(".dist-info/RECORD")), None)
    if name is None:
        yield "lacks its list of files (RECORD)"
        return
    listed = {row[0]: row[1] for row in reader(contents[name].decode().splitlines())}
    for each in sorted(contents.keys() ^ listed.keys()):
        yield f"{each} is only {'in the wheel' if each in contents else 'in its list of files (RECORD)'}"
    for each in sorted(contents.keys() & listed.keys() - {name}):
        digest = urlsafe_b64encode(sha256(contents[each]).digest()).rstrip(b"=").decode()
        if listed[each] != f"sha256={digest}":
            yield f"{each} is not the file that RECORD lists"


def _metadata_faults(contents: Mapping[str, bytes]) -> Iterator[str]:
    folder = next((name.partition("/")[0] for name in contents if name.endswith(".dist-info/METADATA")), None)
    if folder is None:
        yield "has no METADATA"
        return
    try:
        metadata = Metadata.from_email(contents[f"{folder}/METADATA"])
    except MetadataErrors as errors:
        for error in errors.exceptions:
            yield f"METADATA: {error}"
        return
    if metadata.description_content_type != "text/markdown" or markdown.render(metadata.description or "") is None:
        yield "METADATA: package indexes cannot show the description"
    for name in {*_LICENCES, *map(str, metadata.license_files or ())}:
        if f"{folder}/licenses/{name}" not in contents:
            yield f"lacks the licence file {name}"
    if not metadata.license_expression:
        yield "METADATA: names no licence"


def _parts_faults(contents: Mapping[str, bytes]) -> Iterator[str]:
    """Check the list of parts (SBOM): every compiled file is in it with its digest, and what was linked into them."""
    name = next((each for each in contents if re.search(r"\.dist-info/sboms/[^/]+\.cdx\.json$", each)), None)
    if name is None:
        yield "lacks its list of parts (.dist-info/sboms/*.cdx.json)"
        return
    parts = json.loads(contents[name])
    if parts.get("bomFormat") != "CycloneDX":
        yield f"{name} is not in CycloneDX's format"
    digests = {part["name"]: part["hashes"][0]["content"] for part in parts["components"] if part.get("hashes")}
    for each, content in contents.items():
        if is_binary(content) and digests.get(each) != sha256(content).hexdigest():
            yield f"{name} does not list {each} as it is"
    if not any(part["name"] == "pybind11" for part in parts["components"]):
        yield f"{name} does not list pybind11"
