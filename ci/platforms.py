"""Reads platforms/*.toml, which alone describe platforms and machines. Never guesses: a wrong key is an error."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")

FOLDER = Path(__file__).resolve().parent.parent / "platforms"
_IMAGES = "images.toml"
_ELSEWHERE = "elsewhere.toml"
_SHARED = frozenset({_IMAGES, _ELSEWHERE})


class PlatformError(ValueError):
    """A file in platforms/ says something we cannot use; the text names the file and the key."""


@dataclass(frozen=True)
class Container:
    """How a Docker engine calls the platform, and the official image, with `{python}` for the version."""

    platform: str
    image: str


@dataclass(frozen=True)
class Emulator:
    """QEMU's static program that runs this architecture's programs."""

    program: str


@dataclass(frozen=True)
class Wheel:
    """What a wheel for the platform is called inside and out; `{abi}` stands for a tag such as 311."""

    tag: str
    extension_suffix: str
    host_platform: str
    c_library: str = ""
    """What musl's C library is called there, which the cross-compiler knows by another name; empty elsewhere."""


@dataclass(frozen=True)
class Compiler:
    """The cross-compiler's name of the platform and of the oldest CPU that must run it."""

    zig_target: str
    zig_cpu: str


@dataclass(frozen=True)
class KernelSet:
    """An implementation the library may choose, with the CPU flags it needs as /proc/cpuinfo spells them."""

    name: str
    flags: frozenset[str]


@dataclass(frozen=True)
class Allowed:
    """Functions that may use instruction sets beyond the baseline, because they ask the CPU first."""

    functions: tuple[str, ...]
    """Regular expressions, each for the whole of a mangled name."""
    sets: tuple[str, ...]
    why: str


BUILDERS = ("cibuildwheel", "gcc", "clang", "musl")
"""Ways to a build besides ziglang's: the release way, this computer's compilers, and the core alone, linked static."""


class WheelKey(NamedTuple):
    """Which of our builds: for what it was made, and which way it came by."""

    platform: str
    python: str
    built_by: str = ""
    """One of `BUILDERS`, or empty for the cross-compiler."""


@dataclass(frozen=True)
class Machine:
    """One row that a release must have run on: a platform, a CPU, a numpy, and the kernels it is to use."""

    name: str
    numpy: str = ""
    """Empty where the row runs a program without Python."""
    model: str | None = None
    """The CPU that QEMU plays, with its options after commas; None is the engine's own CPU."""
    kernels: str | None = None
    """The kernel set that must be in use; None on the native row of a file, before `native_rows` expands it."""
    forced: bool = False
    """Whether `kernels` is asked for (CONSTANN_KERNELS) instead of left to the library's choice."""
    python: str = ""
    """The Python version; what no file names, reading fills in with that of platforms/images.toml."""
    built_by: str = ""
    """One of `BUILDERS` whose build the row runs; empty where it runs the cross-compiled wheel."""
    threads: int = 0
    """At most so many threads; 0 is the library's choice, all CPUs."""
    page_size: int = 0
    """The size of the system's pages, which QEMU plays; 0 is the computer's."""
    sve_bits: int = 0
    """The length of the CPU's SVE vectors that the process must see; 0 is not looked at."""
    platform: str = ""
    """The platform's name, filled in while reading."""

    @property
    def full_name(self) -> str:
        """Return the name that is unique among all machines, such as linux-x86_64/Nehalem."""
        return f"{self.platform}/{self.name}"

    @property
    def wheel(self) -> WheelKey:
        """Return which wheel the row runs."""
        return WheelKey(self.platform, self.python, self.built_by)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that the computing process needs to be this row."""
        return {"CONSTANN_KERNELS": self.kernels} if self.forced and self.kernels else {}

    @property
    def program(self) -> bool:
        """Whether it runs the conformance program, which is not Python and needs nothing of its system."""
        return self.built_by == "musl"


@dataclass(frozen=True)
class Target:
    """What wheels are built for: what platforms/<name>.toml says."""

    name: str
    system: str
    """What platform.system() answers there."""
    architecture: str
    """What platform.machine() answers there."""
    proof: str
    """How its wheels are shown to be good, for the table of wheels."""
    wheel: Wheel
    baseline: tuple[str, ...]
    """The instruction sets that every CPU there has, beyond SSE2 on x86-64 and Armv8.0-A on Arm."""
    compiler: Compiler
    kernels: tuple[KernelSet, ...]
    allowed: tuple[Allowed, ...]


@dataclass(frozen=True)
class Platform(Target):
    """A target whose machines can be had here, in containers and under QEMU: the gate runs on all of them."""

    debian_architecture: str
    container: Container
    emulator: Emulator
    machines: tuple[Machine, ...]

    def available_kernels(self, flags: Iterable[str]) -> tuple[KernelSet, ...]:
        """Return the kernel sets that a CPU with these flags can run, best first."""
        present = frozenset(flags)
        return tuple(kernels for kernels in self.kernels if kernels.flags <= present)

    def native_rows(self, flags: Iterable[str]) -> tuple[Machine, ...]:
        """Return one row for each kernel set that the engine's own CPU has, each forced."""
        return tuple(
            replace(machine, name=f"{machine.name}-{kernels.name}", kernels=kernels.name, forced=True)
            for machine in self.machines
            if machine.model is None
            for kernels in self.available_kernels(flags)
        )

    def expected_rows(self, engine_architecture: str, flags: Iterable[str]) -> tuple[Machine, ...]:
        """Return every row that must run on an engine of this architecture, whose CPU has these flags.

        The native row is dropped on an engine of another architecture: there is nothing to run it on, and the caller
        has to say that it was not proven.
        """
        native = self.native_rows(flags) if engine_architecture == self.architecture else ()
        return native + tuple(machine for machine in self.machines if machine.model is not None)

    @property
    def pythons(self) -> tuple[str, ...]:
        """Return each Python version that some machine uses, once, in a fixed order."""
        return tuple(sorted({machine.python for machine in self.machines}))

    def numpy_versions(self, python: str) -> tuple[str, ...]:
        """Return each numpy version that some machine uses with this Python, once, in a fixed order."""
        return tuple(sorted({each.numpy for each in self.machines if each.python == python and not each.program}))


