"""Builds the wheels that another project does not publish, from its sdist or checkout: portable, audited, reproducible.

Its version, its sources and its switches stay its own. Nothing is published, and what the audit refuses is not kept.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from build import BuildBackendException
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import parse_wheel_filename
from pyproject_hooks import BuildBackendWarning

from ci import cache as kept
from ci import machines, python_headers, sbom
from ci.audit.command import Verdict, verdict_of
from ci.audit.wheel import read_binaries
from ci.backend import Log, date_of, inherited, open_project
from ci.engine import Engine
from ci.finish import repack
from ci.images import ImageKey
from ci.platforms import Target, WheelKey, load
from ci.progress import say, step
from ci.wheel_file import Wheel, WheelError, abi_of, expected_tags, find_faults, read_wheel, running_version
from ci.zig import Toolchain, make_toolchain

_ROOT = Path(__file__).resolve().parent.parent

# The C++ library that is linked in belongs to this module alone, whatever else the process has loaded.
_EXPORTS = """\
{ local:
  _Znw*; _Zna*; _Zdl*; _Zda*; _ZSt*; _ZNSt*; _ZNKSt*; _ZNVSt*; _ZTISt*; _ZTSSt*; _ZTVSt*; _ZTINSt*; _ZTSNSt*; _ZTVNSt*;
  _ZN10__cxxabiv1*; _ZNK10__cxxabiv1*; _ZTIN10__cxxabiv1*; _ZTSN10__cxxabiv1*; _ZTVN10__cxxabiv1*;
  __cxa_*; __gxx_*; __dynamic_cast; _Unwind_*; __unw_*; unw_*; __libunwind*; __cxx_*;
};
"""

# setup.py asks Python what machine this is, and gives flags by the answer.
_SITE = """\
import os
_told = os.uname_result((*os.uname()[:4], {machine!r}))
os.uname = lambda: _told
"""

_SETTINGS = "_constann_cross_settings"

EXAMPLE = "annoy==1.17.3"
"""What the gate builds: the package whose published form dies on CPUs other than its builder's."""

_EXAMPLE_SWITCHES = {"ANNOY_COMPILER_ARGS": "-D_CRT_SECURE_NO_WARNINGS,-DANNOYLIB_MULTITHREADED_BUILD,-mtune=native"}

TRIAL = """\
import sys
sys.path[:0] = sys.argv[1:]
from annoy import AnnoyIndex
index = AnnoyIndex(3, "angular")
for row, vector in enumerate(([1, 0, 0], [1, 1, 0], [0, 0, 1])):
    index.add_item(row, vector)
index.build(2)
print(index.get_nns_by_item(0, 2))
"""
"""A program that uses it: prints [0, 1]."""

# Without SSE4 and without LSE atomics.
_OLD_MACHINES = {"linux-x86_64": "core2duo", "linux-aarch64": "cortex-a53"}


@dataclass(frozen=True)
class Sources:
    """Where a project's sources were found, unpacked or copied to a folder that a build may write into."""

    folder: Path
    date: str
    origin: str
    """For people: the file and its digest, or the folder."""


@dataclass(frozen=True)
class Built:
    """One wheel of another project."""

    target: Target
    version: str
    """Of Python."""
    wheel: Wheel
    verdict: Verdict
    remarks: tuple[str, ...]
    """What was left out of the project's own flags, and why."""


def build(
    wanted: str,
    targets: Sequence[Target],
    pythons: Sequence[str],
    output: Path,
    *,
    switches: Mapping[str, str] | None = None,
    asks_first: bool = False,
    cache: Path | None = None,
) -> list[Built]:
    """Build a project's wheels for Linux, audit them, and put them into a folder.

    Parameters
    ----------
    wanted
        `NAME==VERSION` for the sdist of a package index, an sdist, or a folder with the sources.
    targets, pythons
        What to build for.
    output
        Where the wheels go.
    switches
        Variables for the project's own build, such as its compiler flags.
    asks_first
        Whether the project is known to ask the CPU before it runs instructions beyond the baseline: they are then
        told, not refused.

    Raises
    ------
    WheelError
        When it cannot be fetched or built, or the wheel is not one for every machine of the platform.
    """
    if other := [each.name for each in targets if each.system != "Linux"]:
        raise WheelError(f"wheels of other projects are built for Linux alone, not for {', '.join(other)}")
    cache = (cache or kept.folder("wheels")).absolute()
    headers = {version: python_headers.headers_of(version, cache / "headers") for version in pythons}
    with tempfile.TemporaryDirectory(prefix="constann-foreign-") as work, warnings.catch_warnings():
        # What another's setup.py is warned of is told, and is no failure of its build.
        warnings.simplefilter("default", BuildBackendWarning)
        sources = find_sources(wanted, Path(work))
        say(f"{wanted}: {sources.origin}")
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            jobs = [
                pool.submit(_build, sources, target, version, folder, work=Path(work), cache=cache, switches=switches)
                for target in targets
                for version, folder in headers.items()
            ]
        built = [job.result() for job in jobs]
        for each in built:
            _judge(each, asks_first=asks_first)
        return [_keep(each, output) for each in built]


