"""Installs our wheels as on a system with glibc 2.17: pip must find all in wheels, and compile nothing.

pip is told of the old C library as its makers provide for (a module `_manylinux`); the library itself is the image's.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import containers, images
from ci.engine import Engine
from ci.platforms import Images, Platform, WheelKey
from ci.progress import say, step
from ci.wheel_file import glibc_of_tag

_SECONDS = 600.0
_OLD = "/tmp/old"
_INSTALLED = "/tmp/installed"

MANYLINUX = """
def manylinux_compatible(major, minor, architecture):
    return (major, minor) <= {glibc}
"""

_USE = """
import numpy, constann
rows = numpy.eye(16, dtype=numpy.float32)
ids, distances = constann.build(rows, "euclidean", kind="exact").search(rows, k=1)
assert ids[:, 0].tolist() == list(range(16)), ids
print(numpy.__version__)
"""

_FOUND = f"""
import importlib.metadata
(found,) = importlib.metadata.distributions(name="numpy", path=[{_INSTALLED!r}])
print(found.version)
"""


@dataclass(frozen=True)
class _System:
    """A container in which pip believes in an old C library."""

    engine: Engine
    made: Any
    program: str
    python: str
    environment: Mapping[str, str]

    def run(self, *arguments: str, **variables: str) -> containers.Done:
        """Run Python there."""
        environment = {**self.environment, "HOME": "/tmp", "PIP_ROOT_USER_ACTION": "ignore", **variables}
        command = [self.program, *arguments]
        return containers.execute(self.engine, self.made, command, timeout=_SECONDS, environment=environment)

    def install(self, wheel: Path, *options: str) -> containers.Done:
        """Install a wheel, with what it depends on from the usual index, and write pip's own report."""
        containers.copy_in(self.made, wheel, "/tmp", wheel.name)
        words = ["-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir", "--target", _INSTALLED]
        return self.run(*words, "--report", "/tmp/report.json", *options, f"/tmp/{wheel.name}", PYTHONPATH=_OLD)


def find_problems(
    engine: Engine,
    platforms: Sequence[Platform],
    facts: Images,
    prepared: Mapping[images.ImageKey, str],
    wheels: Mapping[WheelKey, Path],
) -> list[str]:
    """Install each wheel that was cross-compiled with `--prefer-binary`; return what went otherwise than promised.

    As a control, the same without that option must fail: pip then takes numpy's newest sources, and nothing there can
    compile them.
    """
    own = images.own_platform(engine)
    problems = []
    for platform in platforms:
        for python in (each for each in platform.pythons if (own.name, each) in prepared):
            wheel = wheels[WheelKey(platform.name, python)]
            with (
                step(f"{platform.name}: installing as on glibc 2.17, Python {python}"),
                _system(engine, own, python, prepared[own.name, python]) as system,
            ):
                foreign = platform if platform.name != own.name else None
                found = check_install(system, wheel, facts.oldest_system_numpy, foreign)
                problems += [f"{platform.name}, Python {python}: {problem}" for problem in found]
    python = own.pythons[0]
    with _system(engine, own, python, prepared[own.name, python]) as system:
        if system.install(wheels[WheelKey(own.name, python)]).exit_status == 0:
            problems.append("the control, an install without --prefer-binary, compiled or found nothing to compile")
        else:
            say("control, an install without --prefer-binary: fails, as it must where nothing can be compiled")
    return problems


@contextmanager
def _system(engine: Engine, platform: Platform, python: str, image: str) -> Iterator[_System]:
    program = images.venv_python(platform.numpy_versions(python)[-1])
    with images.online(engine, image, platform) as (made, environment):
        system = _System(engine, made, program, python, environment)
        text = MANYLINUX.format(glibc=glibc_of_tag(platform.wheel.tag))
        code = f"import os; os.mkdir({_OLD!r}); open({_OLD + '/_manylinux.py'!r}, 'w').write({text!r})"
        system.run("-c", code)
        yield system


def check_install(system: _System, wheel: Path, numpy: str, foreign: Platform | None) -> Iterator[str]:
    """Install one wheel and use it; give what went otherwise than promised.

    pip takes wheels for a foreign platform only if told to take nothing else, which comes to the same version; the
    rows of the matrix run it there.
    """
    compilers = system.run("-c", "import shutil; print(*filter(shutil.which, ('cc', 'gcc', 'g++', 'c++', 'clang')))")
    if compilers.output.strip():
        yield f"the image has a compiler ({compilers.output.strip()}), so nothing shows that none was used"
    options = ["--prefer-binary"]
    if foreign:
        glibc = ".".join(map(str, glibc_of_tag(foreign.wheel.tag)))
        options = ["--only-binary", ":all:", *images.foreign_options(foreign, system.python, glibc)]
    done = system.install(wheel, *options)
    if done.exit_status != 0:
        yield f"pip could not install {wheel.name} with {options[0]}:\n{done.errors.strip()}"
        return
    report = json.loads(system.run("-c", "print(open('/tmp/report.json').read())").output)
    for each in report["install"]:
        if not each["download_info"]["url"].endswith(".whl"):
            yield f"pip took sources: {each['download_info']['url']}"
    used = system.run("-c", _FOUND) if foreign else system.run("-c", _USE, PYTHONPATH=_INSTALLED)
    if used.exit_status != 0:
        yield f"what was installed does not work: {used.errors.strip()}"
    elif used.output.strip() != numpy:
        yield f"pip installed numpy {used.output.strip()}, but platforms/images.toml says {numpy} is the newest there"