@dataclass(frozen=True)
class Release:
    """A release of a distribution that carries a Python version."""

    python: str
    suite: str
    keyring: str
    distribution: str


@dataclass(frozen=True)
class Images:
    """What platforms/images.toml says: the shared facts about container images."""

    python: str
    pip: str
    glibc: str
    oldest_system_numpy: str
    packages: tuple[str, ...]
    builder_packages: tuple[str, ...]
    wheels: tuple[str, ...]
    releases: tuple[Release, ...]

    def release(self, python: str) -> Release | None:
        """Return the release that carries this Python version, if we know one."""
        return next((release for release in self.releases if release.python == python), None)


@dataclass(frozen=True)
class Cell:
    """A machine that is promised and is not here; a recording proves it."""

    name: str
    what: str
    system: str
    """Regular expressions, each for the whole of what a recording says."""
    architecture: str
    cpu: str
    run: str
    """What makes a recording there, with `{wheels}` for the folder of the wheels."""


def load_targets(folder: Path = FOLDER, python: str | None = None) -> dict[str, Target]:
    """Read everything that wheels are built for, by name, in the order of the names.

    Parameters
    ----------
    folder
        Where the files are; the checkout's own by default.
    python
        The version on machines for which no file names one; by default that of images.toml.

    Raises
    ------
    PlatformError
        When a file lacks a key, has an unknown one or a value of the wrong type.
    """
    paths = sorted(path for path in folder.glob("*.toml") if path.name not in _SHARED)
    if not paths:
        raise PlatformError(f"{folder}: no platform files (*.toml)")
    python = python or load_images(folder).python
    return {target.name: target for target in (_read_target(path, python) for path in paths)}


def load(folder: Path = FOLDER, python: str | None = None) -> dict[str, Platform]:
    """Read the platforms whose machines can be had here; see `load_targets`."""
    return {name: target for name, target in load_targets(folder, python).items() if isinstance(target, Platform)}


def load_images(folder: Path = FOLDER) -> Images:
    """Read what all container images share."""
    path = folder / _IMAGES
    table = _parse(path)
    releases = tuple(
        _read(Release, release, f"{path}: release {number}")
        for number, release in enumerate(_tables(table, "release", path), 1)
    )
    return _read(Images, _without(table, "release"), str(path), releases=releases)


def load_elsewhere(folder: Path = FOLDER) -> tuple[Cell, ...]:
    """Read the machines that are promised and not here."""
    path = folder / _ELSEWHERE
    cells = _tables(_parse(path), "cell", path)
    return tuple(_read(Cell, cell, f"{path}: cell {number}") for number, cell in enumerate(cells, 1))


def find(name: str, machines: Iterable[Machine]) -> Machine:
    """Return the machine of this full name; the error lists those there are."""
    rows = {machine.full_name: machine for machine in machines}
    if name not in rows:
        raise PlatformError(f"no machine {name!r}; there are: {', '.join(rows)}")
    return rows[name]