def problems(found: Engine, prepared: Mapping[ImageKey, str], python: str, output: Path) -> list[str]:
    """Build annoy's wheels and run each on an old CPU of its platform; return what went wrong: a stage of the gate.

    Parameters
    ----------
    found, prepared, python
        The engine, its images from `ci.images.prepare`, and the Python of the machines.
    output
        Where the wheels go.
    """
    known = load()
    try:
        built = build(EXAMPLE, list(known.values()), [python], output, switches=_EXAMPLE_SWITCHES)
    except WheelError as error:
        return [str(error)]
    faults = []
    if not any("-mtune=native" in line for line in remarks(built)):
        faults.append("native tuning was not warned of")
    wheels = {WheelKey(each.target.name, python): each.wheel.path for each in built}
    with machines.Machines(found, known, prepared, wheels) as ready:
        for name, model in _OLD_MACHINES.items():
            (machine,) = (each for each in known[name].machines if each.name == model)
            run = ready.run(machine, ["-c", TRIAL])
            if run.output != "[0, 1]\n":
                faults.append(f"{EXAMPLE} on {machine.full_name}: {run.reason or run.output!r}")
    return faults


def find_sources(wanted: str, work: Path) -> Sources:
    """Fetch, unpack or copy a project's sources; see `build` for what can be wanted."""
    path = Path(wanted)
    if path.is_dir():
        place = work / "sources"
        shutil.copytree(path, place, symlinks=True, ignore=lambda folder, _: _ignored(path, Path(folder)))
        return Sources(place, date_of(path), f"the folder {path.resolve()}")
    if path.suffix in (".gz", ".zip") or path.is_file():
        if not path.is_file():
            raise WheelError(f"{path}: no such sdist")
        return _unpack(path, work)
    try:
        requirement = Requirement(wanted)
    except InvalidRequirement as error:
        raise WheelError(f"{wanted!r} is no folder, no sdist and no NAME==VERSION: {error}") from None
    if not any(each.operator == "==" for each in requirement.specifier):
        raise WheelError(f"{wanted!r}: name one version, such as {requirement.name}==1.2.3: the wheel keeps it")
    downloads = work / "downloads"
    command = [
        sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", requirement.name,
        "--disable-pip-version-check", "--dest", str(downloads), wanted,
    ]  # fmt: skip
    with step(f"the sdist of {wanted}"):
        done = subprocess.run(command, env=inherited(), capture_output=True, text=True, check=False)
    files = sorted(downloads.iterdir()) if downloads.exists() else []
    if done.returncode or len(files) != 1:
        raise WheelError(f"pip could not fetch the sdist of {wanted}:\n{done.stderr.strip()}")
    return _unpack(files[0], work)


def _ignored(root: Path, folder: Path) -> set[str]:
    """Return what git ignores in a folder: an earlier build's leftovers are no sources."""
    command = ["git", "-C", str(root), "check-ignore", "--stdin", "-z"]
    names = [name for name in os.listdir(folder) if name != ".git"]
    asked = "\0".join(str((folder / name).absolute()) for name in names)
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    except OSError:
        return set()
    return {Path(each).name for each in done.stdout.split("\0") if each}


