"""Arm's dot products give the integers that plain NEON gives, and an emulated CPU without them dies of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import planted_code
import pytest

from ci import cache
from ci.platforms import load_targets

ROOT = Path(__file__).resolve().parents[2]
ARM = load_targets()["linux-aarch64"]
FLAGS = ("-march=armv8-a", "-fno-builtin", f"-I{ROOT}", f"-I{ROOT / 'cpp'}")
INTEGER_KERNELS = """
#define CONSTANN_KERNEL_SET {name}
#include "kernels/integer_kernels.cpp"
"""

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-aarch64-static") is None and (sys.platform, os.environ.get("CI")) != ("linux", "true"),
    reason="no emulator: apt-get install qemu-user-static (Debian, Ubuntu)",
)


def program_that_compares(folder: Path, *planted: str) -> Path:
    build = planted_code.compile_with(ARM, cache.folder("wheels") / "zig", folder)
    sources = [INTEGER_KERNELS.format(name=name) for name in ("neon_dotprod", "neon")]
    first = ("-march=armv8.2-a+dotprod", *planted)
    return build(*sources, '#include "tests/arm_kernels.cpp"\n', flags=FLAGS, first_flags=first, program=True)


def run_on(cpu: str, program: Path) -> int:
    return subprocess.run(["qemu-aarch64-static", "-cpu", cpu, program], capture_output=True, check=False).returncode


def test_dot_products_give_the_integers_of_neon_and_need_a_cpu_that_has_them(tmp_path: Path) -> None:
    program = program_that_compares(tmp_path)
    assert [run_on(cpu, program) for cpu in ("max", "neoverse-n1")] == [0, 0]
    # Killed. The library asks first, and the gate's rows of these CPUs must choose plain NEON (platforms/).
    assert all(run_on(cpu, program) < 0 for cpu in ("cortex-a53", "a64fx"))


def test_a_wrong_last_bit_is_seen(tmp_path: Path) -> None:
    assert run_on("max", program_that_compares(tmp_path, "-DCONSTANN_PLANT_LAST_BIT")) == 1
