"""The kernels of a macOS wheel give the known answers in a CPU emulator, and a wrong bit or instruction is seen."""

import re
import subprocess
import zipfile
from pathlib import Path

import core_build
import lief
import planted_code
import pytest

from ci import cache
from ci.__main__ import main
from ci.macos_kernels import CODE_KERNELS, KERNELS, Result, run_kernels
from ci.platforms import KernelSet, load_targets
from ci.wheel_file import WheelError
from ci.zig import make_toolchain

ROOT = Path(__file__).resolve().parents[2]
MACOS, LINUX = load_targets()["macos-arm64"], load_targets()["linux-aarch64"]
CANONICAL = ("-march=armv8-a", "-ffp-contract=off", f"-I{ROOT / 'cpp'}")
SHAPE = ("-DCONSTANN_KERNEL_WIDTH=4", "-DCONSTANN_KERNEL_ROWS=4")
SETS = {each.name: each for each in MACOS.kernels}
FLAGS = {"neon": (), "neon_dotprod": ("-march=armv8.2-a+dotprod",)}


def kernels_for_macos(folder: Path, *flags: str, name: str = "neon") -> bytes:
    """The kernels of one set alone, compiled as in the wheel but for these flags."""
    build = planted_code.compile_with(MACOS, cache.folder("wheels") / "zig", folder)
    sources = [f'#include "kernels/{each}_kernels.cpp"\n' for each in ("vector", "integer")]
    own = (*FLAGS[name], f"-DCONSTANN_KERNEL_SET={name}", *SHAPE)
    return build(*sources, flags=(*CANONICAL, *own, *flags)).read_bytes()


def ran(content: bytes, name: str = "neon") -> Result:
    (result,) = run_kernels("planted.so", content, [SETS[name]])
    return result


@pytest.mark.parametrize("name", FLAGS)
def test_every_kernel_gives_the_known_answers(name: str, tmp_path: Path) -> None:
    result = ran(kernels_for_macos(tmp_path, name=name), name)
    assert (result.kernels, result.problems) == (13, [])
    assert result.calls > 10_000


@pytest.mark.parametrize("name", FLAGS)
def test_a_wrong_last_bit_is_seen_in_every_kernel(name: str, tmp_path: Path) -> None:
    result = ran(kernels_for_macos(tmp_path, "-DCONSTANN_PLANT_LAST_BIT", name=name), name)
    slots = [*(f"{kernel} {how}" for kernel in KERNELS for how in ("one", "many")), *CODE_KERNELS]
    for slot in slots:
        assert [problem for problem in result.problems if problem.startswith(f"{name}, {slot}, ")]


def test_only_a_set_that_asks_for_dot_products_may_use_them(tmp_path: Path) -> None:
    content = kernels_for_macos(tmp_path, name="neon_dotprod")
    (result,) = run_kernels("planted.so", content, [KernelSet("neon_dotprod", frozenset())])
    stopped = {problem.split(", ")[1] for problem in result.problems if "stopped by the CPU" in problem}
    assert stopped >= {"code_inner_product", "code_squared_euclidean", "half_code_squared_euclidean"}


def test_fused_multiplication_is_seen(tmp_path: Path) -> None:
    result = ran(kernels_for_macos(tmp_path, "-ffp-contract=fast"))
    assert [problem for problem in result.problems if "inner_product many" in problem]


@pytest.mark.parametrize(
    "word",
    [0x4E829420, 0xF8200020, 0x04E0E3E0],
    ids=["sdot", "LSE", "SVE"],
)
def test_what_a_cpu_of_armv8_0_would_not_run_is_stopped(word: int, tmp_path: Path) -> None:
    content = bytearray(kernels_for_macos(tmp_path))
    parsed = lief.MachO.parse(bytes(content)).at(0)
    symbol = next(each for each in parsed.symbols if "hamming_one" in each.name)
    place = parsed.virtual_address_to_offset(symbol.value)
    content[place : place + 4] = word.to_bytes(4, "little")
    problems = ran(bytes(content)).problems
    assert problems
    for problem in problems:
        assert "neon, hamming" in problem and "stopped by the CPU" in problem


def test_a_file_without_the_kernels_is_a_problem_or_an_error(tmp_path: Path) -> None:
    content = kernels_for_macos(tmp_path)
    (problem,) = ran(content, "scalar").problems
    assert "has no kernel set scalar" in problem
    build = planted_code.compile_with(LINUX, cache.folder("wheels") / "zig", tmp_path)
    elf = build(planted_code.IN_KERNEL.format(name="neon", attributes="")).read_bytes()
    for wrong in (b"", b"\xcf\xfa\xed\xfe", elf):
        with pytest.raises(WheelError, match=r"planted.so: not a Mach-O file for 64-bit Arm"):
            ran(wrong)


def test_the_table_is_that_of_the_library() -> None:
    """The emulator reads the table of functions by their order."""
    header = (ROOT / "cpp/kernels/kernel_table.hpp").read_text()
    members = re.findall(r"^    (\S+) (\w+);", header.partition("struct KernelTable {")[2].partition("};")[0], re.M)
    assert [name for kind, name in members if kind == "Kernel"] == list(KERNELS)
    assert [name for kind, name in members if kind == "ManyCodes"] == list(CODE_KERNELS)
    assert len(members) == len(KERNELS) + len(CODE_KERNELS)


def test_the_command_says_that_only_kernels_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["macos", str(packed(tmp_path, kernels_for_macos(tmp_path)))]) == 1  # the scalar set is not in it
    told = capsys.readouterr().out
    assert "neon: 13 kernels, " in told and "has no kernel set scalar" in told
    assert "Only kernels ran" in told and "the wheels workflow" in told
    assert main(["macos", str(tmp_path / "missing.whl")]) == 2


def core_for_macos(folder: Path, planted: str = "") -> bytes:
    """Every kernel of the core, compiled as for wheels, in one library. The folder may hold another plant's build."""
    toolchain = make_toolchain(MACOS, cache.folder("wheels") / "zig", once=True)
    entries = {"CMAKE_TOOLCHAIN_FILE": str(toolchain.file), "CONSTANN_PLANT_LAST_BIT": planted}
    core_build.build(folder, "constann_core", entries, toolchain.environment)
    objects = sorted(folder.glob("CMakeFiles/kernels_*.dir/**/*.o"))
    library = folder / "kernels.so"
    link = [toolchain.tools / "cc", "-shared", "-nostdlib", *objects, "-o", library]
    subprocess.run(link, env=toolchain.environment, check=True)
    return library.read_bytes()


def packed(folder: Path, extension: bytes) -> Path:
    wheel = folder / "constann-0.1.0-cp311-cp311-macosx_11_0_arm64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("constann/_core.cpython-311-darwin.so", extension)
    return wheel


@pytest.mark.slow
def test_the_core_compiles_for_macos_and_its_kernels_run_and_a_planted_bit_in_one_is_seen(tmp_path: Path) -> None:
    """Whole wheels, with the binding and a standard library that takes minutes to compile, are a stage of the gate."""
    assert main(["macos", str(packed(tmp_path, core_for_macos(tmp_path / "build")))]) == 0
    wrong = core_for_macos(tmp_path / "build", planted="neon")
    scalar, neon, dotprod = run_kernels("wrong.so", wrong, [SETS[each] for each in ("scalar", "neon", "neon_dotprod")])
    assert neon.problems and not scalar.problems and not dotprod.problems
    assert main(["macos", str(packed(tmp_path, wrong))]) == 1
