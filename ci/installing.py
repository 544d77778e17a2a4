"""Installs Constann as its users do, in containers: from wheels in an image, and from source with Debian's compiler.

examples/docker is built as it stands, native and emulated; what comes out must run on old CPUs and answer alike. Where
no image registry answers, the Python image is made from the distribution's packages.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from docker.errors import BuildError, DockerException

from ci import cache as kept
from ci import containers, foreign_programs, images, network
from ci.engine import Engine
from ci.machines import describe_status
from ci.platforms import Machine, Platform, load, load_images
from ci.progress import say, step

_EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "docker"
_PROGRAM = ["/app/neighbours.py", "/app/catalogue.constann"]
_ENVIRONMENT = "/opt/python"  # the virtual environment of the Python image
_PYTHON = f"{_ENVIRONMENT}/bin/python"
_EMULATED = "/opt/emulated"  # programs named like Python's, which start it under QEMU
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMPILING = ("Building wheel", "Running setup.py", "Preparing metadata (pyproject.toml)")
_BUILD_SECONDS, _RUN_SECONDS, _COMPILE_SECONDS = 900.0, 300.0, 3600.0


@dataclass(frozen=True)
class Variant:
    """One way to build the example: for a platform, and with all of its Python under QEMU or not."""

    platform: Platform
    emulated: bool

    @property
    def name(self) -> str:
        """Return what to call it."""
        return f"{self.platform.container.platform}{' under QEMU, CPU max' if self.emulated else ''}"


def variants(engine: Engine) -> list[Variant]:
    """Return the ways that this engine can build: each platform as the engine runs it, and its own under QEMU too."""
    known = load().values()
    own = [each for each in known if each.architecture == engine.architecture]
    return [*(Variant(each, False) for each in own), *(Variant(each, True) for each in own)] + [
        Variant(each, False) for each in known if each not in own
    ]


def check_docker_example(
    engine: Engine, prepared: Mapping[str, str], wheels: Mapping[str, Path], answers: dict[str, str]
) -> list[str]:
    """Build the example in every way and run each image on old CPUs; return what is wrong, nothing if all is well.

    Parameters
    ----------
    engine, prepared
        From `ci.engine.running` and `ci.images.prepare`.
    wheels
        By the platform's name, all for the Python of those images.
    answers
        Is given what each said, for `differences`.
    """
    problems: list[str] = []
    facts = load_images()
    with ExitStack() as stack:
        bases = images.bases(engine, list(load().values()), facts.python, facts)
        for variant in variants(engine):
            stack.enter_context(foreign_programs.runnable(engine, variant.platform, bases[variant.platform.name]))
            try:
                base = stack.enter_context(_python_image(engine, variant, bases[variant.platform.name], prepared))
                built = stack.enter_context(_built(engine, variant, base, wheels[variant.platform.name]))
                problems += _run_everywhere(engine, variant, built, prepared, answers)
            except InstallError as error:
                problems.append(f"{variant.name}: {error}")
    return problems


def check_source_build(
    engine: Engine, platform: Platform, sdist: Path, answers: dict[str, str], *, kept_too: bool = False
) -> list[str]:
    """Install the sdist with pip and Debian's g++ on a platform, and use it; return what is wrong.

    Parameters
    ----------
    engine, answers
        As for `check_docker_example`.
    platform, sdist
        Where, and what.
    kept_too
        Take the answer where the same was installed before: compiling takes ten minutes where it is emulated.
    """
    facts = load_images()
    compiling = replace(facts, packages=(*facts.packages, "g++", "python3-dev"))
    base = images.bases(engine, [platform], facts.python, compiling)[platform.name]
    row = f"{Variant(platform, False).name}, from source"
    program = _EXAMPLE / "neighbours.py"
    place = kept.folder("from-source") / f"{kept.name_for([kept.digest_of([sdist, program]), base])}.json"
    if kept_too and place.exists():
        answers[row] = place.read_text()
        say(f"{row}: {_shown(answers[row])}, installed before, from the same")
        return []
    try:
        with (
            foreign_programs.runnable(engine, platform, base),
            containers.container(engine, base, platform.container.platform, network_mode="host") as made,
        ):
            answers[row] = _install_from_source(engine, made, sdist, program, row)
    except (InstallError, DockerException) as error:
        return [f"{row}: {error}"]
    say(f"{row}: {_shown(answers[row])}")
    with kept.whole(place) as file:
        file.write_text(answers[row])
    return []


def _install_from_source(engine: Engine, made: Any, sdist: Path, program: Path, row: str) -> str:
    """Let pip compile the sdist in a container, and return what the example says there."""
    variables = _make_environment(engine, made)
    _do(engine, made, ["/bin/sh", "-c", f"command -v g++ || {_GET_COMPILER}"], variables, _BUILD_SECONDS)
    containers.copy_in(made, sdist, "/tmp", sdist.name)
    pip = [_PYTHON, "-m", "pip", "install", "--no-binary", "constann", "--prefer-binary", f"/tmp/{sdist.name}"]
    with step(f"{row}: pip install --no-binary constann {sdist.name}"):
        _do(engine, made, pip, variables, _COMPILE_SECONDS)
    containers.copy_in(made, program, "/tmp", program.name)
    return _do(engine, made, [_PYTHON, f"/tmp/{program.name}", "/tmp/catalogue.constann"], {}, _RUN_SECONDS)


class InstallError(RuntimeError):
    """Something that users do did not work; the text says what and what it printed."""


_GET_COMPILER = "(apt-get update && apt-get install --yes --no-install-recommends g++)"


@contextmanager
def _python_image(engine: Engine, variant: Variant, base: str, prepared: Mapping[str, str]) -> Iterator[str]:
    """Make what the official image is to users: `python` and `pip` on the PATH; and tell it this computer's indexes."""
    platform = variant.platform.container.platform
    with (
        step(f"{variant.name}: a Python image"),
        containers.container(engine, base, platform, network_mode="host") as made,
    ):
        variables = _make_environment(engine, made)
        path = f"{_ENVIRONMENT}/bin:{_PATH}"
        if variant.emulated:
            with containers.container(engine, prepared[variant.platform.name], platform, start=False) as source:
                containers.copy_between(source, str(Path(images.EMULATOR).parent), made, "/")
            _write_emulated(made)
            path = f"{_EMULATED}:{path}"
        changes = [f"ENV {name}={json.dumps(value)}" for name, value in {**variables, "PATH": path}.items()]
        repository = f"{images.REPOSITORY}/example-python"
        made.commit(repository, made.id[:12], changes=changes)
        name = f"{repository}:{made.id[:12]}"
    try:
        yield name
    finally:
        with suppress(DockerException):
            engine.client.images.remove(name, force=True)


