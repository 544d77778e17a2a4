"""Builds the wheels and the sdist twice and compares them byte by byte, or one wheel with a container's own.

It says in which member, and in which section of machine code, two files differ. Mends and publishes nothing.
"""

import argparse
import difflib
import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import lief
from rich.console import Console
from rich.table import Table

from ci import cache as kept
from ci import elsewhere, wheels
from ci.audit.binaries import is_binary
from ci.backend import date_of
from ci.platforms import Target, load, load_images
from ci.progress import say, step
from ci.wheel_file import WheelError

_ROOT = Path(__file__).resolve().parent.parent

# What a checkout holds besides sources, by name.
_NO_SOURCES = (".git", "__pycache__", "dist", "build", "gate-report", "*.egg-info", ".venv", ".pytest_cache", "*_cache")

# Two builds that share nothing a build could read by accident: where they are, when their files were written, what
# language and time zone they speak, and what new files may be.
_FIRST = {"TZ": "UTC", "LC_ALL": "C", "COLUMNS": "80"}
_SECOND = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8", "COLUMNS": "200"}
_UMASKS = (0o022, 0o077)
_DAYS = (1_000_000_000, 1_600_000_000)

_LINES_SHOWN = 12

Plant = Callable[[Path], None]


@dataclass(frozen=True)
class Compared:
    """Two files of one name and what is different; nothing, if they are the same byte by byte."""

    name: str
    digests: tuple[str, str]
    differences: tuple[str, ...]


def problems(
    targets: Sequence[Target],
    pythons: Sequence[str],
    *,
    fresh_cache: bool = True,
    kept_too: bool = False,
    plant: Plant | None = None,
    show: Callable[[Sequence[Compared]], None] = lambda compared: None,
) -> list[str]:
    """Build the sdist and the wheels twice, and return what differs, one sentence each.

    Parameters
    ----------
    targets, pythons
        What to build for; without targets, the sdist alone.
    fresh_cache
        Whether the second build has an empty cache, and so compiles zig's standard library again.
    kept_too
        Take the second build where it was made before, from the same; only without `plant`.
    plant
        Changes the second copy of the sources: the negative control.
    show
        Is given every pair of files, alike or not.
    """
    with tempfile.TemporaryDirectory(prefix="constann-reproduce-") as work:
        first = _build(_copied(Path(work, "a"), 0), Path(work, "first"), targets, pythons, which=0, cache=kept.root())
        second_cache = Path(work, "another-cache") if fresh_cache else kept.root()

        def build_again() -> Path:
            source = _copied(Path(work, "another folder", "with a longer name", "and deeper"), 1)
            if plant:
                plant(source)
            return _build(source, Path(work, "second"), targets, pythons, which=1, cache=second_cache)

        if kept_too:
            place = kept.folder("built-twice", _digest(Path(work, "to-hash"), targets, pythons)) / "dist"
            second = _kept(place, "the second build", lambda output: shutil.copytree(build_again(), output))
        else:
            second = build_again()
        compared = compare_folders(first, second)
        show(compared)
    return [f"{each.name}: {difference}" for each in compared for difference in each.differences]


def container_problems(
    show: Callable[[Sequence[Compared]], None] = lambda compared: None, *, cross_compiled: Path | None = None
) -> list[str]:
    """Compare the aarch64 wheel that is cross-compiled here with one built in an arm64 container; see `problems`.

    Both have the same ziglang and the same headers of Python. Needs a Docker engine, and takes long where that
    emulates.

    Parameters
    ----------
    show
        Is given the pair, alike or not.
    cross_compiled
        The one that was compiled here; the container's is then not built again where it was, from the same. Without
        it, both are built.
    """
    (target,) = (each for each in load().values() if each.architecture == "aarch64")
    python = load_images().python
    with tempfile.TemporaryDirectory(prefix="constann-reproduce-") as work:
        source = _copied(Path(work, "here", "source"), 0)
        date = date_of(_ROOT)
        first, second = Path(work, "here", "dist"), Path(work, "there")
        if cross_compiled is None:
            _run_harness(source, ["wheels", "--platform", target.name, "--python", python], first, date=date, which=0)
            elsewhere.build(target, source, second, date=date)
        else:
            first.mkdir()
            shutil.copy(cross_compiled, first)
            digest = wheels.digests_of_inputs(_ROOT, [python], cache=kept.folder("wheels"))[python]
            place = kept.folder("built-elsewhere", digest) / target.name
            second = _kept(place, target.name, lambda output: elsewhere.build(target, source, output, date=date))
        compared = compare_folders(first, second)
        show(compared)
    return [f"{each.name}: {difference}" for each in compared for difference in each.differences]


