"""Asks pip, uv and Poetry what they would install from an index page of our wheels, for each platform, on any machine.

Nothing foreign runs, and our own package is looked for in that page alone: a namesake elsewhere with a higher version
would win.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from packaging.utils import parse_wheel_filename

from ci import images, index_page, network
from ci.platforms import Target, load_images, load_targets
from ci.progress import step

# What one lock file must be good for, in the markers that both uv and Poetry understand.
ENVIRONMENTS = (
    "sys_platform == 'linux' and platform_machine == 'x86_64'",
    "sys_platform == 'linux' and platform_machine == 'aarch64'",
    "sys_platform == 'darwin' and platform_machine == 'arm64'",
)
_SECONDS = 300
_Lock = Callable[[Path, str, str, str, str], dict[str, str]]
_UV_PROJECT = """\
[project]
name = "catalogue"
version = "1"
requires-python = ">={python}"
dependencies = ["{project}=={version}"]

[tool.uv]
required-environments = {environments}

[[tool.uv.index]]
name = "wheels"
url = "{url}"
explicit = true

[tool.uv.sources]
{project} = {{ index = "wheels" }}
"""
_POETRY_PROJECT = """\
[project]
name = "catalogue"
version = "1"
requires-python = ">={python}"
dependencies = ["{project} (=={version})"]

[tool.poetry]
package-mode = false

[[tool.poetry.source]]
name = "wheels"
url = "{url}"
priority = "explicit"

# All else: an index by its pages, which mirrors have too, unlike PyPI's own interface.
[[tool.poetry.source]]
name = "packages"
url = "{packages}"
priority = "primary"

[tool.poetry.dependencies]
{project} = {{ source = "wheels" }}
"""


class ResolverError(RuntimeError):
    """A resolver refused; the text is what it printed."""


def check_resolvers(wheels: Sequence[Path]) -> list[str]:
    """Ask every resolver for every platform; return what is wrong, nothing if all is well.

    Parameters
    ----------
    wheels
        Those of one release of one project, for all platforms.
    """
    problems: list[str] = []
    project, version, pythons = _identity(wheels)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    with tempfile.TemporaryDirectory(prefix="constann-index-") as work:
        index_page.make_index(wheels, Path(work, "simple"))
        with index_page.serving(Path(work, "simple")) as url:
            for target in load_targets().values():
                for python in pythons:
                    with step(f"pip for {target.name}, Python {python}"):
                        problems += _check_pip(target, python, f"{project}=={version}", url, digests)
            for name, lock in (("uv", uv_lock), ("poetry", poetry_lock)):
                folder = Path(work, name)
                folder.mkdir()
                with step(f"{name} lock"):
                    problems += _check_lock(name, lock, folder, (url, project, version, pythons[0]), digests)
    return problems


def _identity(wheels: Iterable[Path]) -> tuple[str, str, list[str]]:
    """Return the project, its version, and the Pythons that there are wheels for."""
    parsed = [parse_wheel_filename(path.name) for path in wheels]
    if len({(name, version) for name, version, _, _ in parsed}) != 1:
        raise ResolverError("these are not the wheels of one release of one project")
    tags = {tag.interpreter for _, _, _, tags in parsed for tag in tags}
    return parsed[0][0], str(parsed[0][1]), [f"3.{minor}" for minor in sorted(int(tag[3:]) for tag in tags)]


def _check_pip(target: Target, python: str, wanted: str, url: str, digests: Mapping[str, str]) -> list[str]:
    try:
        name, digest = pip_choice(target, python, wanted, url)
    except ResolverError as error:
        return [f"{target.name}: pip finds no wheel for Python {python}: {error}"]
    return [] if digests.get(name) == digest else [f"{target.name}: pip would install another {name}: {digest}"]


def _check_lock(
    name: str, lock: _Lock, folder: Path, what: tuple[str, str, str, str], digests: Mapping[str, str]
) -> list[str]:
    try:
        found = lock(folder, *what)
    except ResolverError as error:
        return [f"{name} makes no lock file for all of {', '.join(ENVIRONMENTS)}: {error}"]
    return [] if found == digests else [f"{name}'s lock file lists {found}, but the wheels are {dict(digests)}"]


def pip_choice(target: Target, python: str, wanted: str, url: str) -> tuple[str, str]:
    """Return the file that pip would install on a platform, and the digest it found for it."""
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:", "--quiet", "--report", "-"]
    foreign = images.foreign_options(target, python, load_images().glibc)
    with tempfile.TemporaryDirectory() as never_written:
        # Isolated: an index or a folder that this computer's settings add could have a namesake.
        pip = [sys.executable, "-P", "-m", "pip", "--isolated", "install", *options, *foreign]
        report = json.loads(
            _run([*pip, "--target", never_written, "--index-url", url, wanted], {}, Path(never_written))
        )
    (chosen,) = report["install"]
    information = chosen["download_info"]
    return information["url"].rpartition("/")[2], information["archive_info"]["hashes"]["sha256"]


def uv_lock(folder: Path, url: str, project: str, version: str, python: str) -> dict[str, str]:
    """Lock a project that needs ours with uv, and return the digests in the lock file by the files' names."""
    environments = json.dumps(ENVIRONMENTS)
    text = _UV_PROJECT.format(url=url, project=project, version=version, python=python, environments=environments)
    (folder / "pyproject.toml").write_text(text)
    settings = {
        "UV_CACHE_DIR": str(folder / "cache"),
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_DEFAULT_INDEX": _package_index(),
    }
    _run([*_module("uv"), "lock", "--quiet"], settings, folder)
    package = _locked(folder / "uv.lock", project)
    return {file["url"].rpartition("/")[2]: file["hash"].removeprefix("sha256:") for file in package["wheels"]}


