"""The examination: one section after another, each with what was found and what is wrong. It prints nothing."""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from constann.doctor import binaries, machine, sentences
from constann.doctor.children import Ended, Runner
from constann.doctor.sentences import REINSTALL

__all__ = ["Section", "examine"]

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass
class Section:
    """One part of the examination."""

    name: str
    facts: dict[str, Any]
    """For programs: what `--json` writes."""
    lines: list[str] = field(default_factory=list)
    """For people."""
    problems: list[str] = field(default_factory=list)
    """What is wrong and what to do, a sentence each; empty where all is well."""


def examine() -> Iterator[Section]:
    """Yield the sections, the CPU first: what comes later may take a while, or never come."""
    emulation: list[str] = []
    launcher = None
    try:
        launcher = machine.launcher()
    except machine.LauncherError as error:
        emulation.append(str(error))
    runner = Runner(launcher.command if launcher else ())
    cpu = machine.cpu()
    if launcher:
        # /proc/cpuinfo is that of the real CPU: what the played one has, only a program on it can say.
        features = runner.run("features")
        cpu = cpu.as_seen_by_the_extension(features.answer if features.ok else None)
    yield _cpu(cpu, launcher, emulation)
    yield _system()
    numpy = runner.run("numpy")
    yield _numpy(numpy, cpu)
    extension = _extension(runner)
    yield extension
    yield _instruction_sets(extension.facts["file"])
    core = runner.run("core")
    yield _core(core, cpu, explained=bool(extension.problems))
    kernels = runner.run("kernels") if core.ok else None
    yield _kernels(kernels, cpu)
    if numpy.ok and kernels and kernels.ok:
        yield _answers(runner.run("answers"), cpu)
    else:
        yield Section("known answers", {"run": False}, ["not tested: it needs what does not work above"])


def _cpu(cpu: machine.Cpu, launcher: machine.Launcher | None, problems: list[str]) -> Section:
    features = None if cpu.features is None else sorted(cpu.features)
    facts = {"model": cpu.model, "architecture": cpu.architecture, "features": features}
    model = f"{cpu.model}, {cpu.architecture}"
    lines = [
        model,
        f"features: {'not known' if features is None else ' '.join(features) or 'none of those that matter'}",
    ]
    if launcher:
        facts["launcher"] = launcher.name
        lines = [f"played by {launcher.name!r} ({launcher.source}) on {model}", *lines[1:]]
    return Section("CPU", facts, lines, problems)