def _make_environment(engine: Engine, made: Any) -> dict[str, str]:
    """Make the virtual environment, and return the variables with which pip in it reaches this computer's indexes."""
    settings = network.pip_settings()
    variables = network.pip_environment(os.environ, settings)
    if bundle := network.certificates(os.environ, settings):
        containers.copy_in(made, bundle, "/etc", "certificates.pem")
        variables |= dict.fromkeys(network.BUNDLE_VARIABLES, "/etc/certificates.pem")
    _do(engine, made, ["python3", "-m", "venv", _ENVIRONMENT], {}, _BUILD_SECONDS)
    return {**variables, "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _write_emulated(made: Any) -> None:
    """Put programs before Python's own that start it under QEMU: the kernel would start it natively."""
    with tempfile.TemporaryDirectory() as work:
        for name, words in (("python", '"$@"'), ("pip", '-m pip "$@"')):
            script = Path(work, name)
            script.write_text(f"#!/bin/sh\nexec {images.EMULATOR} -cpu max {_PYTHON} {words}\n")
            containers.copy_in(made, script, "/", f"{_EMULATED}/{name}".lstrip("/"), mode=0o755)


@contextmanager
def _built(engine: Engine, variant: Variant, base: str, wheel: Path) -> Iterator[str]:
    """Build the example's Dockerfile on this Python image, and see that nothing was compiled."""
    name = base.replace("example-python", "example")
    with tempfile.TemporaryDirectory(prefix="constann-example-") as work:
        context = Path(work, "docker")
        shutil.copytree(_EXAMPLE, context, ignore=shutil.ignore_patterns("wheels"))
        (context / "wheels").mkdir()
        shutil.copyfile(wheel, context / "wheels" / wheel.name)
        try:
            with step(f"{variant.name}: docker build"):
                _, lines = engine.client.images.build(
                    path=str(context),
                    tag=name,
                    platform=variant.platform.container.platform,
                    buildargs={"PYTHON_IMAGE": base},
                    network_mode="host",
                    nocache=True,
                    rm=True,
                    forcerm=True,
                )
        except BuildError as error:
            log = "".join(str(line.get("stream", "")) for line in error.build_log)
            raise InstallError(f"docker build: {error}\n{log[-2000:]}") from None
    log = "".join(str(line.get("stream", "")) for line in lines if isinstance(line, dict))
    try:
        if word := compiled(log):
            raise InstallError(f"docker build compiled something: {word!r} is in its log")
        yield name
    finally:
        with suppress(DockerException):
            engine.client.images.remove(name, force=True)


def compiled(log: str) -> str | None:
    """Return what in pip's output shows that it built a package from source; None if nothing does."""
    return next((word for word in _COMPILING if word in log), None)


def _run_everywhere(
    engine: Engine, variant: Variant, image: str, prepared: Mapping[str, str], answers: dict[str, str]
) -> list[str]:
    """Run the image as it is, and on each CPU model; keep the answers by what gave them."""
    problems = []
    platform = variant.platform
    with (
        containers.container(engine, prepared[platform.name], platform.container.platform, start=False) as source,
        containers.container(engine, image, platform.container.platform, start=False, network_mode="none") as made,
    ):
        containers.copy_between(source, str(Path(images.EMULATOR).parent), made, "/")
        made.start()
        who = _do(engine, made, ["python", "-c", "print(open('/proc/self/comm').read())"], {}, _RUN_SECONDS).strip()
        foreign = platform.architecture != engine.architecture
        if not foreign and variant.emulated != (who == Path(images.EMULATOR).name):
            problems.append(f"{variant.name}: its Python is run by {who}")
        for name, command in {"": ["python"], **_models(platform)}.items():
            row = f"{variant.name}{f', run on {name}' if name else ''}"
            try:
                with step(row):
                    answers[row] = _do(engine, made, [*command, *_PROGRAM], {}, _RUN_SECONDS)
                say(f"{row}: {_shown(answers[row])}")
            except InstallError as error:
                problems.append(f"{row}: {error}")
    return problems


def _models(platform: Platform) -> dict[str, list[str]]:
    """Return how Python is started on each CPU model of the platform's machines, the reference kernels left out."""
    rows: list[Machine] = [each for each in platform.machines if each.model and not each.forced]
    return {each.name: [images.EMULATOR, "-cpu", str(each.model), _PYTHON] for each in rows}


def differences(answers: Mapping[str, str]) -> list[str]:
    """Compare all answers but for the kernels that gave them."""
    if not answers:
        return ["the example ran nowhere"]
    parsed = {}
    problems = []
    for row, text in answers.items():
        try:
            parsed[row] = {key: value for key, value in json.loads(text).items() if key != "kernels"}
        except ValueError:
            problems.append(f"{row}: no answer, but {text!r}")
    first = next(iter(parsed), "")
    return problems + [f"{row} answers differently than {first}" for row in parsed if parsed[row] != parsed[first]]


def _shown(answer: str) -> str:
    try:
        found = json.loads(answer)
        return f"{found['fingerprint'][:16]}, kernels {found['kernels']}"
    except (ValueError, KeyError):
        return answer.strip()


def _do(engine: Engine, made: Any, command: list[str], environment: Mapping[str, str], timeout: float) -> str:
    done = containers.execute(engine, made, command, timeout=timeout, environment=environment)
    if done.exit_status != 0:
        how = f"no end in {timeout:g} s" if done.exit_status is None else describe_status(done.exit_status)
        tail = "\n".join(f"{done.output}{done.errors}".splitlines()[-20:])
        raise InstallError(f"`{' '.join(command)}`: {how}\n{tail}")
    return done.output
