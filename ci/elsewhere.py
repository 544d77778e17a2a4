"""Builds a platform's wheel on that platform itself, in a container, with the harness and the ziglang used here.

Only to be compared with the cross-compiled one: releases are not built here. What is compiled once (zig's libraries,
the build's environment) stays in a folder of the cache, since emulated it takes most of the time.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ci import builders, containers, engine, foreign_programs, host, images, network, python_headers
from ci import cache as kept
from ci.platforms import Platform, load, load_images
from ci.progress import say, step
from ci.wheel_file import WheelError, abi_of

_PYTHON = "/opt/python/{abi}-{abi}/bin/python"  # of the images for cibuildwheel
_SECONDS = 3600.0
_SOURCE, _CACHE, _OUTPUT = "/elsewhere/source", "/elsewhere/cache", "/elsewhere/dist"
_CERTIFICATES = "/elsewhere/certificates.pem"


def build(platform: Platform, source: Path, output: Path, *, date: str) -> None:
    """Build the wheel of a source folder in the platform's container, and put it into a folder of this computer.

    Raises
    ------
    WheelError
        When a step fails, or where this computer cannot run the platform's programs.
    """
    facts = load_images()
    every = list(load().values())
    with engine.running(every) as found:
        # Such as cibuildwheel builds in: it has binutils, which the machines lack.
        prepared = builders.prepare(found, [platform], facts, facts.python)[platform.name]
        with (
            # A compiler is many programs, each of which the kernel must start by itself.
            foreign_programs.runnable(found, platform, prepared),
            containers.container(found, prepared, platform.container.platform, **_start(found, platform)) as made,
        ):
            python = _PYTHON.format(abi=f"cp{abi_of(facts.python)}")
            with step(f"{platform.name}: the harness and its ziglang, from PyPI's wheels for it"):
                _add_harness(made, platform, Path(python).parent.parent / "lib" / f"python{facts.python}")
            environment = _add_sources(made, source, facts.python)
            say(f"{platform.name}: building in the container, minutes, and many where it is emulated")
            words = ["wheels", "--platform", platform.name, "--python", facts.python, "--output", _OUTPUT]
            done = containers.execute(
                found,
                made,
                ["sh", "-c", f'cd {_SOURCE} && exec {python} -B -m ci "$@"', "sh", *words],
                timeout=_SECONDS,
                environment={**environment, "SOURCE_DATE_EPOCH": date},
            )
            if done.exit_status != 0:
                why = f"no end in {_SECONDS:g} s" if done.exit_status is None else f"exit status {done.exit_status}"
                raise WheelError(f"{platform.name}: the build in the container: {why}\n{done.output}{done.errors}")
            say(f"{platform.name}: built in the container in {done.seconds:.0f} s")
            _fetch(made, output)


def _start(found: engine.Engine, platform: Platform) -> dict[str, Any]:
    options: dict[str, Any] = {"network_mode": "host"}
    if found.local and host.is_root() and not (found.rootless or found.remaps_users):  # what is written there is root's
        options["volumes"] = {str(kept.folder("elsewhere", platform.name)): {"bind": _CACHE, "mode": "rw"}}
    return options


def _add_harness(made: Any, platform: Platform, library: Path) -> None:
    """Install the harness's dependency group there, with this computer's pip: emulated, it would take minutes."""
    facts = load_images()
    with tempfile.TemporaryDirectory(prefix="constann-elsewhere-") as work:
        packages = Path(work, "site-packages")
        command = [
            sys.executable, "-P", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile",
            "--only-binary", ":all:", *images.foreign_options(platform, facts.python, facts.glibc),
            "--target", str(packages), *builders.requirements("harness", platform.architecture),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WheelError(f"pip does not find the harness's packages for {platform.name}:\n{done.stderr.strip()}")
        _put(made, packages, str(library), "site-packages")


def _add_sources(made: Any, source: Path, python: str) -> dict[str, str]:
    """Copy what is to be built and the headers that this computer uses; return the variables for the build."""
    _put(made, source, "/", _SOURCE.lstrip("/"))
    headers = python_headers.headers_of(python, kept.folder("wheels", "headers"))
    say(f"Python {python}: the headers of {python_headers.version_of(headers)}, in both builds")
    _put(made, headers, "/", f"elsewhere/headers/{python}")
    settings = network.pip_settings()
    environment = network.pip_environment(os.environ, settings)
    if bundle := network.certificates(os.environ, settings):
        containers.copy_in(made, bundle, "/", _CERTIFICATES.lstrip("/"))
        environment |= dict.fromkeys(network.BUNDLE_VARIABLES, _CERTIFICATES)
    return {
        **environment,
        "HOME": "/elsewhere",
        "CONSTANN_CI_CACHE": _CACHE,
        "CONSTANN_PYTHON_HEADERS": "/elsewhere/headers",
    }


def _put(made: Any, folder: Path, place: str, name: str) -> None:
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(folder, name)
        file.seek(0)
        if not made.put_archive(place, file):
            raise WheelError(f"{folder} could not be copied into the container")


def _fetch(made: Any, output: Path) -> None:
    stream, _ = made.get_archive(_OUTPUT)
    output.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        for member in archive.getmembers():
            if member.isfile() and (file := archive.extractfile(member)):
                (output / Path(member.name).name).write_bytes(file.read())
