"""Prepares the container images that machines run: Python, and a virtual environment for each numpy that a row needs.

The Python is the official image's where an image registry answers, else a distribution's own, made with debootstrap.
An image is named by a hash of what platforms/ says of it and of the emulator in it: a change of these makes it anew,
nothing else does. What a registry or a mirror gave on that day is not in the hash.
"""

import concurrent.futures
import hashlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from docker.errors import DockerException, ImageNotFound
from packaging.tags import mac_platforms

from ci import cache, containers, host, network, rootfs
from ci import platforms as facts_of
from ci.engine import Engine
from ci.platforms import Images, Platform, Target
from ci.progress import say, step

REPOSITORY = "constann-ci"
EMULATOR = "/constann/qemu"  # in each image: a program of the engine's architecture that runs the image's own
INSTALLED = f"{REPOSITORY}/installed"  # images with a wheel in them, which live as long as one run
# Raise it when this file makes other images from the same facts.
_RECIPE = 4
_REGISTRY_SECONDS = 8.0
TOOL = "/opt/tool"

_T = TypeVar("_T")


class ImageError(RuntimeError):
    """An image could not be made; the text says at which step and what it printed."""


def venv_python(numpy: str) -> str:
    """Return the path, inside our images, of the Python that has this numpy version."""
    return f"/opt/venv-numpy-{numpy}/bin/python"


def tag(platform: Platform, python: str, images: Images, emulator: Path | None) -> str:
    """Return the name of the finished image, which changes with every fact that it is made from.

    `emulator` is the program of this computer that goes into it; None stands for the one of the distribution's package.
    """
    facts = [
        _RECIPE,
        rootfs.RECIPE,
        hashlib.sha256(emulator.read_bytes()).hexdigest() if emulator else "package",
        platform.container.platform,
        platform.container.image.format(python=python),
        platform.debian_architecture,
        platform.numpy_versions(python),
        python,
        images.packages,
        images.pip,
        images.glibc,
        asdict(release) if (release := images.release(python)) else None,
    ]
    return f"{REPOSITORY}/{platform.name}:py{python}-{cache.name_for(facts)}"


ImageKey = tuple[str, str]
"""A platform's name and a Python version."""


def prepare(
    engine: Engine, platforms: Sequence[Platform], images: Images, pythons: Sequence[str] | None = None
) -> dict[ImageKey, str]:
    """Make the missing images, and return the one for each platform and each Python that its machines have.

    Parameters
    ----------
    engine
        Where the images are wanted.
    platforms, images
        What platforms/ says.
    pythons
        Only these versions.
    """
    prepared: dict[ImageKey, str] = {}
    for python in pythons or sorted({python for platform in platforms for python in platform.pythons}):
        wanted = [platform for platform in platforms if python in platform.pythons]
        made = _prepare(engine, wanted, images, python)
        prepared |= {(name, python): image for name, image in made.items()}
    return prepared


def _prepare(engine: Engine, platforms: Sequence[Platform], images: Images, python: str) -> dict[str, str]:
    """Make the images with one Python, side by side."""
    own = own_platform(engine)
    tags = {each.name: tag(each, python, images, emulator_of(engine, each)) for each in platforms}
    if all(exists(engine, name) for name in tags.values()):
        return tags
    # Two runs at the same time must not do the same work twice.
    with cache.lock(cache.folder("images") / "prepare.lock"):
        missing = [platform for platform in platforms if not exists(engine, tags[platform.name])]
        if missing:
            say(f"preparing images with Python {python}: once, about 1 GB of disk and two or three minutes")
            made = bases(engine, [*{each.name: each for each in (own, *missing)}.values()], python, images)
            with workshop(engine, own, made[own.name], python, images) as tools:
                together(
                    lambda each: _add_environments(tools, each, made[each.name], tags[each.name]),
                    missing,
                    end=lambda: containers.remove(tools.made),
                )
    return tags


def emulator_of(engine: Engine, platform: Platform) -> Path | None:
    """Return this computer's QEMU for the platform, if the engine can run it: one elsewhere takes other programs."""
    program = host.program(platform.emulator.program) if engine.local else None
    return Path(program).resolve() if program else None


def own_platform(engine: Engine) -> Platform:
    """Return the platform of the engine itself."""
    for platform in facts_of.load().values():
        if platform.architecture == engine.architecture:
            return platform
    raise ImageError(f"the Docker engine is {engine.architecture}, which no file in platforms/ describes")


def bases(engine: Engine, platforms: Sequence[Platform], python: str, images: Images) -> dict[str, str]:
    """Return an image with Python alone for each platform: all of them official ones, or none."""
    if registry_answers(engine, platforms[0].container.image.format(python=python)):
        try:
            # One after the other: what the official name means changes with each pull.
            return {each.name: _pull(engine, each, python) for each in platforms}
        except (ImageError, DockerException, requests.RequestException) as error:
            say(
                f"the official images could not be had: {error}; they are made from the distribution's packages instead"
            )
    return together(lambda each: from_packages(engine, each, python, images, images.packages), platforms)


