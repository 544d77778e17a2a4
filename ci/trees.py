"""Runs machines without Docker, root or binfmt: Python from Debian's packages, unpacked into a folder, under QEMU.

The same wheels, workloads and CPU models as in containers. What a container adds is not there: a run sees this
computer's files and network, and its C library's caches. Never judges what is printed.
"""

import os
import platform as computer
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ci import cache, host, images, machines, rootfs
from ci.backend import inherited
from ci.machines import Outcome, Run
from ci.platforms import Images, Machine, Platform, Release, WheelKey, load, read_flags
from ci.progress import step
from ci.wheel_file import digest_of_build

_PACKAGES = ("python3", "libstdc++6")
_MERGED = ("bin", "sbin", "lib", "lib64")  # links into usr/, as in every installed system
SAYS = (
    "ENGINE qemu-user: no container; Python of Debian's packages unpacked into a folder, under QEMU in user mode or, on"
    " the computer's own CPU, by that system's own loader"
)


class TreeError(RuntimeError):
    """A tree could not be made; the text says at which step and what it printed."""


class Trees:
    """The machines of some platforms, each a process of this computer; see `ci.machines.Machines` for what they do.

    Parameters
    ----------
    platforms
        The platforms by name.
    facts
        What platforms/images.toml says.
    wheels
        The wheels and programs to run.
    """

    def __init__(self, platforms: Mapping[str, Platform], facts: Images, wheels: Mapping[WheelKey, Path]) -> None:
        self._platforms = platforms
        self._facts = facts
        self._wheels = wheels
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, at once, and start no more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def expected(self) -> tuple[Machine, ...]:
        """Return every row that must run on this computer, the native ones first."""
        return expected(self._platforms)

    def identity(self, machine: Machine) -> list[str]:
        """Return all that a row's answers may depend on besides its own facts."""
        wheel = self._wheels.get(machine.wheel)
        platform = self._platforms[machine.platform]
        below = _emulator(platform, self._facts).stat().st_size if machine.model else sorted(_flags())
        tree = "" if machine.program else _tree_name(platform, _release(machine.python, self._facts))
        return ["qemu-user", digest_of_build(wheel) if wheel else "", tree, str(below)]

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = 600.0,
    ) -> Run:
        """Run `python ARGUMENTS` on a machine, or its program: always an outcome, whatever becomes of it."""
        try:
            command, variables = self._command(machine)
        except (TreeError, rootfs.RootError, subprocess.CalledProcessError, OSError) as error:
            return Run(machine, Outcome.COULD_NOT_START, None, "", "", 0.0, str(error))
        words = [_outside(word, mounts or {}) for word in arguments]
        begin = time.monotonic()
        with self._lock:
            if self._closed:
                return Run(machine, Outcome.COULD_NOT_START, None, "", "", 0.0, "interrupted")
            process = subprocess.Popen(
                [*command, *words],
                env={**variables, **machine.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            self._running.add(process)
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            late = f"no end in {timeout:g} s"
            return Run(machine, Outcome.TIMED_OUT, None, output, errors, time.monotonic() - begin, late)
        finally:
            self._running.discard(process)
        status = process.returncode if process.returncode >= 0 else 128 - process.returncode
        reason = machines.reason_of(status, output, errors)
        return Run(machine, Outcome.FINISHED, status, output, errors, time.monotonic() - begin, reason)

    def _command(self, machine: Machine) -> tuple[list[str], dict[str, str]]:
        """Return what starts a machine's Python or program, and with which variables."""
        platform = self._platforms[machine.platform]
        wheel = self._wheels.get(machine.wheel)
        if wheel is None and machine.built_by:
            raise TreeError(f"{machine.built_by} made no wheel for {platform.name}")
        qemu = machines.emulated(machine, str(_emulator(platform, self._facts)) if machine.model else "")
        variables = {"HOME": "/tmp", "PATH": os.defpath}  # bytecode stays beside the modules: emulated, it is slow
        if machine.program:
            return [*qemu, str(wheel)], variables
        tree = make_tree(platform, _release(machine.python, self._facts))
        python = tree / "usr" / "bin" / f"python{machine.python}"
        places = [_numpy(platform, machine, self._facts)]
        places += [_unpacked(wheel)] if wheel else []
        variables |= {"PYTHONHOME": str(tree / "usr"), "PYTHONPATH": os.pathsep.join(map(str, places))}
        if qemu:
            return [*qemu, "-L", str(tree), str(python)], variables
        (loader, *_) = sorted((tree / "usr").glob("lib*/**/ld-linux*.so.*"))
        libraries = f"{tree}/usr/lib/{platform.architecture}-linux-gnu"
        return [str(loader), "--library-path", libraries, str(python)], variables


def expected(platforms: Mapping[str, Platform]) -> tuple[Machine, ...]:
    """Return every row that must run on this computer, the native ones first."""
    rows: list[Machine] = []
    for platform in sorted(platforms.values(), key=lambda each: each.architecture != computer.machine()):
        rows += platform.expected_rows(computer.machine(), _flags())
    return tuple(rows)


def prepare(platforms: Mapping[str, Platform], facts: Images) -> None:
    """Make all that the machines need, before there is no network."""
    for platform in platforms.values():
        _emulator(platform, facts)
        for machine in platform.machines:
            if not machine.program:
                make_tree(platform, _release(machine.python, facts))
                _numpy(platform, machine, facts)


def make_tree(platform: Platform, release: Release, packages: Sequence[str] = _PACKAGES) -> Path:
    """Return a folder with a release's packages unpacked in it, made where it is missing: apt and tar, and no root.

    Raises
    ------
    TreeError
        When apt is not on this computer, or cannot fetch them.
    """
    place = cache.folder("trees") / _tree_name(platform, release, packages)
    with cache.lock(place.with_suffix(".lock")):
        if not place.exists():
            with step(f"{platform.name}: {' and '.join(packages)} of {release.suite}"), cache.whole(place) as tree:
                tree.mkdir()
                for name in _MERGED:
                    (tree / "usr" / name).mkdir(parents=True)
                    (tree / name).symlink_to(f"usr/{name}")
                for package in _download(platform.debian_architecture, release, packages, tree.parent):
                    rootfs.unpack_package(package, tree)
    return place


def _tree_name(platform: Platform, release: Release, packages: Sequence[str] = _PACKAGES) -> str:
    return f"{release.suite}-{platform.debian_architecture}-{cache.name_for([*packages, release.keyring])}"


def _download(architecture: str, release: Release, packages: Sequence[str], work: Path) -> list[Path]:
    """Have apt find what packages need, on a system where nothing is installed, and fetch it all."""
    apt = host.program("apt-get")
    if apt is None:
        raise TreeError("unpacking Debian's packages takes apt-get, which is not on this computer")
    folder = work / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    said = ""
    for mirror in rootfs.mirrors(release, os.environ, Path("/etc/apt")):
        source = f"deb [signed-by={release.keyring}] {mirror or 'http://deb.debian.org/debian'} {release.suite} main\n"
        (folder / "sources.list").write_text(source)
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "",
            "Dir::State": str(folder / "state"),
            "Dir::State::status": str(folder / "status"),
            "Dir::Cache": str(folder / "cache"),
            "Dir::Etc::sourcelist": str(folder / "sources.list"),
            "Dir::Etc::sourceparts": "-",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        install = ["install", "--download-only", "--yes", "--no-install-recommends", *packages]
        done = [
            subprocess.run([apt, *options, *words], capture_output=True, text=True, check=False)
            for words in (["update"], install)
        ]
        if not done[-1].returncode:
            return sorted((folder / "cache" / "archives").glob("*.deb"))
        said = "\n".join(each.stderr.strip() for each in done)
    raise TreeError(f"apt cannot fetch {' '.join(packages)} of {release.suite} for {architecture}:\n{said}")


def _release(python: str, facts: Images) -> Release:
    release = facts.release(python)
    if release is None:
        raise TreeError(f"Python {python} is in no release that platforms/images.toml names")
    return release


def _emulator(platform: Platform, facts: Images) -> Path:
    """Return QEMU for the platform: this computer's, or Debian's unpacked beside the trees."""
    if found := host.program(platform.emulator.program):
        return Path(found)
    (own,) = (each for each in load().values() if each.architecture == computer.machine())
    return make_tree(own, _release(facts.python, facts), ["qemu-user-static"]) / "usr/bin" / platform.emulator.program


def _numpy(platform: Platform, machine: Machine, facts: Images) -> Path:
    """Return a folder with the machine's numpy, fetched by this computer's pip where it is missing."""
    place = cache.folder("trees") / f"numpy-{machine.numpy}-{platform.name}-py{machine.python}"
    with cache.lock(place.with_suffix(".lock")):
        if not place.exists():
            with step(f"{platform.name}: numpy {machine.numpy}"), cache.whole(place) as folder:
                options = ["-q", "--only-binary", ":all:", "--no-compile", "--disable-pip-version-check"]
                foreign = images.foreign_options(platform, machine.python, facts.glibc)
                pip = [sys.executable, "-P", "-m", "pip", "install", *options, *foreign, "--target", str(folder)]
                done = subprocess.run(
                    [*pip, f"numpy=={machine.numpy}"], env=inherited(), capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise TreeError(f"pip does not find numpy {machine.numpy} for {platform.name}:\n{done.stderr}")
    return place


def _unpacked(wheel: Path) -> Path:
    """Return a folder with what a wheel installs."""
    place = cache.folder("trees") / f"wheel-{digest_of_build(wheel)[:16]}"
    with cache.lock(place.with_suffix(".lock")):
        if not place.exists():
            with cache.whole(place) as folder, zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    return place


def _flags() -> frozenset[str]:
    return read_flags(Path("/proc/cpuinfo").read_text())


def _outside(word: str, mounts: Mapping[Path, str]) -> str:
    """Return an argument with the place that it has outside instead of the one inside."""
    for path, inside in mounts.items():
        place = inside.removesuffix(":ro")
        if word == place or word.startswith(f"{place}/"):
            return f"{path.resolve()}{word[len(place) :]}"
    return word