def _unpack(path: Path, work: Path) -> Sources:
    place = work / "sources"
    place.mkdir()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(place)
                date = date_of(place)
        else:
            with tarfile.open(path) as tar:
                date = os.environ.get("SOURCE_DATE_EPOCH") or str(int(max(each.mtime for each in tar.getmembers())))
                # Where Python has the filter; what is unpacked here is run in the next moment anyway.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(place)
    except (tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise WheelError(f"{path}: not an sdist that can be read: {error}") from error
    folders = [each for each in place.iterdir() if each.is_dir()]
    if len(folders) != 1:
        raise WheelError(f"{path}: an sdist holds one folder, and this holds {len(folders)}")
    return Sources(folders[0], date, f"{path.name}  SHA-256 {sha256(path.read_bytes()).hexdigest()}")


def _build(
    sources: Sources,
    target: Target,
    version: str,
    headers: Path,
    *,
    work: Path,
    cache: Path,
    switches: Mapping[str, str] | None,
) -> Built:
    """Build one wheel in a copy of the sources: setuptools writes among them."""
    own = work / f"{target.name}-{version}"
    source = own / "source"
    shutil.copytree(sources.folder, source, symlinks=True)
    log = Log.fresh(cache / "logs" / f"{sources.folder.name}-{target.name}-{version}.txt")
    notes = own / "notes"
    toolchain = make_toolchain(target, cache / "zig", once=True)
    variables = {
        **inherited(),
        **toolchain.environment,
        **_cross_variables(own, toolchain, target, version, headers=headers, source=source),
        "CONSTANN_CROSS_NOTES": str(notes),
        "SOURCE_DATE_EPOCH": sources.date,
        **(switches or {}),
    }
    builder, environment = open_project(source, cache, log, variables, name=sources.folder.name)
    say(f"{target.name}: building for Python {version}")
    try:
        raw = Path(builder.build("wheel", own / "raw"))
    except BuildBackendException as error:
        raise log.failure(f"{sources.folder.name} does not build for {target.name}") from error
    wheel = _finish(
        raw, target, version, own / "finished", date=sources.date, built_with=environment.packages_with_headers()
    )
    remarks = tuple(dict.fromkeys(notes.read_text().splitlines())) if notes.exists() else ()
    name = wheel.path.name
    return Built(target, version, wheel, verdict_of(name, read_binaries(wheel.path)), remarks)


def _cross_variables(
    work: Path, toolchain: Toolchain, target: Target, version: str, *, headers: Path, source: Path
) -> dict[str, str]:
    """Return what makes setuptools, and what asks Python or CMake, build for the target; writes the files it names."""
    abi = abi_of(version)
    suffix = target.wheel.extension_suffix.format(abi=abi)
    site = work / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE.format(machine=target.architecture))
    (site / "exports.map").write_text(_EXPORTS)
    cc, cxx, ar = (shlex.quote(str(toolchain.tools / name)) for name in ("cc", "c++", "ar"))
    # Paths of this machine must not get into the wheel by way of __FILE__.
    names = {str(source): ".", str(kept.root()): "/cache", sys.base_prefix: "/python"}
    maps = shlex.join(f"-ffile-prefix-map={place}={name}" for place, name in names.items())
    scripts = [f"-Wl,-T,{toolchain.tools / 'no-debug.lds'}", f"-Wl,--version-script={site / 'exports.map'}"]
    linking = shlex.join(["-shared", *scripts])
    settings = {
        **_own_settings(),
        "CC": cc,
        "CXX": cxx,
        "CFLAGS": f"{shlex.quote(f'-I{headers}')} -DNDEBUG -fwrapv -O3 {maps}",
        "OPT": "-DNDEBUG -O3",
        "BASECFLAGS": "",
        "CCSHARED": "-fPIC",
        "LDSHARED": f"{cc} {linking}",
        "BLDSHARED": f"{cc} {linking}",
        "LDCXXSHARED": f"{cxx} {linking}",
        "LDFLAGS": "",
        "AR": ar,
        "ARFLAGS": "rcs",
        "EXT_SUFFIX": suffix,
        "SHLIB_SUFFIX": ".so",
        "SOABI": suffix.strip(".").removesuffix(".so"),
        "Py_GIL_DISABLED": int(version.endswith("t")),
    }
    (site / f"{_SETTINGS}.py").write_text(f"build_time_vars = {settings!r}\n")
    return {
        "AR": ar,
        "CC": cc,
        "CMAKE_TOOLCHAIN_FILE": str(toolchain.file),
        "CXX": cxx,
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(site),
        "SETUPTOOLS_EXT_SUFFIX": suffix,
        "SKBUILD_INSTALL_STRIP": "false",  # without names the audit cannot tell the compiler's own functions
        "_PYTHON_HOST_PLATFORM": target.wheel.host_platform,
        "_PYTHON_SYSCONFIGDATA_NAME": _SETTINGS,
    }


def _own_settings() -> dict[str, Any]:
    """Return what the running Python was built with, which all but the compiler's settings are taken from."""
    name = getattr(sysconfig, "_get_sysconfigdata_name")()  # noqa: B009 # it has no public name
    settings: dict[str, Any] = import_module(name).build_time_vars
    return {key: value for key, value in settings.items() if isinstance(value, str | int)}