def together(
    work: Callable[[Platform], _T], platforms: Sequence[Platform], end: Callable[[], None] = lambda: None
) -> dict[str, _T]:
    """Do it for all platforms at the same time; return what came of it by the platform's name.

    After an error or Ctrl-C, `end` must make what runs fail: the pool waits for it.
    """
    with concurrent.futures.ThreadPoolExecutor(len(platforms)) as pool:
        runs = {each.name: pool.submit(work, each) for each in platforms}
        try:
            return {name: run.result() for name, run in runs.items()}
        except BaseException:
            end()
            raise


def remove_leftovers(engine: Engine) -> None:
    """Remove the images with a wheel in them that a killed run left behind."""
    for image in engine.client.images.list(filters={"label": containers.OWNER}):
        for name in image.tags:
            if name.startswith(INSTALLED) and containers.is_dead(image.labels[containers.OWNER]):
                engine.client.images.remove(name, force=True)


def remove(engine: Engine) -> int:
    """Remove every image of ours from the engine; return how many."""
    count = 0
    for image in engine.client.images.list():
        for name in image.tags:
            if name.startswith(f"{REPOSITORY}/"):
                engine.client.images.remove(name, force=True)
                count += 1
    return count


def exists(engine: Engine, name: str) -> bool:
    """Return whether the engine has an image of this name."""
    try:
        engine.client.images.get(name)
    except ImageNotFound:
        return False
    return True


def registry_answers(engine: Engine, reference: str) -> bool:
    """Ask the engine, quickly, whether it can see the official image; say why not."""
    api = engine.client.api
    try:
        # The engine itself would retry for minutes where packets are dropped.
        response = api.get(f"{api.base_url}/v{api._version}/distribution/{reference}/json", timeout=_REGISTRY_SECONDS)
        response.raise_for_status()
    except requests.RequestException as error:
        reason = error.response.text.strip() if error.response is not None else f"{type(error).__name__}: {error}"
        say(f"no image registry: {reference}: {reason}; images are made from the distribution's packages instead")
        return False
    return True


def _pull(engine: Engine, platform: Platform, python: str) -> str:
    """Pull the official image and return a name of ours for it."""
    reference = platform.container.image.format(python=python)
    with step(f"{platform.name}: pulling {reference}"):
        image = engine.client.images.pull(reference, platform=platform.container.platform)
    found, wanted = image.attrs["Architecture"], platform.container.platform.partition("/")[2]
    if found != wanted:
        raise ImageError(f"{platform.name}: {reference} was pulled for {wanted}, but the engine has it for {found}")
    name = f"{REPOSITORY}/official-{platform.name}"
    image.tag(name, tag=python)
    return f"{name}:{python}"


def from_packages(engine: Engine, platform: Platform, python: str, images: Images, packages: Sequence[str]) -> str:
    """Make an image of a distribution's release that has this Python, or load it from the cache."""
    release = images.release(python)
    if release is None:
        known = ", ".join(each.python for each in images.releases)
        raise ImageError(
            f"Python {python} is in no release that platforms/images.toml names (it has {known}), and no image "
            "registry answers: add a [[release]], or make a registry reachable"
        )
    digest = cache.name_for([rootfs.RECIPE, platform.debian_architecture, packages, asdict(release)])
    name = f"{REPOSITORY}/{release.suite}-{platform.name}:{digest}"
    if exists(engine, name):
        return name
    archive = cache.folder("images") / f"{release.suite}-{platform.debian_architecture}-{digest}.tar"
    if not archive.exists():
        rootfs.check(release)
        with step(f"{platform.name}: {release.suite} from its packages"), cache.whole(archive) as path:
            rootfs.make(path, platform, release, packages, name)
    with step(f"{platform.name}: loading {archive.name}"), archive.open("rb") as file:
        engine.client.images.load(file)
    return name


