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


@dataclass(frozen=True)
class _System:
    """A container in which pip believes in an old C library."""

    engine: Engine
    made: Any
    python: list[str]
    environment: Mapping[str, str]

    def run(self, *arguments: str, **variables: str) -> containers.Done:
        """Run Python there."""
        environment = {**self.environment, "HOME": "/tmp", "PIP_ROOT_USER_ACTION": "ignore", **variables}
        command = [*self.python, *arguments]
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
    problems = []
    for platform in platforms:
        for python in (each for each in platform.pythons if (platform.name, each) in prepared):
            wheel = wheels[WheelKey(platform.name, python)]
            with (
                step(f"{platform.name}: installing as on glibc 2.17, Python {python}"),
                _system(engine, platform, python, prepared[platform.name, python]) as system,
            ):
                found = check_install(system, wheel, facts.oldest_system_numpy)
                problems += [f"{platform.name}, Python {python}: {problem}" for problem in found]
    native = next((each for each in platforms if each.architecture == engine.architecture), None)
    if native is not None:
        python = native.pythons[0]
        with _system(engine, native, python, prepared[native.name, python]) as system:
            if system.install(wheels[WheelKey(native.name, python)]).exit_status == 0:
                problems.append("the control, an install without --prefer-binary, compiled or found nothing to compile")
            else:
                say("control, an install without --prefer-binary: fails, as it must where nothing can be compiled")
    return problems


@contextmanager
def _system(engine: Engine, platform: Platform, python: str, image: str) -> Iterator[_System]:
    foreign = platform.architecture != engine.architecture
    program = images.venv_python(platform.numpy_versions(python)[-1])
    emulator = images.EMULATOR if foreign else None
    with images.online(engine, image, platform, emulator) as (made, environment):
        system = _System(engine, made, [emulator, program] if emulator else [program], environment)
        text = MANYLINUX.format(glibc=glibc_of_tag(platform.wheel.tag))
        code = f"import os; os.mkdir({_OLD!r}); open({_OLD + '/_manylinux.py'!r}, 'w').write({text!r})"
        system.run("-c", code)
        yield system


def check_install(system: _System, wheel: Path, numpy: str) -> Iterator[str]:
    """Install one wheel and use it; give what went otherwise than promised."""
    compilers = system.run("-c", "import shutil; print(*filter(shutil.which, ('cc', 'gcc', 'g++', 'c++', 'clang')))")
    if compilers.output.strip():
        yield f"the image has a compiler ({compilers.output.strip()}), so nothing shows that none was used"
    done = system.install(wheel, "--prefer-binary")
    if done.exit_status != 0:
        yield f"pip could not install {wheel.name} with --prefer-binary:\n{done.errors.strip()}"
        return
    report = json.loads(system.run("-c", "print(open('/tmp/report.json').read())").output)
    for each in report["install"]:
        if not each["download_info"]["url"].endswith(".whl"):
            yield f"pip took sources: {each['download_info']['url']}"
    used = system.run("-c", _USE, PYTHONPATH=_INSTALLED)
    if used.exit_status != 0:
        yield f"what was installed does not work: {used.errors.strip()}"
    elif used.output.strip() != numpy:
        yield f"pip installed numpy {used.output.strip()}, but platforms/images.toml says {numpy} is the newest there"