def _digest(copy: Path, targets: Iterable[Target], pythons: Sequence[str]) -> str:
    """Return a digest of what is built from: the sources as they would be copied, and what else wheels depend on."""
    _copied(copy, 0)
    inputs = wheels.digests_of_inputs(_ROOT, pythons, cache=kept.folder("wheels"))
    return kept.name_for([[each.name for each in targets], inputs, kept.digest_of([copy])])


def _kept(place: Path, what: str, make: Callable[[Path], object]) -> Path:
    """Return a folder, made where it was not made before."""
    if place.exists():
        say(f"{what}: made before, from the same")
    else:
        with kept.whole(place) as output:
            make(output)
    return place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `./ci/run reproduce`."""
    wheels.add_choice(parser)
    parser.add_argument(
        "--in-container",
        action="store_true",
        help="instead, compare the cross-compiled aarch64 wheel with one built in an arm64 container (half an hour"
        " where that is emulated)",
    )
    parser.add_argument(
        "--shared-cache",
        action="store_true",
        help="let both builds use one compiler cache: quicker, and zig's standard library is then compiled once",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("FILE", "FILE"),
        help="build nothing; explain how two wheels or sdists differ",
    )


def run(arguments: argparse.Namespace) -> int:
    """Build twice and demand the same bytes; exit status 1 where they are not."""
    if arguments.compare:
        first, second = arguments.compare
        compared = [_compare(first, second)]
        _print(compared)
        found = [*compared[0].differences]
    elif arguments.in_container:
        with step("the aarch64 wheel, cross-compiled and in an arm64 container"):
            found = container_problems(_print)
    else:
        targets, pythons = wheels.chosen(arguments)
        with step("everything, twice"):
            found = problems(targets, pythons, fresh_cache=not arguments.shared_cache, show=_print)
    print(f"NOT REPRODUCIBLE: {len(found)} differences" if found else "reproducible: every pair has the same bytes")
    return 1 if found else 0


def compare_folders(first: Path, second: Path) -> list[Compared]:
    """Compare the files of two folders by name; a folder without any is an error, for it proves nothing."""
    names = sorted({path.name for folder in (first, second) for path in folder.iterdir() if path.is_file()})
    if not names:
        raise WheelError(f"neither {first} nor {second} holds a file: nothing was built")
    compared = []
    for name in names:
        missing = [folder for folder in (first, second) if not (folder / name).exists()]
        if missing:
            which = "first" if missing == [first] else "second"
            compared.append(Compared(name, ("", ""), (f"the {which} build made no file of this name",)))
        else:
            compared.append(_compare(first / name, second / name))
    return compared


def explain(first: Path, second: Path) -> list[str]:
    """Return how two wheels or sdists differ, one sentence for each member and what is different in it."""
    if first.read_bytes() == second.read_bytes():
        return []
    try:
        members = [_members(each) for each in (first, second)]
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile) as error:
        raise WheelError(f"{first} or {second} is no wheel and no sdist that can be read: {error}") from error
    found = [*_of_members(*members)]
    if not found:
        found.append(
            "every member is the same, but the archives are not: another zlib, or another program, packed them"
        )
    return found


@dataclass(frozen=True)
class _Member:
    facts: Mapping[str, object]
    """What an archive says of a member besides its bytes: dates, modes, owners."""
    content: bytes


def _compare(first: Path, second: Path) -> Compared:
    for each in (first, second):
        if not each.is_file():
            raise WheelError(f"{each}: no such file")
    digests = (sha256(first.read_bytes()).hexdigest(), sha256(second.read_bytes()).hexdigest())
    return Compared(first.name, digests, tuple(explain(first, second)))


def _members(path: Path) -> dict[str, _Member]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {
                each.filename: _Member(
                    {
                        "date": each.date_time,
                        "mode": oct(each.external_attr >> 16),
                        "compression": each.compress_type,
                        "system": each.create_system,
                        "extra": each.extra.hex(),
                    },
                    archive.read(each),
                )
                for each in archive.infolist()
            }
    with tarfile.open(path) as tar:
        return {each.name: _tar_member(tar, each) for each in tar.getmembers()}


def _tar_member(tar: tarfile.TarFile, each: tarfile.TarInfo) -> _Member:
    file = tar.extractfile(each) if each.isfile() else None
    facts = {
        "date": each.mtime,
        "mode": oct(each.mode),
        "owner": (each.uid, each.gid, each.uname, each.gname),
        "kind": each.type,
    }
    return _Member(facts, file.read() if file else b"")


def _of_members(first: Mapping[str, _Member], second: Mapping[str, _Member]) -> Iterator[str]:
    for name in sorted(first.keys() ^ second.keys()):
        yield f"{name} is only in the {'first' if name in first else 'second'}"
    common = [name for name in first if name in second]
    if common != [name for name in second if name in first]:
        yield "the members are in another order"
    for name in common:
        one, other = first[name], second[name]
        for fact, value in one.facts.items():
            if value != other.facts[fact]:
                yield f"{name}: its {fact} is {value} in the first and {other.facts[fact]} in the second"
        if one.content != other.content:
            yield f"{name}: {_of_contents(one.content, other.content)}"


def _of_contents(first: bytes, second: bytes) -> str:
    """Say where two versions of one member differ: sections of machine code, lines of text, else the byte."""
    if is_binary(first) and is_binary(second):
        return _of_sections(first, second)
    try:
        texts = [content.decode().splitlines() for content in (first, second)]
    except UnicodeDecodeError:
        return _of_bytes(first, second)
    lines = [*difflib.unified_diff(texts[0], texts[1], "first", "second", lineterm="", n=0)][2:]
    more = f"\n    and {len(lines) - _LINES_SHOWN} lines more" if len(lines) > _LINES_SHOWN else ""
    return "the text differs:\n" + "\n".join(f"    {line}" for line in lines[:_LINES_SHOWN]) + more


def _of_sections(first: bytes, second: bytes) -> str:
    sections = [_sections(content) for content in (first, second)]
    if sections[0].keys() != sections[1].keys():
        return f"the machine code has other sections: {', '.join(sorted(sections[0].keys() ^ sections[1].keys()))}"
    found = [
        f"section {name}: {_of_bytes(content, sections[1][name])}"
        for name, content in sections[0].items()
        if content != sections[1][name]
    ]
    return "the machine code differs:" + "".join(f"\n    {each}" for each in found or [_of_bytes(first, second)])


def _sections(content: bytes) -> dict[str, bytes]:
    lief.logging.disable()
    parsed = lief.parse(content)
    if not isinstance(parsed, lief.ELF.Binary | lief.MachO.Binary):
        return {}
    # Names may come twice.
    return {f"{number} {each.name!s}": bytes(each.content) for number, each in enumerate(parsed.sections)}


def _of_bytes(first: bytes, second: bytes) -> str:
    place = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    sizes = f"{len(first):,} and {len(second):,} bytes" if len(first) != len(second) else f"{len(first):,} bytes"
    if place is None:
        return f"{sizes}, the shorter is the beginning of the longer"
    around = slice(max(place - 8, 0), place + 24)
    return f"{sizes}, first at {place:#x}: {first[around].hex(' ')} and {second[around].hex(' ')}"


def _build(
    source: Path, output: Path, targets: Iterable[Target], pythons: Iterable[str], *, which: int, cache: Path
) -> Path:
    """Build all from these sources with their own harness; return the folder of the files."""
    words = [f"--platform={each.name}" for each in targets]
    words += [f"--python={each}" for each in pythons if words]
    begin = time.monotonic()
    date = date_of(_ROOT)
    _run_harness(source, ["sdist"], output, date=date, which=which, cache=cache)
    if words:
        _run_harness(source, ["wheels", *words], output, date=date, which=which, cache=cache)
    say(f"build {which + 1} of 2, in {source}: {time.monotonic() - begin:.1f} s")
    return output


def _copied(place: Path, which: int) -> Path:
    """Copy the sources to a place, as files of one day."""
    shutil.copytree(_ROOT, place, ignore=shutil.ignore_patterns(*_NO_SOURCES))
    for path in [place, *place.rglob("*")]:
        os.utime(path, (_DAYS[which], _DAYS[which]))
    return place


def _run_harness(
    source: Path, words: Sequence[str], output: Path, *, date: str, which: int, cache: Path | None = None
) -> None:
    """Run a command of the harness of these sources, as one of the two unlike builders."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ci.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-P", "-B", "-c", code, str(source), *words, "--output", str(output)]
    variables = {
        **os.environ,
        **(_FIRST, _SECOND)[which],
        "SOURCE_DATE_EPOCH": date,
        "CONSTANN_CI_CACHE": str(cache or kept.root()),
    }
    done = subprocess.run(
        command, cwd=source, env=variables, umask=_UMASKS[which], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise WheelError(f"`{' '.join(words)}` in {source} failed:\n{done.stdout}{done.stderr}")


def _print(compared: Sequence[Compared]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("file", "SHA-256", "verdict"):
        table.add_column(heading, no_wrap=True)
    for each in compared:
        table.add_row(each.name, each.digests[0], "different" if each.differences else "the same bytes")
    console = Console(width=1000, soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    for each in compared:
        for difference in each.differences:
            console.print(f"{each.name}: {difference}")
