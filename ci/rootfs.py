"""Makes the root file system of a distribution's release for any architecture, from its packages alone.

Nothing of the foreign architecture runs here: packages are unpacked, not installed, in a fifth of the time that their
emulated scripts would take. Python and its libraries need no more; it is no system to install further packages in.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

from ci import host
from ci.platforms import Platform, Release
from ci.progress import say

# Raise it when this file makes another root file system from the same facts.
RECIPE = 1
_LEFT_OUT = (
    *("./debootstrap", "./dev/*", "./proc/*", "./sys/*", "./var/log/*"),
    *("./var/cache/apt/*", "./var/lib/apt/lists/*", "./var/cache/debconf/*"),
    *("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*"),
)


class RootError(RuntimeError):
    """A root file system could not be made; the text says at which step and what it printed."""


def check(release: Release) -> None:
    """Raise where this computer cannot make this release."""
    wanted = f"no image registry answers, and making an image of {release.suite} needs"
    if not host.program("debootstrap"):
        raise RootError(f"{wanted} debootstrap: sudo apt-get install debootstrap (Debian, Ubuntu)")
    if not host.is_root():
        raise RootError(f"{wanted} root: run this with sudo")
    if not Path("/usr/share/debootstrap/scripts", release.suite).exists():
        raise RootError(f"{wanted} a newer debootstrap: this one does not know that release")
    if not Path(release.keyring).exists():
        raise RootError(f"{wanted} {release.keyring}: install the keyring package of {release.distribution}")


def make(path: Path, platform: Platform, release: Release, packages: Sequence[str], name: str) -> None:
    """Write an archive that `docker load` takes, with one layer and this name for the image.

    The format is written here because `docker import` does not record the architecture on every engine, and because
    `docker build` needs a client with BuildKit, which not every Docker has.
    """
    with tempfile.TemporaryDirectory(prefix="rootfs-", dir=path.parent) as work:
        root, layer = Path(work) / "root", Path(work) / "layer.tar"
        _debootstrap(root, platform, release, packages)
        _unpack(root)
        _complete(root)
        _pack(root, layer)
        with layer.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        configuration = {
            "architecture": platform.container.platform.partition("/")[2],
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        with tarfile.open(path, "w") as archive:
            archive.add(layer, "layer.tar")
            _add_text(archive, "config.json", json.dumps(configuration))
            _add_text(archive, "manifest.json", json.dumps(manifest))


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    information = tarfile.TarInfo(name)
    information.size = len(text.encode())
    archive.addfile(information, BytesIO(text.encode()))


def _debootstrap(root: Path, platform: Platform, release: Release, packages: Sequence[str]) -> None:
    """Fetch and check the packages, and unpack the required ones (debootstrap's first stage)."""
    output = ""
    for mirror in mirrors(release, os.environ, Path("/etc/apt")):
        command = [
            host.program("debootstrap") or "debootstrap",
            "--foreign",
            f"--arch={platform.debian_architecture}",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            "--force-check-gpg",
            f"--keyring={release.keyring}",
            release.suite,
            str(root),
            *([mirror] if mirror else []),
        ]
        environment = {**os.environ, **_apt_proxy(), "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode == 0:
            return
        output = f"`{shlex.join(command)}` failed:\n" + "\n".join(done.stdout.splitlines()[-15:])
        say(f"{platform.name}: the mirror {mirror or 'that debootstrap knows'} did not serve")
        shutil.rmtree(root, ignore_errors=True)
    raise RootError(f"{platform.name}: {output}\nCONSTANN_DEBIAN_MIRROR names another mirror.")


def _unpack(root: Path) -> None:
    """Unpack the packages that debootstrap leaves to its second stage, which would run foreign programs."""
    wanted = set((root / "debootstrap/base").read_text().split())
    for line in (root / "debootstrap/debpaths").read_text().splitlines():
        name, path = line.split()
        if name in wanted:
            unpack_package(Path(f"{root}{path}"), root)


def unpack_package(path: Path, root: Path) -> None:
    """Unpack one package, whose links to folders may lead through links that are there already."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as package:
        subprocess.run(
            ["tar", "--extract", "--keep-directory-symlink", f"--directory={root}"], stdin=package.stdout, check=True
        )
    if package.returncode:
        raise RootError(f"{path}: dpkg-deb could not unpack it")


def _complete(root: Path) -> None:
    """Make the two things that packages' scripts would have made and Python looks for: users, and certificates."""
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    folder = root / "etc/ssl/certs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca-certificates.crt").write_text("".join(path.read_text() for path in certificates))


def _pack(root: Path, layer: Path) -> None:
    """Pack it without what no machine reads: downloads, documentation and translations."""
    command = ["tar", "--create", f"--file={layer}", f"--directory={root}", "--numeric-owner", "--sort=name"]
    subprocess.run([*command, *(f"--exclude={pattern}" for pattern in _LEFT_OUT), "."], check=True)


def mirrors(release: Release, environment: Mapping[str, str], apt: Path) -> Iterator[str | None]:
    """Give the mirrors to try, best first; None is the one that debootstrap knows by itself."""
    chosen = environment.get("CONSTANN_DEBIAN_MIRROR")
    if chosen and release.distribution == "debian":
        yield chosen
        return
    if host.distribution() == release.distribution and (own := configured_mirror(apt)):
        yield own
    yield None


def configured_mirror(apt: Path) -> str | None:
    """Return the mirror of the main archive that this computer's apt uses (both kinds of files)."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for path in files:
        if not path.is_file():
            continue
        text = re.sub(r"^[ \t]*#.*\n?", "", path.read_text(errors="replace"), flags=re.MULTILINE)
        entries = _deb822(text) if path.suffix == ".sources" else _one_line(text)
        for uri, suite, components in entries:
            # Not the security archive nor third parties' ones: a suite without a suffix, and a component `main`.
            if (
                "main" in components
                and re.fullmatch("[a-z]+", suite)
                and re.match("https?://", uri)
                and _is_archive(uri)
            ):
                return uri
    return None


def _is_archive(uri: str) -> bool:
    return uri.rstrip("/").rsplit("/", 1)[-1] in ("debian", "ubuntu", "ubuntu-ports") or "/archive/debian/" in uri


def _deb822(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): value.split() for key, value in re.findall(r"^([\w-]+):((?:.|\n(?=[ \t]))*)", stanza, re.M)
        }
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"])[0] != "no":
            for uri in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield uri, suite, fields.get("components", [])


def _one_line(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", "", line).split()
        if len(words) > 3 and words[0] == "deb":
            yield words[1], words[2], words[3:]


def _apt_proxy() -> dict[str, str]:
    """Return the proxy that this computer's apt is told to use, for debootstrap, which asks the environment alone."""
    if "http_proxy" in os.environ:
        return {}
    done = subprocess.run(
        ["apt-config", "shell", "PROXY", "Acquire::http::Proxy"], capture_output=True, text=True, check=False
    )
    found = re.match(r"PROXY='(http[^']+)'", done.stdout)
    return {"http_proxy": found[1]} if found else {}
