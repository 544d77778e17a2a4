"""The command `python -m ci audit`: any wheel, compiled file or installed package; ours by the rules of its platform."""

import argparse
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ci.audit.binaries import Binary, is_binary, read_binary
from ci.audit.manifest import summary
from ci.audit.processors import Processor, find_processor
from ci.audit.scan import Use, scan
from ci.audit.wheel import audit_wheel, read_binaries
from ci.platforms import Target, load_targets
from ci.wheel_file import WheelError, read_wheel, target_of

Scanned = Mapping[Binary, Sequence[Use]]

_SHOWN = 5
# What a package may count on where nobody names a CPU: the first 64-bit CPUs, and the first of Apple's.
_OLDEST = {"x86_64": "x86-64", "aarch64": "armv8-a", "arm64": "m1"}

# Asked of the Python that has the package, which need not be ours.
_FILES = """
import importlib.metadata, json, sys
try:
    found = importlib.metadata.distribution(sys.argv[1])
except importlib.metadata.PackageNotFoundError:
    sys.exit(f"{sys.executable} has no package {sys.argv[1]!r}")
print(json.dumps([str(found.locate_file(each)) for each in found.files or []]))
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

    def deaths(self, binary: Binary) -> list[Use]:
        """Return the functions that would die on the CPU."""
        lacking = [each for each in self.processors if each.runs(binary.architecture)]
        return [use for use in self.scanned[binary] if any(set(use.sets) - each.sets for each in lacking)]


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
    parser.add_argument("--all", action="store_true", help=f"name every function, not the first {_SHOWN} of each set")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Say which instruction sets compiled files need, where, and on which CPU they would die."""
    if not arguments.files and not arguments.installed:
        raise WheelError("name a wheel, a compiled file, or an installed package (--installed NAME)")
    processor = find_processor(arguments.cpu) if arguments.cpu else None
    verdicts = [_verdict(str(path), read_binaries(path), path, processor) for path in arguments.files]
    for name in arguments.installed:
        verdicts.append(_verdict(name, _installed(name, arguments.python), None, processor))
    if arguments.json:
        print(json.dumps([_as_json(verdict) for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            _print(verdict, everything=arguments.all)
    return 1 if any(verdict.faults for verdict in verdicts) else 0


def _verdict(name: str, scanned: Scanned, path: Path | None, processor: Processor | None) -> Verdict:
    if path and processor is None and path.name.startswith("constann-") and path.suffix == ".whl":
        return _verdict_by_our_rules(path, scanned)
    if processor:
        processors: tuple[Processor, ...] = (processor,)
        if not any(processor.runs(binary.architecture) for binary in scanned):
            kinds = ", ".join(sorted({binary.architecture for binary in scanned})) or "nothing"
            raise WheelError(f"{name}: is machine code for {kinds}, and {processor.name} is {processor.architecture}")
    else:
        processors = tuple(find_processor(_OLDEST[each]) for each in sorted({b.architecture for b in scanned}))
    verdict = Verdict(name, scanned, (), processors)
    faults = [
        f"{binary.name}: {len(dying)} functions would die if called on {_names(processors)}"
        for binary in scanned
        if (dying := verdict.deaths(binary))
    ]
    return Verdict(name, scanned, tuple(faults), processors)


def _verdict_by_our_rules(path: Path, scanned: Scanned) -> Verdict:
    wheel = read_wheel(path)
    target = target_of(wheel, load_targets().values())
    if target is None:
        raise WheelError(f"{path}: no file in platforms/ is for such a wheel")
    abi = min(tag.abi for tag in wheel.name_tags).removeprefix("cp")
    return Verdict(str(path), scanned, tuple(audit_wheel(path, target, abi, scanned)), target=target)


def _installed(name: str, python: str) -> dict[Binary, Sequence[Use]]:
    program = shutil.which(python)
    if program is None:
        raise WheelError(f"--python {python}: there is no such program")
    done = subprocess.run([program, "-c", _FILES, name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(f"{done.stderr.strip().splitlines()[-1]}; --python names another Python")
    found: dict[Binary, Sequence[Use]] = {}
    for path in map(Path, json.loads(done.stdout)):
        if path.is_file():
            with path.open("rb") as file:
                if is_binary(file.read(4)):
                    file.seek(0)
                    binary = read_binary(str(path), file.read())
                    found[binary] = scan(binary)
    if not found:
        raise WheelError(f"{name}: no compiled file is installed with it: it is pure Python")
    return found


def _print(verdict: Verdict, *, everything: bool) -> None:
    console = Console(width=1000, soft_wrap=True, highlight=False, markup=False)
    console.print(verdict.name)
    for binary, uses in verdict.scanned.items():
        console.print(f"  {binary.name}: {binary.architecture}, {len(binary.functions)} functions")
        if verdict.target is None:
            _print_sets(console, uses, verdict.deaths(binary), everything=everything)
    if verdict.target:
        console.print(f"  instruction sets: {summary(verdict.scanned, verdict.target)}")
    for fault in verdict.faults:
        console.print(f"  FAULT: {fault}")
    judged = f"the rules of {verdict.target.name}" if verdict.target else _names(verdict.processors)
    console.print(f"  {'FAILS' if verdict.faults else 'passes'}: {judged}")
    if verdict.faults and not verdict.target:
        console.print("  A package may ask the CPU before it calls such functions: nothing here can tell if it does.")


def _print_sets(console: Console, uses: Sequence[Use], dying: Sequence[Use], *, everything: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("    set", "instructions", "functions", "such as"):
        table.add_column(heading, no_wrap=True)
    for each in sorted({name for use in uses for name in use.sets}):
        using = [use for use in uses if each in use.sets]
        fatal = [use for use in using if use in dying]
        shown = [use.function.title for use in (fatal or using)]
        cut = shown if everything else shown[:_SHOWN]
        more = f" and {len(shown) - len(cut)} more (--all)" if len(shown) > len(cut) else ""
        count = sum(use.sets[each] for use in using)
        table.add_row(f"    {each}", f"{count:,}", f"{len(using):,}", "; ".join(cut) + more)
    if table.row_count:
        console.print(table)


def _names(processors: Sequence[Processor]) -> str:
    return " and ".join(each.name for each in processors)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    files = {
        binary.name: {
            "architecture": binary.architecture,
            "functions": {use.function.title: dict(use.sets) for use in uses},
            "would_die": [use.function.title for use in verdict.deaths(binary)],
        }
        for binary, uses in verdict.scanned.items()
    }
    judged = verdict.target.name if verdict.target else _names(verdict.processors)
    return {"name": verdict.name, "judged_by": judged, "faults": list(verdict.faults), "files": files}
