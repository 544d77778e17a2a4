"""Which packages the harness may install on this computer. It remembers them, for undo.

Nothing here runs where a Docker engine already answers.
"""

import json
import os
import platform as computer
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ci import cache
from ci.platforms import Platform
from ci.progress import say, step

_FOLDER = Path(__file__).resolve().parent

# sudo's and cron's PATH often lack the administrator's folders.
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


class HostError(RuntimeError):
    """Something is missing on this computer; the text says what, and the line that gets it."""


@dataclass
class Changes:
    """What we changed, kept in the cache folder."""

    packages: list[str] = field(default_factory=list)

    @staticmethod
    def load() -> "Changes":
        """Read what earlier runs changed."""
        path = _record()
        return Changes(json.loads(path.read_text())["packages"]) if path.exists() else Changes()

    def save(self) -> None:
        """Keep it for `undo`, at once: a killed run must not forget."""
        cache.folder()
        with cache.whole(_record()) as path:
            path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def _record() -> Path:
    return cache.root() / "host-changes.json"


def program(name: str) -> str | None:
    """Return where a program is, or None."""
    return shutil.which(name, path=_PATH)


def is_root() -> bool:
    """Return whether we may change this computer."""
    return os.geteuid() == 0


def is_disposable() -> bool:
    """Return whether this computer is one of GitHub's, made for this run: it is ours to install on, with sudo."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def distribution() -> str | None:
    """Return `debian` or `ubuntu` where this is one of them (or close kin, which take the same packages)."""
    try:
        release = computer.freedesktop_os_release()
    except OSError:
        return None
    kin = [release["ID"], *release.get("ID_LIKE", "").split()]
    return next((name for name in kin if name in ("debian", "ubuntu")), None)


def missing_packages(platforms: Iterable[Platform]) -> list[str]:
    """Return the packages to install, judged by the programs that are not there."""
    missing = []
    if not program("dockerd"):
        missing.append("docker.io")
    if not all(program(each.emulator.program) for each in platforms):
        missing.append("qemu-user-static")
    if not program("debootstrap"):
        missing.append("debootstrap")
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if distribution() == "ubuntu" and not keyring.exists():
        missing.append(keyring.stem)
    return missing


def prepare(platforms: Sequence[Platform]) -> None:
    """Install what a Docker engine of our own needs, where it is missing.

    Raises
    ------
    HostError
        When this is not a computer that we can prepare, or we may not.
    """
    if distribution() is None:
        raise HostError(
            "No Docker engine answers here, and this computer is neither Debian nor Ubuntu. Install Docker (on macOS: "
            "Docker Desktop, colima or OrbStack), start it, and run this again; DOCKER_HOST is honoured."
        )
    missing = missing_packages(platforms)
    if missing:
        say(
            f"No Docker engine answers. To install: {' '.join(missing)} (apt-get), about 700 MB of disk, half a minute."
        )
    if not is_root():
        raise HostError(f"Docker must be started, which takes root. Run this one line:\n\n    {_again()}\n")
    if missing:
        install(missing)
    if not program("docker"):
        install(["docker-cli"])  # newer releases have the client in a package of its own


def _again() -> str:
    """Return the line that runs this very command as root, from the folder where the caller is."""
    words = sys.argv[1:]
    script = [str(_FOLDER / "gate"), *words[1:]] if words[:1] == ["gate"] else [str(_FOLDER / "run"), *words]
    # sudo sets a PATH of its own, which may lead to another Python.
    python = os.environ.get("CONSTANN_PYTHON") or sys.executable
    return shlex.join(["sudo", "--preserve-env", f"CONSTANN_PYTHON={python}", *script])


def install(packages: Sequence[str]) -> None:
    """Install packages with apt-get, and remember the names of all that come with them.

    Raises
    ------
    HostError
        When apt-get fails; the text has the end of its output.
    """
    options = ["--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    apt = ["apt-get"] if is_root() or not is_disposable() else ["sudo", "--non-interactive", "apt-get"]
    command = [*apt, "install", *options, *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": _PATH}
    with step(f"apt-get install {' '.join(packages)}"):
        # Only where it is needed: a fresh system has no package lists yet, an old one lists what is gone.
        if _note_packages(command, environment) or _run(command, environment).returncode:
            _run([*apt, "update"], environment)
            _note_packages(command, environment)
            done = _run(command, environment)
            if done.returncode:
                tail = "\n".join(done.stdout.splitlines()[-25:])
                raise HostError(f"`{shlex.join(command)}` failed:\n{tail}")


def _note_packages(command: Sequence[str], environment: dict[str, str]) -> int:
    """Keep the names of all packages that this will install, before it does; return the exit status of the trial."""
    trial = _run([*command, "--simulate"], environment)
    changes = Changes.load()
    new = [line.split()[1] for line in trial.stdout.splitlines() if line.startswith("Inst ")]
    changes.packages = sorted({*changes.packages, *new})
    changes.save()
    return trial.returncode


def undo() -> None:
    """Name the packages that we installed. They stay, because others may use them by now."""
    if packages := Changes.load().packages:
        say("these packages were installed by the harness and stay; to remove them:")
        say(f"    sudo apt-get remove --purge {' '.join(packages)}")


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
