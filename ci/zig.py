"""Makes PyPI's ziglang a cross-compiler for CMake. Knows flags and tools, nothing of this project."""

import hashlib
import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ci.platforms import Target

TOOLCHAIN = Path(__file__).resolve().parent / "toolchain.cmake"

# CMake projects are written for gcc and clang; zig names CPUs its own way. In both the last name given wins.
_COMPILER = """\
#!/bin/sh
# Written by ci/zig.py: changes are lost.
export {environment}
# A flag that is left out is said to be; in a build of someone else's package, also to whoever asked for it.
left_out() {{
  echo "$1 is left out: $2" >&2
  [ -z "$CONSTANN_CROSS_NOTES" ] || echo "$1 is left out: $2" >>"$CONSTANN_CROSS_NOTES"
}}
skip=
for flag; do
  shift
  [ -z "$skip" ] || {{ skip=; continue; }}
  case $flag in
    -MD) [ -z "$CONSTANN_CROSS_ONCE" ] || continue ;;
    -MT | -MF) [ -z "$CONSTANN_CROSS_ONCE" ] || {{ skip=1; continue; }} ;;
    -march=x86-64) flag=-mcpu=x86_64 ;;
    -march=x86-64-v[234]) flag=-mcpu=x86_64_v${{flag##*-v}} ;;
    -march=armv8-a | -march=armv8-a+*) flag=-mcpu=generic${{flag#-march=armv8-a}} ;;
    -march=armv8.[1-9]-a | -march=armv8.[1-9]-a+*)
      version=${{flag#-march=armv8.}}
      flag=-mcpu=generic+v8_${{version%%-*}}a${{version#?-a}} ;;
    -bundle) flag=-dynamiclib ;; # zig's linker makes no bundles; Python loads both
    -mtune=native)
      left_out "$flag" "code tuned for the CPU that compiles is another wheel on each machine that builds it"
      continue ;;
    -march=native | -mcpu=native)
      if [ -n "$CONSTANN_CROSS_NOTES" ]; then
        left_out "$flag" "the wheel must run on every {architecture} CPU, not on the one that compiles alone"
        continue
      fi ;;
    -fopenmp | -fopenmp=*)
      if [ -n "$CONSTANN_CROSS_NOTES" ]; then
        left_out "$flag" "the cross-compiler brings no OpenMP: loops marked for it run in one thread"
        continue
      fi ;;
    -mtune=generic | -Wl,-headerpad_max_install_names | -headerpad_max_install_names) continue ;;
    *CMakeC*CompilerId.c*) set -- "$@" -c ;; # never linked: it would compile a standard library for nothing
  esac
  set -- "$@" "$flag"
done
# The target and the CPU are always given: zig's default is the machine it runs on.
exec {zig} {command} -target {target} -mcpu={cpu} -g0 -fno-sanitize=undefined \\
  ${{CONSTANN_CROSS_INCLUDE:+-isystem "$CONSTANN_CROSS_INCLUDE"}} "$@"
"""

_TOOL = """\
#!/bin/sh
# Written by ci/zig.py: changes are lost.
export {environment}
exec {zig} {command} "$@"
"""

# zig's standard library has debug information, and zig's own ways to strip it take the symbols along, by
# which an audit tells what function an instruction is in. INSERT keeps the linker's own layout.
LINKER_SCRIPT = "SECTIONS { /DISCARD/ : { *(.debug_*) } } INSERT AFTER .comment;\n"


class ToolchainError(RuntimeError):
    """The cross-compiler or the headers it needs are missing; the text says what to install."""


@dataclass(frozen=True)
class Toolchain:
    """A cross-compiler: give CMake `file` as CMAKE_TOOLCHAIN_FILE and add `environment` to its variables."""

    file: Path
    environment: Mapping[str, str]

    @property
    def tools(self) -> Path:
        """Return the folder of `cc`, `c++`, `ar` and `ranlib`, for what does not use CMake."""
        return Path(self.environment["CONSTANN_CROSS_TOOLS"])


def make_toolchain(platform: Target, folder: Path, headers: Path | None = None, *, once: bool) -> Toolchain:
    """Write the compiler wrappers for a platform and return the toolchain.

    Parameters
    ----------
    platform
        The platform to compile for.
    folder
        A kept folder: it also holds zig's cache, where its standard library is compiled once a platform.
    headers
        A folder searched before those that the project names, such as the headers of another Python.
    once
        Whether the build folder is thrown away: lists of the headers are then not written, for zig compiles anew
        whatever it has to list them for. In a kept build folder, changed headers would go unnoticed.

    Raises
    ------
    ToolchainError
        When ziglang is not installed.
    """
    facts = {
        "zig": shlex.quote(str(_find_zig())),
        "environment": f"ZIG_GLOBAL_CACHE_DIR={shlex.quote(str(folder / 'cache'))}"
        f" ZIG_LOCAL_CACHE_DIR={shlex.quote(str(folder / 'cache'))}",
        "target": platform.compiler.zig_target,
        "architecture": platform.architecture,
        "cpu": platform.compiler.zig_cpu,
    }
    templates = {"cc": _COMPILER, "c++": _COMPILER, "ar": _TOOL, "ranlib": _TOOL}
    programs = {name: template.format(command=name, **facts) for name, template in templates.items()}
    # Another checkout with the same cache may have other wrappers, and build at the same time.
    tools = folder / f"{platform.name}-{hashlib.sha256(repr(programs).encode()).hexdigest()[:12]}"
    tools.mkdir(parents=True, exist_ok=True)
    for name, text in programs.items():
        write(tools / name, text, mode=0o755)
    write(tools / "no-debug.lds", LINKER_SCRIPT, mode=0o644)
    return Toolchain(TOOLCHAIN, variables(platform, tools, headers, once=once))


def make_named_toolchain(platform: Target, folder: Path) -> Path:
    """Make a toolchain whose folder of tools has the platform's name alone, as pyproject.toml spells it; return it."""
    toolchain = make_toolchain(platform, folder, once=False)
    named = folder / platform.name
    named.unlink(missing_ok=True)
    named.symlink_to(toolchain.tools.name)
    return named


def variables(platform: Target, tools: Path, headers: Path | None, *, once: bool) -> dict[str, str]:
    """Return what ci/toolchain.cmake and the wrappers in the folder `tools` read; see `make_toolchain`."""
    return {
        "CONSTANN_CROSS_TOOLS": str(tools),
        "CONSTANN_CROSS_SYSTEM": platform.system,
        "CONSTANN_CROSS_ARCHITECTURE": platform.architecture,
        "CONSTANN_CROSS_INCLUDE": str(headers or ""),
        "CONSTANN_CROSS_ONCE": "1" if once else "",
    }


def _find_zig() -> Path:
    # Its caches know it by its place: an environment made anew each time would compile the standard library each time.
    if chosen := os.environ.get("CONSTANN_ZIG"):
        return Path(chosen)
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ToolchainError(
            "the cross-compiler is missing: install the harness's requirements with"
            " `pip install --group harness` (package ziglang)"
        )
    return Path(spec.origin).parent / "zig"


def write(path: Path, text: str, *, mode: int) -> None:
    """Write a file whole, and only where it changes: a build that runs beside us may be using it."""
    if not path.is_file() or path.read_text() != text:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as fresh:
            fresh.write(text)
        Path(fresh.name).chmod(mode)
        Path(fresh.name).replace(path)
