"""Finds the headers of each Python that wheels are built for. Runs none of these Pythons and installs nothing."""

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ci import cache as kept
from ci import host, rootfs
from ci.platforms import Release, load_images
from ci.progress import say


class HeadersError(RuntimeError):
    """A Python's headers cannot be had; the text says where they were looked for and how to provide them."""


def headers_of(version: str, cache: Path) -> Path:
    """Return the folder of Python.h of one Python, to be searched before all others.

    Where CONSTANN_PYTHON_HEADERS names a folder, they are in it, under the version; nothing else is looked for. Else
    those of the running Python serve where it is that version; else the package of the Debian or Ubuntu release that
    carries it, fetched and checked by apt; else those of a Python of that version on PATH. The headers of 64-bit
    little-endian machines differ in macros that extension modules do not use, so one copy serves every platform.

    Parameters
    ----------
    version
        Such as "3.13".
    cache
        A kept folder.

    Raises
    ------
    HeadersError
        When they are nowhere to be had.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if given := os.environ.get("CONSTANN_PYTHON_HEADERS"):
        return _copied(Path(given, version), version, cache)
    if version == sysconfig.get_python_version():
        return _copied(Path(sysconfig.get_path("include")), version, cache)
    fetched = cache / f"debian-{version}"
    with kept.lock(cache / f"{version}.lock"):
        problem = "" if fetched.exists() else _fetch(version, fetched)
    if fetched.exists():
        return _copied(fetched / "usr" / "include" / f"python{version}", version, cache)
    if found := _of_python_on_path(version):
        say(f"Python {version}: {problem}; using the headers in {found}")
        return _copied(found, version, cache)
    raise HeadersError(
        f"the headers of Python {version} are missing: {problem}; and no python{version} with headers is on PATH."
        f" Install one of the two, or build for another version (--python)"
    )


def version_of(headers: Path) -> str:
    """Return the full version that headers are of, such as "3.13.5": what a difference between two builds may be."""
    found = re.search(r'#define PY_VERSION\s+"([^"]+)"', (headers / "patchlevel.h").read_text())
    return found[1] if found else "unknown"


def _copied(include: Path, version: str, cache: Path) -> Path:
    """Copy the headers to where their place says nothing of this machine, named for their contents."""
    if not (include / "Python.h").is_file():
        raise HeadersError(
            f"{include / 'Python.h'} is missing: install the headers of this Python"
            f" (Debian: apt-get install python{version}-dev)"
        )
    files = {path.relative_to(include): path for path in sorted(include.rglob("*.h"))}
    files[Path("pyconfig.h")] = _real_configuration(include, version)
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    folder = cache / f"{version}-{digest.hexdigest()[:16]}"
    with kept.lock(cache / f"{version}.lock"):
        if not folder.exists():
            with kept.whole(folder) as fresh:
                for name, path in files.items():
                    _copy(path, fresh / name)
    return folder


def _real_configuration(include: Path, version: str) -> Path:
    """Return the file that Debian's pyconfig.h includes by the processor's name; other Pythons' is the real one."""
    plain = include / "pyconfig.h"
    own = re.findall(rf"<([\w-]+/python{version}/pyconfig\.h)>", plain.read_text())
    return next((path for name in own if (path := include.parent / name).is_file()), plain)


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


def _of_python_on_path(version: str) -> Path | None:
    program = shutil.which(f"python{version}")
    if program is None:
        return None
    command = [program, "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = Path(done.stdout.strip())
    return found if done.returncode == 0 and (found / "Python.h").is_file() else None


def _fetch(version: str, place: Path) -> str:
    """Fetch and unpack the release's package of headers; return why not, or nothing."""
    release = load_images().release(version)
    if release is None:
        return "platforms/images.toml names no release that carries it"
    if not host.program("apt-get") or not Path(release.keyring).exists():
        return f"fetching them takes apt-get and {release.keyring}, and one is missing"
    for mirror in rootfs.mirrors(release, os.environ, Path("/etc/apt")):
        if mirror is None:
            continue
        with tempfile.TemporaryDirectory(prefix="headers-", dir=place.parent) as work:
            problem = _download(version, release, mirror, Path(work))
            if not problem:
                with kept.whole(place) as fresh:
                    for package in sorted(Path(work).glob("*.deb")):
                        subprocess.run(["dpkg-deb", "-x", str(package), str(fresh)], check=True)
                return ""
            say(f"Python {version}: {problem}")
    return f"no mirror of {release.distribution} served {release.suite} (CONSTANN_DEBIAN_MIRROR names one)"


def _download(version: str, release: Release, mirror: str, work: Path) -> str:
    """Let apt fetch and check the package into a folder, with lists and settings of its own; return why not."""
    say(f"Python {version}: fetching its headers from {release.distribution} {release.suite}")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    component = "main universe" if release.distribution == "ubuntu" else "main"
    (work / "sources.list").write_text(f"deb [signed-by={release.keyring}] {mirror} {release.suite} {component}\n")
    settings = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for words in (["update"], ["download", f"libpython{version}-dev"]):
        done = _run(["apt-get", *options, *words], work)
        if done.returncode:
            return f"`apt-get {' '.join(words)}` of {release.suite} failed: {_last_line(done.stdout)}"
    return ""


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
