"""Builds what the matrix compares with the release's wheels: the same sources by gcc and clang, and the core for musl.

What was built from the same sources by the same compiler is kept. Nothing of it is released.
"""

import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CalledProcessError

from ci import cache, compilers, host, wheels
from ci.platforms import Platform, Target, WheelKey
from ci.progress import say
from ci.wheel_file import WheelError
from ci.zig import ToolchainError

_SOURCES = ("CMakeLists.txt", "pyproject.toml", "cpp", "python/constann", "ci/toolchain.cmake", "ci/compilers.py")
_PROGRAM_SOURCES = ("CMakeLists.txt", "pyproject.toml", "cpp", "ci/toolchain.cmake", "ci/zig.py", "tests/conformance")


def build(
    wanted: Collection[WheelKey],
    platforms: Mapping[str, Platform],
    targets: Mapping[str, Target],
    root: Path,
    *,
    may_install: bool,
) -> tuple[dict[WheelKey, Path], list[str]]:
    """Build what some rows run besides the release's wheels; return it, and why some of it could not be built.

    Parameters
    ----------
    wanted
        What to build.
    platforms, targets
        What platforms/ says.
    root
        The checkout.
    may_install
        Whether compilers that are missing may be installed on this computer.
    """
    compiled = [platforms[key.platform] for key in wanted if key.built_by != "musl"]
    missing = sorted({package for each in compiled for package in compilers.missing_packages(each)})
    if missing and host.distribution() and (host.is_disposable() or (may_install and host.is_root())):
        say(f"to install, for the builds by other compilers: {' '.join(missing)} (apt-get), about 600 MB of disk")
        host.install(missing)
    built, problems = {}, []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        jobs = {key: pool.submit(_kept, key, platforms[key.platform], targets, root) for key in sorted({*wanted})}
    for key, job in jobs.items():
        try:
            built[key] = job.result()
        except (WheelError, ToolchainError, CalledProcessError) as error:
            problems.append(f"{key.platform}: {key.built_by} made nothing: {error}")
    return built, problems


def _kept(key: WheelKey, platform: Platform, targets: Mapping[str, Target], root: Path) -> Path:
    musl = targets[f"musllinux-{platform.architecture}"]
    by = musl.compiler.zig_target if key.built_by == "musl" else compilers.version(platform, key.built_by)
    sources = _PROGRAM_SOURCES if key.built_by == "musl" else _SOURCES
    facts = [*key, by, cache.digest_of(root / name for name in sources)]
    folder = cache.folder("other-builds", cache.name_for(facts))
    for path in folder.iterdir():
        return path
    if key.built_by == "musl":
        return wheels.build_program(musl, root, folder, cache=cache.folder("wheels"))
    made = wheels.build_wheels(
        [platform], root, folder, cache=cache.folder("wheels"), pythons=[key.python], compiler=key.built_by
    )
    return made[platform.name, key.python]
