"""Small libraries with planted instructions, compiled by the harness's own cross-compiler for the audit's tests."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from ci.platforms import Target
from ci.zig import make_toolchain

Compile = Callable[..., Path]

IN_KERNEL = """
namespace constann::kernels::{name} {{
{attributes} float twice(const float* in, float* out) {{
  for (int i = 0; i < 64; ++i) out[i] = in[i] + in[i];
  return out[0];
}}
}}
"""
OUTSIDE = """
namespace constann::exact {
__attribute__((target("avx2"))) void twice(const int* in, int* out) {
  for (int i = 0; i < 64; ++i) out[i] = in[i] + in[i];
}
}
"""
STATIC_INITIALISER = """
extern "C" const int* given();
static int table[64];
struct Filled { Filled() { const int* in = given(); for (int i = 0; i < 64; ++i) table[i] = in[i] + in[i]; } };
static Filled filled;
extern "C" int first() { return table[0]; }
"""
# The same inline function of the standard library in two files, of which one was compiled for more: the linker keeps
# the first, and every caller gets it.
MERGED = """
#include <algorithm>
namespace constann::{space} {{ int* last(int* begin, int* end, int value) {{
  return std::fill_n(begin, end - begin, value);
}} }}
"""
ASSEMBLY = """
namespace constann::exact {{ void planted() {{ __asm__ volatile({text}); }} }}
"""
# Runs an instruction and leaves: what a CPU without it never does. No C library, so that it links in a second.
PROGRAM = """
extern "C" [[noreturn]] void _start() {{
  __asm__ volatile({text});
  __asm__ volatile("mov x0, #0\\n mov x8, #94\\n svc #0");
  __builtin_unreachable();
}}
"""
ATOMIC, DOT, SCALABLE = '".inst 0xf8200020"', '".inst 0x4e829420"', '".inst 0x04e0e3e0"'
"""ldadd x0, x0, [x1]; sdot v0.4s, v1.16b, v2.16b; cntd x0."""


def compile_with(target: Target, cache: Path, folder: Path) -> Compile:
    """Return a function that compiles sources, each with flags of its own, into one library or program."""
    toolchain = make_toolchain(target, cache, once=True)
    compiler = Path(toolchain.environment["CONSTANN_CROSS_TOOLS"], "c++")

    def run(*words: str | Path) -> None:
        done = subprocess.run(
            [compiler, *words], env={**toolchain.environment}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def build(
        *sources: str,
        flags: tuple[str, ...] = (),
        first_flags: tuple[str, ...] = (),
        link: tuple[str, ...] = (),
        program: bool = False,
    ) -> Path:
        objects = []
        for number, source in enumerate(sources):
            path = folder / f"part{number}.cpp"
            path.write_text(source)
            own = first_flags if number == 0 else ()
            run("-c", "-O2", "-fPIC", "-std=c++20", "-fno-exceptions", *flags, *own, path, "-o", path.with_suffix(".o"))
            objects.append(path.with_suffix(".o"))
        result = folder / ("planted" if program else "planted.so")
        kind = ["-static"] if program else ["-shared"]
        run(*kind, "-nostdlib", *objects, *link, "-o", result)
        return result

    return build
