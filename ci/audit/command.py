"""The command `python -m ci audit`, for any wheel, compiled file or installed package. Judges nothing by itself."""

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from packaging.tags import Tag, parse_tag
from rich.console import Console
from rich.table import Table

from ci.audit import rules
from ci.audit.binaries import Binary, NoCodeError, is_binary, read_slices
from ci.audit.manifest import NAME as MANIFEST
from ci.audit.manifest import summary
from ci.audit.processors import Processor, find_processor
from ci.audit.scan import Use, named_apart, scan
from ci.audit.wheel import audit_code, audit_wheel, compiled_files
from ci.platforms import Target, load_targets
from ci.wheel_file import Extension, Wheel, WheelError, read_wheel, target_of

Scanned = Mapping[Binary, Sequence[Use]]

_SHOWN, _LONGEST = 5, 80
# What a package may count on where nobody names a CPU: the first 64-bit CPUs, and the first of Apple's.
_OLDEST = {"x86_64": "x86-64", "aarch64": "armv8-a", "arm64": "m1"}

# Asked of the Python that has the package, which need not be ours.
_FILES = """
import importlib.metadata, json, sys
try:
    found = importlib.metadata.distribution(sys.argv[1])
except importlib.metadata.PackageNotFoundError:
    sys.exit(f"{sys.executable} has no package {sys.argv[1]!r}")
files = {str(each): str(found.locate_file(each)) for each in found.files or []}
print(json.dumps([files, found.read_text("WHEEL") or ""]))
"""