def read_flags(cpuinfo: str) -> frozenset[str]:
    """Return the CPU flags of a /proc/cpuinfo text, by x86's or Arm's name for that line."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _read_target(path: Path, python: str) -> Target:
    table = _parse(path)
    name = table.get("name")
    if name != path.stem:
        raise PlatformError(f"{path}: name is {name!r}, but the file is called {path.stem!r}: make them the same")
    made = {
        "wheel": _read(Wheel, _table(table, "wheel", path), f"{path}: [wheel]"),
        "compiler": _read(Compiler, _table(table, "compiler", path), f"{path}: [compiler]"),
        **_read_code(table, path),
    }
    if "machine" in table:
        return _read_platform(table, path, made, python)
    return _read(Target, _without(table, "code_of", *made), str(path), **made)


def _read_code(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Read [kernels] and [[allowed]], or those of another platform with the same code, which `code_of` names."""
    if (other := table.get("code_of")) is not None:
        if "kernels" in table or "allowed" in table:
            raise PlatformError(f"{path}: has [kernels] or [[allowed]] and code_of: keep one")
        path = path.with_name(f"{other}.toml")
        table = _parse(path)
    kernels = tuple(
        KernelSet(key, frozenset(_check(flags, tuple[str, ...], f"{path}: [kernels]: {key}")))
        for key, flags in _table(table, "kernels", path).items()
    )
    allowed = tuple(_read_allowed(row, path) for row in table.get("allowed", ()))
    return {"kernels": kernels, "allowed": allowed}


def _read_allowed(row: Mapping[str, Any], path: Path) -> Allowed:
    where = f"{path}: [[allowed]] {row.get('functions', '(without functions)')}"
    allowed = _read(Allowed, {**row, "sets": row.get("sets", [])}, where)
    try:
        any(map(re.compile, allowed.functions))
    except re.error as error:
        raise PlatformError(f"{where}: no regular expression: {error}") from None
    return allowed


def _read_platform(table: Mapping[str, Any], path: Path, made: Mapping[str, Any], python: str) -> Platform:
    kernels = made["kernels"]
    rows = [{"python": python, **row} for row in _tables(table, "machine", path)]
    machines = tuple(_read_machine(row, kernels, path) for row in rows)
    names = [machine.name for machine in machines]
    for machine_name in names:
        if names.count(machine_name) > 1:
            raise PlatformError(f"{path}: two machines are called {machine_name!r}")
    return _read(
        Platform,
        _without(table, "container", "emulator", "machine", "code_of", *made),
        str(path),
        container=_read(Container, _table(table, "container", path), f"{path}: [container]"),
        emulator=_read(Emulator, _table(table, "emulator", path), f"{path}: [emulator]"),
        machines=machines,
        **made,
    )


def _read_machine(row: Mapping[str, Any], kernels: tuple[KernelSet, ...], path: Path) -> Machine:
    where = f"{path}: machine {row.get('name', '(without a name)')!r}"
    forced = row.get("forced", False)
    if not isinstance(forced, bool):
        raise PlatformError(f"{where}: forced: must be true or false, not {forced!r}")
    machine = _read(Machine, _without(row, "forced"), where, platform=path.stem, forced=forced)
    known = [each.name for each in kernels]
    if machine.built_by not in ("", *BUILDERS):
        known_builders = ", ".join(BUILDERS)
        raise PlatformError(f"{where}: built_by: must be of {known_builders} or not be there, not {machine.built_by!r}")
    if machine.program == bool(machine.numpy):
        raise PlatformError(f"{where}: the program linked with musl has no numpy, and every other machine needs one")
    if machine.page_size and machine.model is None:
        raise PlatformError(f"{where}: page_size is QEMU's to play: name a model")
    if (machine.model is None) != (machine.kernels is None):
        raise PlatformError(f"{where}: model and kernels go together; the native row has neither")
    if machine.kernels is not None and machine.kernels not in known:
        raise PlatformError(f"{where}: kernels {machine.kernels!r} is not among [kernels]: {', '.join(known)}")
    return machine


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlatformError(f"{path}: no such file") from None
    except tomllib.TOMLDecodeError as error:
        raise PlatformError(f"{path}: not valid TOML: {error}") from None


def _table(table: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise PlatformError(f"{path}: the table [{key}] is missing")
    return value


def _tables(table: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    value = table.get(key)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise PlatformError(f"{path}: needs at least one [[{key}]]")
    return value


def _without(table: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}


def _read(kind: type[_T], table: Mapping[str, Any], where: str, **made: Any) -> _T:
    """Make one dataclass from a table; `made` are the fields that are no plain key of it."""
    plain = [field for field in fields(kind) if field.name not in made]  # type: ignore[arg-type]
    if unknown := sorted(table.keys() - {field.name for field in plain}):
        raise PlatformError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(f.name for f in plain)}")
    values = dict(made)
    for field in plain:
        if field.name in table:
            values[field.name] = _check(table[field.name], field.type, f"{where}: {field.name}")
        elif field.default is MISSING:
            raise PlatformError(f"{where}: the key {field.name!r} is missing")
    return kind(**values)


def _check(value: Any, wanted: Any, where: str) -> Any:
    """Return the value as the field's type wants it: the plain keys are strings and lists of strings."""
    if wanted == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise PlatformError(f"{where}: must be a list of strings, not {value!r}")
    if wanted is int:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise PlatformError(f"{where}: must be a number above 0, not {value!r}")
    if not isinstance(value, str) or not value:
        raise PlatformError(f"{where}: must be a string, not {value!r}")
    return value