def poetry_lock(folder: Path, url: str, project: str, version: str, python: str) -> dict[str, str]:
    """Lock the same project with Poetry."""
    text = _POETRY_PROJECT.format(url=url, project=project, version=version, python=python, packages=_package_index())
    (folder / "pyproject.toml").write_text(text)
    settings = {
        "POETRY_CACHE_DIR": str(folder / "cache"),
        "POETRY_CONFIG_DIR": str(folder / "configuration"),
        "POETRY_VIRTUALENVS_CREATE": "false",
        "POETRY_KEYRING_ENABLED": "false",
    }
    _run([*_module("poetry"), "lock", "--no-interaction", "--no-ansi"], settings, folder)
    package = _locked(folder / "poetry.lock", project)
    return {file["file"]: file["hash"].removeprefix("sha256:") for file in package["files"]}


def _package_index() -> str:
    """Return where this computer's pip finds what we need of others."""
    return network.pip_environment(os.environ, network.pip_settings()).get("PIP_INDEX_URL", "https://pypi.org/simple/")


def _module(name: str) -> list[str]:
    if importlib.util.find_spec(name) is None:
        raise ResolverError(f"{name} is not installed: `pip install --group harness` brings it")
    return [sys.executable, "-P", "-m", name]


def _locked(path: Path, project: str) -> dict[str, list[dict[str, str]]]:
    (package,) = (each for each in tomllib.loads(path.read_text())["package"] if each["name"] == project)
    found: dict[str, list[dict[str, str]]] = package
    return found


def _run(command: Sequence[str], settings: Mapping[str, str], folder: Path) -> str:
    """Run a resolver in a folder of its own; loopback goes through no proxy."""
    around = ",".join(filter(None, ["127.0.0.1", os.environ.get("NO_PROXY") or os.environ.get("no_proxy")]))
    environment = {**os.environ, **settings, "NO_PROXY": around, "no_proxy": around}
    try:
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ResolverError(f"no end in {_SECONDS} s") from None
    if done.returncode != 0:
        raise ResolverError((done.stderr or done.stdout).strip())
    return done.stdout