@dataclass(frozen=True)
class Verdict:
    """What the audit says of one wheel, file or package."""

    name: str
    scanned: Scanned
    faults: tuple[str, ...]
    processors: tuple[Processor, ...] = ()
    """The CPUs it was held against; none where the rules of our own platforms were."""
    target: Target | None = None
    """The platform, where it is a wheel of this project."""

    @property
    def judge(self) -> str:
        """Return what it was held against, in words."""
        if self.target and not self.processors:
            return f"the rules of {self.target.name}"
        return " and ".join(each.name for each in self.processors)

    def deaths(self, binary: Binary) -> list[Use]:
        """Return the functions that would die on the CPU, save those that are never called there."""
        asked = [each for each in self.processors if each.runs(binary.architecture)]
        return [use for use in self.scanned[binary] if any(self._dies(use, binary, each) for each in asked)]

    def _dies(self, use: Use, binary: Binary, processor: Processor) -> bool:
        if self.target:
            return bool(rules.fatal_sets(use, self.target, processor.sets))
        return bool(lacking := set(use.sets) - processor.sets) and not _of_a_runtime(use, binary, lacking)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m ci audit`."""
    parser.add_argument("files", nargs="*", type=Path, metavar="WHEEL|SO", help="wheels or compiled files")
    parser.add_argument(
        "--installed",
        action="append",
        default=[],
        metavar="NAME",
        help="an installed package, of the Python named by --python; may be repeated",
    )
    parser.add_argument(
        "--python", default="python3", metavar="PROGRAM", help="where --installed looks (default: python3 of PATH)"
    )
    parser.add_argument(
        "--cpu",
        metavar="MODEL",
        help="which functions would die on this CPU, such as Nehalem, cortex-a53 or x86-64-v2; without it, wheels of"
        " constann are held to the rules of their platform, and others to the oldest 64-bit CPUs",
    )
    parser.add_argument(
        "--tag", help="for wheels of constann: the platform tag they must keep, where it is not the one in platforms/"
    )
    parser.add_argument("--all", action="store_true", help=f"name every function, not the first {_SHOWN} of each set")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Say which instruction sets compiled files need, where, and on which CPU they would die."""
    if not arguments.files and not arguments.installed:
        raise WheelError("name a wheel, a compiled file, or an installed package (--installed NAME)")
    processor = find_processor(arguments.cpu) if arguments.cpu else None
    found = [_of_file(path, arguments.tag) for path in arguments.files]
    found += [_installed(name, arguments.python) for name in arguments.installed]
    verdicts = [_verdict(each, processor) for each in found]
    if arguments.json:
        print(json.dumps([_as_json(verdict) for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            _print(verdict, everything=arguments.all)
    return 1 if any(verdict.faults for verdict in verdicts) else 0


@dataclass(frozen=True)
class _Found:
    """What is to be judged: a wheel, a file or a package."""

    name: str
    scanned: Scanned
    unread: tuple[str, ...]
    """Why the audit cannot say anything of some of its files."""
    target: Target | None = None
    """The platform, where it is this project's."""
    rules: Callable[[Scanned], list[str]] | None = None
    """What finds the faults of this project's, where no CPU is named."""


def _of_file(path: Path, tag: str | None) -> _Found:
    scanned, unread = _scan_all(compiled_files(path))
    if not path.match("constann-*.whl"):
        return _Found(str(path), scanned, unread)
    wheel = read_wheel(path)
    target = target_of(wheel, load_targets().values())
    if target is None:
        raise WheelError(f"{path}: no file in platforms/ is for such a wheel")
    abi = min(each.abi for each in wheel.name_tags).removeprefix("cp")
    return _Found(str(path), scanned, unread, target, lambda scanned: audit_wheel(path, target, abi, scanned, tag=tag))


def _scan_all(files: Iterable[tuple[str, bytes]]) -> tuple[Scanned, tuple[str, ...]]:
    """Disassemble what can be, and say of the rest why it cannot."""
    scanned: dict[Binary, Sequence[Use]] = {}
    unread, empty = [], []
    for name, content in files:
        try:
            scanned |= {binary: scan(binary) for binary in read_slices(name, content)}
        except NoCodeError as error:
            empty.append(str(error))
        except WheelError as error:
            unread.append(str(error))
    if not scanned:
        raise WheelError((unread + empty)[0])
    return scanned, tuple(unread)


def _verdict(found: _Found, processor: Processor | None) -> Verdict:
    name, scanned = found.name, found.scanned
    if found.rules and processor is None:
        return Verdict(name, scanned, (*found.unread, *found.rules(scanned)), target=found.target)
    if processor:
        processors: tuple[Processor, ...] = (processor,)
        if not any(processor.runs(binary.architecture) for binary in scanned):
            kinds = ", ".join(sorted({binary.architecture for binary in scanned}))
            raise WheelError(f"{name}: is machine code for {kinds}, and {processor.name} is {processor.architecture}")
    else:
        processors = tuple(find_processor(_OLDEST[each]) for each in sorted({b.architecture for b in scanned}))
    verdict = Verdict(name, scanned, (), processors, found.target)
    faults = [
        f"{binary.name}: {len(dying)} functions would die if called on {verdict.judge}"
        for binary in scanned
        if (dying := verdict.deaths(binary))
    ]
    return replace(verdict, faults=(*found.unread, *faults))


def verdict_of(name: str, scanned: Scanned) -> Verdict:
    """Hold the compiled files of somebody else's wheel, which were disassembled already, to the oldest 64-bit CPUs."""
    return _verdict(_Found(name, scanned, ()), None)


def _of_a_runtime(use: Use, binary: Binary, lacking: Set[str]) -> bool:
    """Whether it is a function of a compiler's own library, by its name in platforms/, that asks the CPU first."""
    return any(
        lacking <= rules.allowed_sets(use.function.names, target)
        for target in load_targets().values()
        if target.architecture == binary.architecture and target.system == binary.system
    )


def _installed(name: str, python: str) -> _Found:
    program = shutil.which(python)
    if program is None:
        raise WheelError(f"--python {python}: there is no such program")
    done = subprocess.run([program, "-c", _FILES, name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(f"{done.stderr.strip().splitlines()[-1]}; --python names another Python")
    paths, information = json.loads(done.stdout)
    files = [(each, Path(path)) for each, path in paths.items()]
    compiled = [(each, path.read_bytes()) for each, path in files if path.is_file() and is_binary(_head(path))]
    if not compiled:
        raise WheelError(f"{name}: no compiled file is installed with it: it is pure Python")
    scanned, unread = _scan_all(compiled)
    if name.lower() != "constann":
        return _Found(name, scanned, unread)
    tags = frozenset[Tag]().union(*map(parse_tag, BytesParser().parsebytes(information.encode()).get_all("Tag", [])))
    extensions = tuple(Extension(binary.name, binary.architecture, ()) for binary in scanned)
    target = target_of(Wheel(Path(name), tags, tags, extensions), load_targets().values())
    if target is None:
        raise WheelError(f"{name}: no file in platforms/ is for {', '.join(map(str, tags)) or 'what is installed'}")
    shipped = next((path.read_text() for each, path in files if each == MANIFEST and path.is_file()), None)
    return _Found(name, scanned, unread, target, lambda scanned: audit_code(scanned, target, shipped))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _print(verdict: Verdict, *, everything: bool) -> None:
    console = Console(width=1000, soft_wrap=True, highlight=False, markup=False)
    console.print(verdict.name)
    for binary, uses in verdict.scanned.items():
        console.print(f"  {binary.name}: {binary.architecture}, {len(binary.functions)} functions")
        if verdict.processors:
            _print_sets(console, uses, verdict.deaths(binary), everything=everything)
    if verdict.target:
        console.print(f"  instruction sets: {summary(verdict.scanned, verdict.target)}")
    for fault in verdict.faults:
        console.print(f"  FAULT: {fault}")
    console.print(f"  {'FAILS' if verdict.faults else 'passes'}: {verdict.judge}")
    if verdict.faults and not verdict.target:
        console.print("  A package may ask the CPU before it calls such functions: nothing here can tell if it does.")


def _print_sets(console: Console, uses: Sequence[Use], dying: Sequence[Use], *, everything: bool) -> None:
    dead = {use.function for use in dying}
    table = Table(box=None, pad_edge=False)
    for heading in ("    set", "instructions", "functions", "such as"):
        table.add_column(heading, no_wrap=True)
    for each in sorted({name for use in uses for name in use.sets}):
        using = [use for use in uses if each in use.sets]
        fatal = [use for use in using if use.function in dead]
        shown = [use.function.title for use in (fatal or using)]
        cut = shown if everything else [shorten(title) for title in shown[:_SHOWN]]
        more = f" and {len(shown) - len(cut)} more (--all)" if len(shown) > len(cut) else ""
        count = sum(use.sets[each] for use in using)
        table.add_row(f"    {each}", f"{count:,}", f"{len(using):,}", "; ".join(cut) + more)
    if table.row_count:
        console.print(table)


def shorten(title: str) -> str:
    """Return a function's name that fits a table: signatures of templates fill pages."""
    return title if len(title) <= _LONGEST else f"{title[: _LONGEST - 3]}..."


def _as_json(verdict: Verdict) -> dict[str, Any]:
    files = {binary.name: _file_as_json(verdict, binary, uses) for binary, uses in verdict.scanned.items()}
    return {"name": verdict.name, "judged_by": verdict.judge, "faults": list(verdict.faults), "files": files}


def _file_as_json(verdict: Verdict, binary: Binary, uses: Sequence[Use]) -> dict[str, Any]:
    titles = named_apart(uses)
    dead = {use.function for use in verdict.deaths(binary)}
    return {
        "architecture": binary.architecture,
        "functions": {title: dict(use.sets) for title, use in titles.items()},
        "would_die": [title for title, use in titles.items() if use.function in dead],
    }