def _finish(
    raw: Path, target: Target, version: str, output: Path, *, date: str, built_with: Mapping[str, str]
) -> Wheel:
    tags = parse_wheel_filename(raw.name)[3]
    if all(tag.platform == "any" for tag in tags):
        raise WheelError(f"{raw.name}: it holds no machine code, and serves every platform as its authors publish it")
    if any(tag.abi in ("abi3", "none") for tag in tags):
        raise WheelError(f"{raw.name}: wheels for several Pythons at once (abi3 and the like) are not made here")
    names = [str(each) for each in expected_tags(target, abi_of(version))]

    def complete(folder: Path, information: Path, extensions: Sequence[Path]) -> None:
        sbom.write(folder, information, extensions, sbom.build_requirements(built_with), cross_compiled=True)

    finished = repack(raw, target, names, output, date=date, policy=target.wheel.tag, complete=complete)
    return read_wheel(finished)


def _judge(built: Built, *, asks_first: bool) -> None:
    """Demand that a wheel runs on every machine its tag names."""
    faults = find_faults(built.wheel, built.target, abi_of(built.version))
    if not asks_first:
        faults += built.verdict.faults
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise WheelError(
            f"{built.wheel.path.name} is not a wheel for every {built.target.name}:\n{lines}\n"
            "The project's own switches (--env NAME=VALUE) may leave such code out; if it asks the CPU before it runs"
            " it, say so with --asks-first"
        )


def _keep(built: Built, output: Path) -> Built:
    output.mkdir(parents=True, exist_ok=True)
    place = output / built.wheel.path.name
    with kept.whole(place) as path:
        shutil.copyfile(built.wheel.path, path)
    verdict = verdict_of(place.name, built.verdict.scanned)
    return Built(built.target, built.version, read_wheel(place), verdict, built.remarks)


def remarks(built: Sequence[Built]) -> list[str]:
    """Return what must be said of these builds, one line each."""
    lines = []
    for note in dict.fromkeys(note for each in built for note in each.remarks):
        where = ", ".join(dict.fromkeys(each.target.name for each in built if note in each.remarks))
        lines.append(f"WARNING {where}: {note}")
        if "-mtune=native" in note or "-march=native" in note:
            lines.append("WARNING native tuning breaks reproducibility, and none is in these wheels")
    for each in built:
        lines += [f"WARNING {each.target.name}: {fault}" for fault in each.verdict.faults]
    running_python = running_version()
    if other := sorted({each.version for each in built} - {running_python}):
        lines.append(
            f"the build of Python {' and '.join(other)} was steered by Python {running_python}: a setup.py that asks"
            " for its own version sees that one"
        )
    return list(dict.fromkeys(lines))


def use_lines(built: Sequence[Built], folder: Path) -> str:
    """Return the lines that make pip, uv and poetry take these wheels and no sdist."""
    name, release = _name_and_version(built[0])
    place = folder.resolve()
    hashes = " \\\n".join(f"    --hash=sha256:{each.wheel.sha256}" for each in built)
    wheels = ",\n".join(
        f'    {{ path = "{place / each.wheel.path.name}", markers = "platform_machine == \'{each.target.architecture}\''
        f" and python_version == '{each.version.rstrip('t')}'\" }}"
        for each in built
    )
    return f"""\
# pip
pip install --find-links {place} --only-binary {name} {name}=={release}
# pip, in a requirements.txt: no other file is taken
--find-links {place}
--only-binary {name}
{name}=={release} \\
{hashes}
# uv, in pyproject.toml
[tool.uv]
no-build-package = ["{name}"]
[tool.uv.sources]
{name} = {{ index = "{name}-wheels" }}
[[tool.uv.index]]
name = "{name}-wheels"
url = "{place.as_uri()}"
format = "flat"
explicit = true
# poetry, in pyproject.toml
[tool.poetry.dependencies]
{name} = [
{wheels},
]"""


def _poetry_line(built: Built, folder: Path) -> str:
    machine, python = built.target.architecture, built.version.rstrip("t")
    marker = f"sys_platform == 'linux' and platform_machine == '{machine}' and python_version == '{python}'"
    return f'    {{ path = "{folder / built.wheel.path.name}", markers = "{marker}" }}'


def _name_and_version(built: Built) -> tuple[str, str]:
    name, version, _, _ = parse_wheel_filename(built.wheel.path.name)
    return str(name), str(version)
