"""Makes this computer's gcc and clang compilers for CMake, in the shape of the cross-compiler's: for comparing alone.

No release is built by them: they show that another compiler gives the same bits. Knows nothing of what they compile.
"""

import platform as computer
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ci import host, zig
from ci.platforms import Target

_FAMILIES = {"gcc": ("gcc", "g++"), "clang": ("clang", "clang++")}


def make_toolchain(target: Target, compiler: str, folder: Path, headers: Path) -> zig.Toolchain:
    """Write wrappers around one of this computer's compilers and return the toolchain.

    Parameters
    ----------
    target
        What to compile for.
    compiler
        "gcc" or "clang".
    folder
        For the wrappers; made where it is missing.
    headers
        A folder searched first: those of the wheel's Python.

    Raises
    ------
    ToolchainError
        When the compiler, or what it needs for the target, is not on this computer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    commands = dict(zip(("cc", "c++"), _commands(target, compiler), strict=True))
    for name, command in commands.items():
        words = shlex.join([*command, "-g0", "-isystem", str(headers)])
        zig.write(folder / name, f'#!/bin/sh\nexec {words} "$@"\n', mode=0o755)
    for name in ("ar", "ranlib"):
        program = _found(f"{_triple(target)}-{name}", target)
        zig.write(folder / name, f'#!/bin/sh\nexec {shlex.quote(program)} "$@"\n', mode=0o755)
    zig.write(folder / "no-debug.lds", zig.LINKER_SCRIPT, mode=0o644)
    return zig.Toolchain(zig.TOOLCHAIN, zig.variables(target, folder, headers=None, once=True))


def version(target: Target, compiler: str) -> str:
    """Return what the compiler says of itself: another version may make another wheel."""
    command = [*_commands(target, compiler)[1], "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _commands(target: Target, compiler: str) -> list[list[str]]:
    triple = _triple(target)
    cross_gcc = _found(f"{triple}-g++", target)  # clang takes its libraries from there
    if compiler == "gcc":
        return [[_found(f"{triple}-gcc", target)], [cross_gcc]]
    return [[_found(name, target), f"--target={triple}"] for name in _FAMILIES["clang"]]


def _triple(target: Target) -> str:
    return f"{target.architecture}-linux-gnu"


def missing_packages(target: Target) -> list[str]:
    """Return the packages of Debian with what is not on this computer."""
    return [package for program, package in packages(target).items() if not host.program(program)]


def packages(target: Target) -> Mapping[str, str]:
    """Return the programs needed, and the package of Debian that has each."""
    triple = _triple(target)
    own = target.architecture == computer.machine()
    gcc = "g++" if own else f"g++-{triple.replace('_', '-')}"
    return {f"{triple}-g++": gcc, "clang++": "clang"}


def _found(name: str, target: Target) -> str:
    if path := host.program(name):
        return path
    wanted = " ".join(packages(target).values())
    raise zig.ToolchainError(f"{name} is not on this computer: sudo apt-get install {wanted} (Debian, Ubuntu)")