def _system() -> Section:
    facts = {
        "system": f"{platform.system()} {platform.release()}",
        "c_library": machine.c_library(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
    }
    python = f"{facts['implementation']} {facts['python']}, {machine.word_size()} bits, {facts['executable']}"
    lines = [f"{facts['system']}, {facts['c_library']}", python]
    problems = []
    if machine.word_size() != 64:
        problems.append("this Python has 32 bits; constann needs one of 64: install a 64-bit Python")
    return Section("system", facts, lines, problems)


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numpy(ended: Ended, cpu: machine.Cpu) -> Section:
    version = _version_of("numpy")
    old = bool(version) and ended.ok and not sentences.new_enough(ended.answer["version"])
    facts = {"version": version, "loads": ended.ok, "status": ended.status, "signal": ended.signal}
    if ended.ok and not old:
        return Section("numpy", facts, [f"{ended.answer['version']}, loads and multiplies"])
    problem = sentences.explain_numpy(ended, version, cpu)
    return Section("numpy", facts, [f"{version or 'not installed'}, does not work"], [problem])


def _extension(runner: Runner) -> Section:
    """Look at the extension's file without loading it."""
    version = _version_of("constann")
    spec = importlib.util.find_spec("constann._core")
    if spec is None or spec.origin is None:
        none = {"version": version, "file": None, "others": _other_files()}
        return Section("extension", none, [f"constann {version}: none for this Python"], [_no_extension()])
    facts: dict[str, Any] = {"version": version, "file": spec.origin}
    try:
        binary = binaries.read(Path(spec.origin))
    except (OSError, binaries.BinaryError) as error:
        problem = f"{spec.origin} cannot be read ({error}): {REINSTALL}"
        return Section("extension", facts, [f"constann {version}: {spec.origin}"], [problem])
    facts |= {"machines": binary.machines, "needs": binary.needed, "needs_versions": binary.needed_versions}
    section = Section("extension", facts, [f"constann {version}: {spec.origin}"])
    section.lines.append(f"{binary.format} for {', '.join(binary.machines)}{_needs(binary)}")
    if (running := machine.running_machine()) not in binary.machines:
        section.problems.append(
            f"{spec.origin} was built for {', '.join(binary.machines)}, but this Python is for {running}: {REINSTALL}"
        )
    elif binary.needed:
        _check_libraries(section, binary, Path(spec.origin), runner)
    return section


def _other_files() -> list[str]:
    return sorted(path.name for path in _PACKAGE.glob("_core*") if path.suffix in (".so", ".pyd", ".dylib"))


def _no_extension() -> str:
    """Say why there is no extension that this Python would load."""
    if others := _other_files():
        this = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
        suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
        return (
            f"{_PACKAGE} has {', '.join(others)}, which is for another Python: this one, {this} on "
            f"{machine.running_machine()}, loads _core{suffix}. Install with this Python: {REINSTALL}"
        )
    return (
        f"{_PACKAGE} has no extension file: it is a source folder or a damaged installation. Run from elsewhere, or "
        f"install: {REINSTALL}"
    )


def _needs(binary: binaries.Binary) -> str:
    if not binary.needed:
        return ""
    newest: dict[str, str] = {}
    for version in sorted((each for all_of in binary.needed_versions.values() for each in all_of), key=_by_number):
        newest[version.partition("_")[0]] = version
    return f"; needs {', '.join(binary.needed)}" + (f" with {', '.join(newest.values())}" if newest else "")


def _by_number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _instruction_sets(extension: str | None) -> Section:
    """Show what the wheel's audit wrote down: which functions use what not every CPU has."""
    path = _PACKAGE / "instruction_sets.json"
    section = Section("instructions", {"listed": False})
    if not path.is_file():
        section.lines.append("no list: it was built from source, and not audited as wheels are")
        return section
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        files = {Path(name).name: functions for name, functions in listed["files"].items()}
        functions = files.get(Path(extension or "").name)
        section.facts = {"listed": functions is not None, **listed}
        if functions is None and extension:
            section.problems.append(f"{path} does not list the extension that loads: {REINSTALL}")
        elif functions is not None:
            section.lines += [
                f"audited for {listed['platform']}: every CPU there runs all but",
                *_by_kernels(functions),
            ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        section.problems.append(f"{path} cannot be read ({error!r}): {REINSTALL}")
    return section


def _by_kernels(functions: dict[str, Any]) -> list[str]:
    """Say of each kernel set, and of what asks the CPU by itself, how many functions need what."""
    groups: dict[str, list[set[str]]] = {}
    for each in functions.values():
        groups.setdefault(each.get("kernels", ""), []).append(set(each["sets"]))
    lines = []
    for kernels, sets in sorted(groups.items()):
        one = len(sets) == 1
        whose = f"of the kernels {kernels}" if kernels else f"that ask{'s' if one else ''} the CPU first"
        lines.append(f"{len(sets)} function{'' if one else 's'} {whose}: {' '.join(sorted(set[str]().union(*sets)))}")
    return lines or ["nothing: no function needs more"]


def _check_libraries(section: Section, binary: binaries.Binary, path: Path, runner: Runner) -> None:
    """See whether this system has the libraries that the extension needs, in the versions it needs."""
    folders = [folder.replace("$ORIGIN", str(path.parent)) for folder in binary.search_path]
    ended = runner.run("libraries", {"names": binary.needed, "folders": folders})
    if not ended.ok:
        section.problems.append(f"its libraries could not be looked for: {ended.reason or ended.last_line}")
        return
    for name, found in ended.answer.items():
        if "error" in found:
            section.problems.append(sentences.explain_core(Ended(None, found["error"], 1), machine.cpu()))
        elif missing := _missing(found["file"], binary.needed_versions.get(name, ())):
            section.problems.append(sentences.missing_versions(name, found["file"], missing))
    if not section.problems:
        section.lines.append("this system has them")


def _missing(file: str, wanted: tuple[str, ...]) -> list[str]:
    """Return the versions that a library does not define; all are there where it defines none, as musl's does."""
    if not file or not wanted:
        return []
    try:
        defined = binaries.read(Path(file)).defined_versions
    except (OSError, binaries.BinaryError):
        return []
    return [version for version in wanted if defined and version not in defined]


def _core(ended: Ended, cpu: machine.Cpu, explained: bool) -> Section:
    if not ended.ok:
        facts = {"loads": False, "status": ended.status, "signal": ended.signal}
        how = ended.reason or ended.signal or ended.last_line
        # Where the file itself has told the cause, its consequence is no second one.
        problems = [] if explained else [sentences.explain_core(ended, cpu)]
        return Section("core", facts, [f"does not load: {how}"], problems)
    found = ended.answer
    revisions = f"arithmetic revision {found['arithmetic_revision']}, builder revision {found['builder_revision']}"
    section = Section("core", {"loads": True, **found}, [f"loads; {found['compiler']}; {revisions}"])
    if found["tuned_for"]:
        section.lines.append(f"tuned: built with CONSTANN_BASELINE={found['tuned_for']}, for no older CPU")
    if found["planted_faults"]:
        section.problems.append(f"this build has a planted fault ({found['planted_faults']}): {REINSTALL}")
    return section


def _kernels(ended: Ended | None, cpu: machine.Cpu) -> Section:
    if ended is None:
        return Section("kernels", {"run": False}, ["not looked at: the core does not load"])
    if not ended.ok:
        return Section("kernels", {"run": True}, ["none can be chosen"], [sentences.explain_core(ended, cpu)])
    found = ended.answer
    why = f"CONSTANN_KERNELS={found['forced']}" if found["forced"] else "the fastest that this CPU can run"
    lines = [f"{found['current']}, in use: {why}"]
    for each in found["sets"]:
        state = f"needs {each['lacking']}, which is missing" if each["lacking"] else "can run"
        lines.append(f"{each['name']} ({each['description']}): {state}")
    return Section("kernels", found, lines)


def _answers(ended: Ended, cpu: machine.Cpu) -> Section:
    if not ended.ok:
        facts = {"run": True, "status": ended.status, "signal": ended.signal}
        return Section("known answers", facts, ["the test did not end"], [sentences.explain_core(ended, cpu)])
    found = ended.answer
    problems = [f"{problem}: please report this with this whole page" for problem in found["problems"]]
    counted = f"{found['answers']} answers of each set: {', '.join(found['sets'])}"
    lines = [counted, f"{len(found['fingerprints'])} tiny indexes, the same under each set"]
    if problems:
        lines = [counted, "not all are as they must be"]
    return Section("known answers", {"run": True, **found}, lines, problems)
