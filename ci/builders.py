"""Makes the images that cibuildwheel builds in where no image registry answers: Debian's compiler and Python.

They stand where the official images have what cibuildwheel looks for. Wheels built in them need Debian's C library,
which their tags say: they show that the release way works and that another compiler gives the same bits.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ci import containers, images, rootfs
from ci.engine import Engine
from ci.platforms import Images, Platform
from ci.progress import step

_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# Raise it when this file makes other images from the same facts.
_RECIPE = 1

_TOOLS = "/opt/constann"  # where ci/in_container.sh looks for what finishes wheels

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
        _requirements(facts, "x86_64"),
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    ]
    return f"{images.REPOSITORY}/cibuildwheel-{platform.name}:py{python}-{images.digest_of(made_from)}"


def _requirements(facts: Images, architecture: str) -> list[str]:
    """Return what finishes a wheel, as pyproject.toml pins it, for a machine that need not be this one."""
    group = tomllib.loads(_PROJECT.read_text())["dependency-groups"]["finish"]
    wanted = [
        each for each in group if f"platform_machine == '{architecture}'" in each or "platform_machine" not in each
    ]
    return [f"pip=={facts.pip}", *(each.partition(";")[0].strip() for each in wanted)]


def _add_tools(workshop: images.Workshop, platform: Platform, base: str, name: str) -> None:
    engine, target = workshop.engine, f"/builder/{platform.name}"
    abi = f"cp{workshop.python.replace('.', '')}"
    place = f"/opt/python/{abi}-{abi}"
    with containers.container(engine, base, platform.container.platform, start=False) as made:
        images.add_environment(
            workshop, platform, target, place, [f"pip=={workshop.images.pip}", "build==1.6.1", "virtualenv"]
        )
        requirements = _requirements(workshop.images, platform.architecture)
        images.add_environment(workshop, platform, target, _TOOLS, requirements)
        # cibuildwheel starts its own questions with the oldest Python of the official images.
        workshop.do(platform.name, ["ln", "-s", f"{abi}-{abi}", f"{target}/opt/python/cp39-cp39"])
        # The package's own script would have made the link, and scripts are not run.
        workshop.do(platform.name, ["ln", "-s", "/usr/bin/which.debianutils", f"{target}{place}/bin/which"])
        workshop.do(platform.name, ["python3", *images.compile_options(target), f"{target}/opt"])
        _write(workshop, f"{target}{place}/bin/pip", _PIP.format(python=f"{place}/bin/python"))
        containers.copy_between(workshop.made, f"{target}/opt", made, "/")
        repository, _, version = name.rpartition(":")
        made.commit(repository, version, changes=['CMD ["/bin/bash"]'])


def _write(workshop: images.Workshop, path: str, text: str) -> None:
    script: Any = ["sh", "-c", 'printf "%s" "$1" > "$2" && chmod 755 "$2"', "sh", text, path]
    workshop.do("pip", script)