@dataclass(frozen=True)
class Workshop:
    """A container of the engine's own architecture, with the network, where all environments are put together.

    pip takes wheels for another platform as well as for its own, and bytecode is the same for all: nothing is emulated.
    """

    engine: Engine
    made: Any
    python: str
    images: Images
    pip_environment: Mapping[str, str]

    def do(self, what: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Run one command; an error tells what it was for."""
        return _do(self.engine, self.made, what, command, environment)


@contextmanager
def online(engine: Engine, image: str, platform: Platform) -> Iterator[tuple[Any, dict[str, str]]]:
    """Give a container with this computer's network, and the variables by which pip there reaches the same indexes."""
    settings = network.pip_settings()
    environment = network.pip_environment(os.environ, settings)
    bundle = network.certificates(os.environ, settings)
    with containers.container(engine, image, platform.container.platform, network_mode="host") as made:
        if bundle:
            containers.copy_in(made, bundle, "/tmp", "certificates.pem")
            environment |= dict.fromkeys(network.BUNDLE_VARIABLES, "/tmp/certificates.pem")
        yield made, environment


@contextmanager
def workshop(engine: Engine, platform: Platform, base: str, python: str, images: Images) -> Iterator[Workshop]:
    """Give a workshop in this image, with the network of this computer."""
    with online(engine, base, platform) as (made, environment):
        workshop = Workshop(engine, made, python, images, environment)
        with step("pip for all images"):
            workshop.do("pip", ["python3", "-m", "venv", TOOL])
        yield workshop


def _add_environments(workshop: Workshop, platform: Platform, base: str, name: str) -> None:
    """Add compiled bytecode and an environment for each numpy version, and give the image its final name."""
    engine, target = workshop.engine, f"/target/{platform.name}"
    with (
        step(f"{platform.name}: environments with numpy {' and '.join(platform.numpy_versions(workshop.python))}"),
        containers.container(engine, base, platform.container.platform, start=False) as made,
    ):
        _add_emulator(workshop, platform, made, target)
        _compile_library(workshop, platform, made, target)
        for version in platform.numpy_versions(workshop.python):
            folder = str(Path(venv_python(version)).parent.parent)
            add_environment(workshop, platform, target, folder, [f"numpy=={version}", f"pip=={workshop.images.pip}"])
        workshop.do(platform.name, ["python3", *compile_options(target), f"{target}/opt"])
        containers.copy_between(workshop.made, f"{target}/opt", made, "/")
        repository, _, version_tag = name.rpartition(":")
        made.commit(repository, version_tag, changes=['CMD ["python3"]'])


def add_environment(
    workshop: Workshop, platform: Platform, target: str, folder: str, requirements: Sequence[str]
) -> None:
    """Make a virtual environment of another platform, with these packages, to be copied from below `target`."""
    workshop.do(platform.name, ["python3", "-m", "venv", "--without-pip", f"{target}{folder}"])
    packages = f"{target}{folder}/lib/python{workshop.python}/site-packages"
    options = ["--only-binary", ":all:", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    foreign = foreign_options(platform, workshop.python, workshop.images.glibc)
    pip = [f"{TOOL}/bin/python", "-m", "pip", "install", *options, *foreign, "--target", packages, *requirements]
    workshop.do(platform.name, pip, workshop.pip_environment)


def _add_emulator(workshop: Workshop, platform: Platform, made: Any, target: str) -> None:
    """Put QEMU into the image: machines then run on any engine, whatever its kernel knows of foreign programs."""
    if program := emulator_of(workshop.engine, platform):
        containers.copy_in(made, program, "/", EMULATOR.lstrip("/"), mode=0o755)
        return
    # The package is the image's own distribution's: official images have a working apt.
    install = "apt-get update && apt-get install --yes --no-install-recommends qemu-user-static"
    # Newer releases link the plain name statically.
    program_name = platform.emulator.program
    found = f"$(command -v {program_name} || command -v {program_name.removesuffix('-static')})"
    copy = f"mkdir --parents {target}/constann && cp --dereference {found} {target}{EMULATOR}"
    workshop.do(platform.name, ["flock", "/tmp", "sh", "-c", f"{install} && {copy}"], workshop.pip_environment)
    containers.copy_between(workshop.made, f"{target}/constann", made, "/")


def _compile_library(workshop: Workshop, platform: Platform, made: Any, target: str) -> None:
    """Compile the standard library, which neither image brings compiled: an emulated start would take seconds."""
    question = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = workshop.do(platform.name, ["python3", "-c", question]).strip()  # the same place in all these images
    parent = str(Path(library).parent)
    workshop.do(platform.name, ["mkdir", "--parents", f"{target}{parent}"])
    containers.copy_between(made, library, workshop.made, f"{target}{parent}")
    workshop.do(platform.name, ["python3", *compile_options(target), f"{target}{library}"])
    containers.copy_between(workshop.made, f"{target}{library}", made, parent)


def compile_options(target: str) -> list[str]:
    """Return how `python` compiles what lies below `target`, and will lie elsewhere; packages' tests it leaves out."""
    return ["-m", "compileall", "-q", "-j", "0", "-x", "/tests/", "-s", target, "-p", "/"]


def foreign_options(target: Target, python: str, glibc: str) -> list[str]:
    """Return pip's options for another platform: it wants each tag by name, also of the older systems that fit."""
    system, _, _ = target.wheel.tag.partition("_")
    if system == "macosx":
        tags = list(mac_platforms((15, 0), target.architecture))
    elif system == "musllinux":
        tags = [f"musllinux_1_{minor}_{target.architecture}" for minor in (2, 1)]
    else:
        tags = [f"manylinux_2_{minor}_{target.architecture}" for minor in range(int(glibc.rpartition(".")[2]), 16, -1)]
        tags.append(f"manylinux2014_{target.architecture}")
    options = ["--implementation", "cp", "--python-version", python]
    return options + [word for tag in tags for word in ("--platform", tag)]


def _do(
    engine: Engine, made: Any, what: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> str:
    done = containers.execute(engine, made, command, timeout=900, environment=environment)
    if done.exit_status != 0:
        status = "no end in 900 s" if done.exit_status is None else f"exit status {done.exit_status}"
        tail = "\n".join(f"{done.output}{done.errors}".splitlines()[-20:])
        raise ImageError(f"{what}: `{shlex.join(command)}`: {status}\n{tail}")
    return done.output
