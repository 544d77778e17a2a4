"""Makes the images that cibuildwheel builds in where no image registry answers: Debian's compiler and Python.

They stand where the official images have what cibuildwheel looks for, and hold every package that a build and its
test install: builds in them need no network, which is slow and unsteady under emulation. Wheels built in them need
Debian's C library, which their tags say: they show that the release way works and that another compiler gives the same
bits.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from ci import cache, containers, images, rootfs
from ci.engine import Engine
from ci.platforms import Images, Platform
from ci.progress import step

_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# Raise it when this file makes other images from the same facts.
_RECIPE = 1

_TOOLS = "/opt/constann"  # where ci/in_container.sh looks for what finishes wheels
WHEELHOUSE = "/opt/wheelhouse"
_CONSTRAINTS = "/tmp/constraints.txt"

_PIP = """#!/bin/sh
exec {python} -m pip "$@"
"""


def prepare(engine: Engine, platforms: Sequence[Platform], facts: Images, python: str) -> dict[str, str]:
    """Make the missing images for one Python, and return each by the platform's name.

    Nothing is emulated: the packages of all of them are installed by a container of the engine's own architecture.
    """
    tags = {each.name: _tag(each, facts, python) for each in platforms}
    missing = [each for each in platforms if not images.exists(engine, tags[each.name])]
    if missing:
        own = images.own_platform(engine)
        packages = [*facts.packages, *facts.builder_packages]
        bases = images.together(lambda each: images.from_packages(engine, each, python, facts, packages), missing)
        base = bases.get(own.name) or images.from_packages(engine, own, python, facts, packages)
        with images.workshop(engine, own, base, python, facts) as workshop:
            for each in missing:
                with step(f"{each.name}: an image for cibuildwheel"):
                    _add_tools(workshop, each, bases[each.name], tags[each.name])
    return tags


def _tag(platform: Platform, facts: Images, python: str) -> str:
    made_from = [
        _RECIPE,
        rootfs.RECIPE,
        platform.debian_architecture,
        python,
        [*facts.packages, *facts.builder_packages],
        finishing(platform.architecture),
        installed_by_builds(),
        _constraints(python).read_text(),
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    ]
    return f"{images.REPOSITORY}/cibuildwheel-{platform.name}:py{python}-{cache.name_for(made_from)}"


def _groups() -> dict[str, list[str]]:
    """Return pyproject.toml's requirements: those of the build, and those of the dependency groups."""
    project = tomllib.loads(_PROJECT.read_text())
    written = project["dependency-groups"]

    def with_included(name: str) -> list[str]:
        included = (with_included(each["include-group"]) for each in written[name] if isinstance(each, dict))
        return [*(each for each in written[name] if isinstance(each, str)), *chain.from_iterable(included)]

    return {**{name: with_included(name) for name in written}, "build-system": project["build-system"]["requires"]}


def requirements(group: str, architecture: str) -> list[str]:
    """Return what a dependency group asks for on a Linux machine that need not be this one: pip would ask this one."""
    there = {"platform_machine": architecture, "sys_platform": "linux"}
    wanted = [Requirement(each) for each in _groups()[group]]
    asked = [each for each in wanted if each.marker is None or each.marker.evaluate({**there})]
    for each in asked:
        each.marker = None  # answered here
    return [str(each) for each in asked]


def finishing(architecture: str) -> list[str]:
    """Return what finishes a wheel, for such a machine."""
    return requirements("finish", architecture)


def installed_by_builds() -> list[str]:
    """Return what builds and their tests install: the build's requirements, numpy, and cibuildwheel's own."""
    groups = _groups()
    (numpy,) = [each for each in groups["harness"] if each.startswith("numpy==")]
    return [*groups["build-system"], *groups["cross"], numpy, "virtualenv"]


def _constraints(python: str) -> Path:
    """Return the file in which cibuildwheel pins what it installs itself."""
    found = files("cibuildwheel") / "resources" / f"constraints-python{python.replace('.', '')}.txt"
    return Path(str(found))


def _add_tools(workshop: images.Workshop, platform: Platform, base: str, name: str) -> None:
    engine, target = workshop.engine, f"/builder/{platform.name}"
    abi = f"cp{workshop.python.replace('.', '')}"
    place = f"/opt/python/{abi}-{abi}"
    with containers.container(engine, base, platform.container.platform, start=False) as made:
        images.add_environment(workshop, platform, target, place, [f"pip=={workshop.images.pip}", _build_frontend()])
        pip = f"pip=={workshop.images.pip}"
        images.add_environment(workshop, platform, target, _TOOLS, [pip, *finishing(platform.architecture)])
        _download(workshop, platform, f"{target}{WHEELHOUSE}")
        # cibuildwheel starts its own questions with the oldest Python of the official images.
        workshop.do(platform.name, ["ln", "-s", f"{abi}-{abi}", f"{target}/opt/python/cp39-cp39"])
        # The package's own script would have made the link, and scripts are not run.
        workshop.do(platform.name, ["ln", "-s", "/usr/bin/which.debianutils", f"{target}{place}/bin/which"])
        workshop.do(platform.name, ["python3", *images.compile_options(target), f"{target}/opt"])
        _write(workshop, f"{target}{place}/bin/pip", _PIP.format(python=f"{place}/bin/python"))
        containers.copy_between(workshop.made, f"{target}/opt", made, "/")
        repository, _, version = name.rpartition(":")
        made.commit(repository, version, changes=['CMD ["/bin/bash"]'])


def _build_frontend() -> str:
    (found,) = [each for each in _groups()["harness"] if each.startswith("build==")]
    return found


def _download(workshop: images.Workshop, platform: Platform, folder: str) -> None:
    containers.copy_in(workshop.made, _constraints(workshop.python), "/tmp", Path(_CONSTRAINTS).name)
    options = ["--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check", "--dest", folder]
    foreign = images.foreign_options(platform, workshop.python, workshop.images.glibc)
    pip = [f"{images.TOOL}/bin/python", "-m", "pip", "download", *options, *foreign, "--constraint", _CONSTRAINTS]
    workshop.do(platform.name, [*pip, *installed_by_builds()], workshop.pip_environment)


def _write(workshop: images.Workshop, path: str, text: str) -> None:
    script: Any = ["sh", "-c", 'printf "%s" "$1" > "$2" && chmod 755 "$2"', "sh", text, path]
    workshop.do("pip", script)
