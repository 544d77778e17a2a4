"""No instruction beyond the baseline escapes the audit, wherever it was planted; on foreign packages too."""

import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import capstone
import lief
import planted_code
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_code import ASSEMBLY, ATOMIC, DOT, IN_KERNEL, MERGED, OUTSIDE, PROGRAM, SCALABLE, STATIC_INITIALISER

from ci import cache, macho
from ci.__main__ import main
from ci.audit import arm, x86
from ci.audit.binaries import Section, is_binary, read_binary, read_slices
from ci.audit.manifest import NAME as MANIFEST
from ci.audit.manifest import manifest_of
from ci.audit.processors import find_processor, known_processors
from ci.audit.rules import fatal_sets, find_faults
from ci.audit.scan import closure, named_apart, scan
from ci.platforms import Target, load, load_targets
from ci.wheel_file import WheelError
from ci.zig import make_toolchain

TARGETS = load_targets()
WEAK = "__attribute__((weak))"
X86, ARM, MACOS = TARGETS["linux-x86_64"], TARGETS["linux-aarch64"], TARGETS["macos-arm64"]


def compiler_for(target: Target, folder: Path) -> planted_code.Compile:
    return planted_code.compile_with(target, cache.folder("wheels") / "zig", folder)


def faults_of(path: Path, target: Target) -> list[str]:
    binary = read_binary(path.name, path.read_bytes())
    return find_faults(binary, scan(binary), target)


def sets_of(code: str, target: Target = X86) -> set[str]:
    section = Section("text", 0, bytes.fromhex(code))
    found = x86.scan(section) if target is X86 else arm.scan(section)
    return {each for _, sets in found for each in sets}


@pytest.mark.parametrize(
    ("code", "sets"),
    [
        ("0f58c1", ""),  # addps
        ("660f58c1", ""),  # addpd
        ("0f44c1", ""),  # cmove
        ("f30f1efa", ""),  # endbr64, a nop on older CPUs
        ("f30fbcc1", ""),  # tzcnt, which older CPUs read as bsf
        ("d8c1", ""),  # fadd
        ("f20fd0c1", "sse3"),  # addsubps
        ("660f380bc1", "ssse3"),  # pmulhrsw
        ("660f3840c1", "sse4_1"),  # pmulld
        ("660f3837c1", "sse4_2"),  # pcmpgtq
        ("f30fb8c1", "popcnt"),
        ("f30fbdc1", "abm"),  # lzcnt, which older CPUs read as bsr: another answer
        ("480fc70f", "cx16"),  # cmpxchg16b
        ("9f", "lahf_lm"),  # lahf
        ("0f01d0", "xsave"),  # xgetbv
        ("c5f058c1", "avx"),  # vaddps
        ("c5f5fec1", "avx2"),  # vpaddd ymm
        ("c4e27998c1", "fma"),
        ("62f17c4858c1", "avx512f"),  # vaddps zmm
        ("62f17c2858c1", "avx512f avx512vl"),
        ("62f17548fcc1", "avx512bw"),  # vpaddb zmm
        ("c4e2fbf5c1", "bmi2"),
        ("06", "unknown"),
    ],
)
def test_what_an_x86_instruction_needs(code: str, sets: str) -> None:
    assert sets_of(code) == set(sets.split())


@pytest.mark.parametrize(
    ("word", "sets"),
    [
        (0x4E22D420, ""),  # fadd v0.4s
        (0x4E62D420, ""),  # fadd v0.2d
        (0x0E217800, ""),  # fcvtl v0.4s, v0.4h: as old as Armv8.0
        (0x9BC27C20, ""),  # umulh
        (0xC85FFC20, ""),  # ldaxr
        (0xD503233F, ""),  # paciasp, a hint
        (0xD503245F, ""),  # bti c, a hint
        (0xD53B4400, ""),  # mrs x0, fpcr
        (0xD50B7420, ""),  # dc zva
        (0xF8200020, "atomics"),  # ldadd
        (0xC8A17C20, "atomics"),  # cas
        (0x4E829420, "asimddp"),  # sdot
        (0x04E0E3E0, "sve"),  # cntd
        (0x04A10000, "sve"),  # add z0.s
        (0x4E421420, "asimdhp"),  # fadd v0.8h
        (0x1EE22820, "fphp"),  # fadd h0
        (0x9AC24C20, "crc32"),
        (0x4E284820, "aes"),
        (0x0EE0E020, "pmull"),  # pmull v0.1q
        (0x0E20E020, ""),  # pmull v0.8h: polynomial, but as old as Armv8.0
        (0xB8BFC020, "lrcpc"),  # ldapr
        (0xD65F0BFF, "paca"),  # retaa: no hint
        (0x5E000000, "sha1"),
        (0xD538A440, "unknown"),  # a system register that is nobody's business
        (0xFFFFFFFF, "unknown"),
    ],
)
def test_what_an_arm_instruction_needs(word: int, sets: str) -> None:
    found = sets_of(word.to_bytes(4, "little").hex(), ARM)
    assert {each.partition(" ")[0] for each in found} == set(sets.split())


@given(words=st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_every_word_of_arm_code_is_looked_at(words: list[int]) -> None:
    """What cannot be decoded is said to be unknown, and hides nothing that comes behind it."""
    planted = 0xF8200020
    code = b"".join(word.to_bytes(4, "little") for word in [*words, planted])
    found = list(arm.scan(Section("text", 0x1000, code)))
    assert found[-1] == (0x1000 + 4 * len(words), frozenset({"atomics"}))
    assert all((address - 0x1000) % 4 == 0 for address, _ in found)


def refused_by_llvm(lines: list[str], folder: Path) -> set[str]:
    """What LLVM's assembler says Armv8.0 lacks. How Capstone spells some, it cannot read: no matter."""
    toolchain = make_toolchain(ARM, cache.folder("wheels") / "zig", once=True)
    (folder / "words.s").write_text("\n".join(lines) + "\n")
    compiler = Path(toolchain.environment["CONSTANN_CROSS_TOOLS"], "cc")
    done = subprocess.run(
        [compiler, "-c", "-mcpu=generic", folder / "words.s", "-o", folder / "words.o"],
        env=dict(toolchain.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"words\.s:(\d+):\d+: error: instruction requires: (.*)", done.stderr)
    return {f"{lines[int(line) - 1]} requires {what}" for line, what in found}


def test_llvm_agrees_with_what_is_held_to_be_armv8_0(tmp_path: Path) -> None:
    """Random words that the audit takes for harmless, but for what only a hypervisor or debugger may run."""
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    decoder.skipdata = True
    shapes = {}
    for _, _, mnemonic, operands in decoder.disasm_lite(random.Random(1).randbytes(4 * 100_000), 0):
        if mnemonic != ".byte" and not arm.sets_of(mnemonic, operands):
            shapes[mnemonic, re.sub(r"\d+", "1", operands)] = f"{mnemonic} {operands}"
    assert len(shapes) > 10_000
    assert all(re.search(r"^(smc|dcps3) ", each) for each in refused_by_llvm([*shapes.values()], tmp_path))
    beyond = ["ldadd x0, x1, [x2]", "sdot v0.4s, v1.16b, v2.16b", "cntd x0", "fadd v0.8h, v0.8h, v0.8h", "cfinv"]
    assert len(refused_by_llvm(["nop", *beyond], tmp_path)) == len(beyond)


def test_data_amid_code_is_left_out_where_the_file_marks_it() -> None:
    code = bytes.fromhex("1f2003d5" + "ffffffff" + "1f2003d5")
    assert list(arm.scan(Section("text", 0, code), data=[(4, 8)])) == []
    assert [address for address, _ in arm.scan(Section("text", 0, code))] == [4]


def test_a_kernel_may_use_the_instructions_that_it_is_named_for(tmp_path: Path) -> None:
    source = IN_KERNEL.format(name="avx2", attributes="")
    assert faults_of(compiler_for(X86, tmp_path)(source, flags=("-mavx2",)), X86) == []


@pytest.mark.parametrize(
    ("source", "flags", "blamed", "sets"),
    [
        (OUTSIDE, (), "constann::exact::twice", "avx"),
        (STATIC_INITIALISER, ("-mavx2",), "_GLOBAL__sub_I_part0.cpp", "avx"),
        (IN_KERNEL.format(name="avx2", attributes=""), ("-mavx512f",), "constann::kernels::avx2::twice", "avx512f"),
        (IN_KERNEL.format(name="baseline", attributes=""), ("-mavx2",), "constann::kernels::baseline::twice", "avx"),
        (IN_KERNEL.format(name="avx9", attributes=""), ("-mavx2",), "constann::kernels::avx9::twice", "avx"),
        (IN_KERNEL.format(name="avx2", attributes=WEAK), (), "constann::kernels::avx2::twice", "weak"),
        (ASSEMBLY.format(text='".byte 0x06"'), (), "constann::exact::planted()", "cannot be disassembled"),
        (ASSEMBLY.format(text='"popcnt %%rax, %%rax" ::: "rax"'), (), "constann::exact::planted()", "popcnt"),
    ],
    ids=["outside", "static initialiser", "beyond its set", "other set", "no set", "weak", "no code", "popcnt"],
)
def test_a_planted_x86_instruction_is_found(
    source: str, flags: tuple[str, ...], blamed: str, sets: str, tmp_path: Path
) -> None:
    faults = faults_of(compiler_for(X86, tmp_path)(source, flags=flags), X86)
    assert faults
    for fault in faults:
        assert fault.startswith(f"planted.so: {blamed}") and sets in fault


def test_an_inline_function_that_the_linker_merged_is_found(tmp_path: Path) -> None:
    sources = [MERGED.format(space=space) for space in ("kernels::avx2", "exact")]
    build = compiler_for(X86, tmp_path)
    flags = ("-fno-inline", "-O3")
    faults = faults_of(build(*sources, flags=flags, first_flags=("-mavx2",)), X86)
    assert faults and all("St3__1" in fault and "fill_n" in fault for fault in faults)
    assert faults_of(build(*sources, flags=flags), X86) == []


@pytest.mark.parametrize(
    ("text", "sets"), [(ATOMIC, "atomics"), (DOT, "asimddp"), (SCALABLE, "sve")], ids=["LSE", "sdot", "SVE"]
)
def test_a_planted_arm_instruction_is_found(text: str, sets: str, tmp_path: Path) -> None:
    path = compiler_for(ARM, tmp_path)(ASSEMBLY.format(text=text))
    (fault,) = faults_of(path, ARM)
    assert fault.startswith("planted.so: constann::exact::planted()") and f"needs {sets}" in fault
    assert main(["audit", str(path), "--cpu", "cortex-a53"]) == 1
    assert main(["audit", str(path), "--cpu", "graviton3"]) == 0


@pytest.mark.parametrize("name", ["neon", "neon_dotprod", "neon_dot"])
def test_only_the_arm_kernels_that_are_named_for_dot_products_may_use_them(name: str, tmp_path: Path) -> None:
    build = compiler_for(ARM, tmp_path)
    source = f"namespace constann::kernels::{name} {{{{ void planted() {{{{ __asm__ volatile({{text}}); }}}} }}}}"
    faults = faults_of(build(source.format(text=DOT)), ARM)
    assert bool(faults) == (name != "neon_dotprod")
    assert all(f"constann::kernels::{name}::planted()" in fault and "needs asimddp" in fault for fault in faults)
    (fault,) = faults_of(build(source.format(text=ATOMIC)), ARM)
    assert "needs atomics" in fault


@pytest.mark.skipif(
    shutil.which("qemu-aarch64-static") is None and (sys.platform, os.environ.get("CI")) != ("linux", "true"),
    reason="no emulator: apt-get install qemu-user-static (Debian, Ubuntu)",
)
@pytest.mark.parametrize("text", [ATOMIC, DOT, SCALABLE, '"nop"'], ids=["LSE", "sdot", "SVE", "nop"])
def test_a_cortex_a53_dies_where_the_audit_says_so(text: str, tmp_path: Path) -> None:
    # The atomic addition is to an address on the stack.
    planted = f'"mov x1, sp" ); __asm__ volatile({text}'
    path = compiler_for(ARM, tmp_path)(PROGRAM.format(text=planted), program=True)
    done = subprocess.run(["qemu-aarch64-static", "-cpu", "cortex-a53", path], capture_output=True, check=False)
    predicted = main(["audit", str(path), "--cpu", "cortex-a53"])
    assert (done.returncode == 0) == (predicted == 0) == (text == '"nop"')
    newest = subprocess.run(["qemu-aarch64-static", "-cpu", "max", path], capture_output=True, check=False)
    assert newest.returncode == 0


def test_outline_atomics_are_allowed_by_name_and_nothing_like_them(tmp_path: Path) -> None:
    named = 'extern "C" void {name}() {{ __asm__ volatile({text}); }}'
    build = compiler_for(ARM, tmp_path)
    assert faults_of(build(named.format(name="__aarch64_ldadd8_acq_rel", text=ATOMIC)), ARM) == []
    (fault,) = faults_of(build(named.format(name="__aarch64_ldadd8_acq_rel", text=SCALABLE)), ARM)
    assert "needs sve" in fault
    (fault,) = faults_of(build(named.format(name="not__aarch64_ldadd8_acq_rel", text=ATOMIC)), ARM)
    assert "needs atomics" in fault


def test_macos_may_use_what_the_m1_has_and_no_more(tmp_path: Path) -> None:
    build = compiler_for(MACOS, tmp_path)
    assert faults_of(build(ASSEMBLY.format(text=ATOMIC)), MACOS) == []
    (fault,) = faults_of(build(ASSEMBLY.format(text=SCALABLE)), MACOS)
    assert fault.startswith("planted.so: constann::exact::planted()") and "needs sve" in fault


def test_bytes_before_a_function_hide_none_of_it(tmp_path: Path) -> None:
    """48 b8 begins an instruction of ten bytes: two of the next function's would be a number in it."""
    hidden = '"vaddps %%ymm0, %%ymm0, %%ymm0\\n vaddps %%ymm0, %%ymm0, %%ymm0\\n ret"'
    source = f"""
__asm__(".text\\n .byte 0x48, 0xb8\\n .globl planted\\n .type planted, @function\\n planted:\\n"
        {hidden.replace("%%", "%")} "\\n .size planted, .-planted\\n");
"""
    (fault,) = faults_of(compiler_for(X86, tmp_path)(source), X86)
    assert fault.startswith("planted.so: planted at ") and "needs avx" in fault
    code = Section("text", 0x1000, bytes.fromhex("48b8" + "c5fc58c0" * 2 + "c3"))
    assert list(x86.scan(code)) == []
    assert [place for place, _ in x86.scan(code, starts=[0x1002])] == [0x1002, 0x1006]


def test_arm_code_that_is_marked_as_data_is_refused(tmp_path: Path) -> None:
    """An assembler marks `.word` so, and nothing that executes it asks."""
    source = ASSEMBLY.format(text=ATOMIC.replace(".inst", ".word"))
    (fault,) = faults_of(compiler_for(ARM, tmp_path)(source), ARM)
    assert fault.startswith("planted.so: constann::exact::planted()") and "4 bytes amid its code" in fault


def test_a_kernel_is_compared_with_the_cpus_that_choose_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Haswell chooses the avx2 kernels, Nehalem does not, and AVX-512 in them kills the first alone."""
    path = compiler_for(X86, tmp_path)(IN_KERNEL.format(name="avx2", attributes=""), flags=("-mavx512f",))
    binary = read_binary(path.name, path.read_bytes())
    (use,) = scan(binary)
    assert fatal_sets(use, X86, find_processor("Haswell").sets) == {"avx512f"}
    assert not fatal_sets(use, X86, find_processor("Nehalem").sets)
    assert not fatal_sets(use, X86, find_processor("skylake-avx512").sets)
    wheel = tmp_path / "constann-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(path, "constann/_core.cpython-311-x86_64-linux-gnu.so")
        archive.writestr("constann-0.1.0.dist-info/WHEEL", "Tag: cp311-cp311-manylinux_2_17_x86_64\n")
    assert main(["audit", str(wheel), "--cpu", "Nehalem"]) == 0
    assert main(["audit", str(wheel), "--cpu", "Haswell"]) == 1
    assert "1 functions would die if called on Haswell" in capsys.readouterr().out


def test_functions_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files, each with a local function of the same name."""
    local = """
namespace {{ __attribute__((noinline, target("{sets}"))) void local(const float* in, float* out) {{
  for (int i = 0; i < 64; ++i) out[i] = in[i] * in[i] + in[i];
}} }}
extern "C" void {name}(const float* in, float* out) {{ local(in, out); }}
"""
    sources = [local.format(sets=sets, name=name) for sets, name in (("avx", "one"), ("avx512f", "two"))]
    path = compiler_for(X86, tmp_path)(*sources)
    binary = read_binary(path.name, path.read_bytes())
    uses = [use for use in scan(binary) if "local" in use.function.title]
    assert len({use.function.title for use in uses}) == 1
    assert len([title for title in named_apart(uses) if " at 0x" in title]) == 2
    listed = manifest_of({binary: uses}, X86)["files"]["planted.so"]
    assert sorted("avx512f" in each["sets"] for each in listed.values()) == [False, True]
    main(["audit", str(path), "--json"])
    ((found,),) = [each["files"].values() for each in json.loads(capsys.readouterr().out)]
    assert len([title for title in found["would_die"] if "local" in title and title in found["functions"]]) == 2


def universal(*slices: tuple[int, bytes]) -> bytes:
    """A Mach-O file for several processors."""
    place, header, body = 0x1000, struct.pack(">II", 0xCAFEBABE, len(slices)), b""
    for processor, content in slices:
        header += struct.pack(">IIIII", processor, 0, place + len(body), len(content), 0)
        body += content
    return header.ljust(place, b"\0") + body


def test_a_universal_file_is_audited_slice_by_slice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = compiler_for(MACOS, tmp_path)
    slices = [build(ASSEMBLY.format(text=text)).read_bytes() for text in ('"nop"', SCALABLE)]
    path = tmp_path / "both.so"
    path.write_bytes(universal(*((0x0100000C, each) for each in slices)))
    first, second = read_slices(path.name, path.read_bytes())
    assert first.name == second.name == "both.so (arm64)"
    assert not scan(first) and len(scan(second)) == 1
    assert main(["audit", str(path)]) == 1
    assert "both.so (arm64): 1 functions would die if called on m1" in capsys.readouterr().out
    with pytest.raises(WheelError, match=r"both.so: a broken universal Mach-O file"):
        read_slices("both.so", path.read_bytes()[:0x1000])


JAVA = bytes.fromhex("cafebabe00000034")


def test_files_that_cannot_be_audited_hide_nothing_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Java's classes begin as universal Mach-O files do; a file for another processor is said to be one."""
    assert not is_binary(JAVA) and not is_binary(JAVA[:4]) and is_binary(universal((0x0100000C, b"")))
    library = bytearray(compiler_for(X86, tmp_path)(OUTSIDE).read_bytes())
    foreign = bytes(library[:18] + (243).to_bytes(2, "little") + library[20:])
    wheel = tmp_path / "other-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {"A.class": JAVA, "riscv.so": foreign, "right.so": bytes(library)}.items():
            archive.writestr(f"other/{name}", content)
    assert main(["audit", str(wheel), "--cpu", "Haswell"]) == 1
    told = capsys.readouterr().out
    assert "other/riscv.so: the audit knows x86-64 and 64-bit Arm" in told
    assert "other/right.so: x86_64" in told and "A.class" not in told


def test_an_installed_constann_is_held_to_its_own_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    information = tmp_path / "constann-0.1.0.dist-info"
    for folder in (information, tmp_path / "constann"):
        folder.mkdir()
    name = "constann/_core.cpython-311-x86_64-linux-gnu.so"
    (information / "METADATA").write_text("Metadata-Version: 2.4\nName: constann\nVersion: 0.1.0\n")
    (information / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n")
    (information / "RECORD").write_text(f"{name},,\n{MANIFEST},,\n")
    build = compiler_for(X86, tmp_path)
    kernel = IN_KERNEL.format(name="avx2", attributes="")
    installed = ["audit", "--installed", "constann", "--python", sys.executable]
    (tmp_path / name).write_bytes(build(kernel, flags=("-mavx2",)).read_bytes())
    assert main(installed) == 0
    assert "passes: the rules of linux-x86_64" in capsys.readouterr().out
    (tmp_path / MANIFEST).write_text("{}")
    assert main(installed) == 1
    assert f"FAULT: {MANIFEST} is not what the audit finds" in capsys.readouterr().out
    (tmp_path / name).write_bytes(build(kernel, OUTSIDE, flags=("-mavx2",)).read_bytes())
    assert main(installed) == 1
    assert "constann::exact::twice" in capsys.readouterr().out


def table_of_names(path: Path) -> tuple[int, int, int]:
    """Where the symbols of a Mach-O file are, how many, and where their names are."""
    content = path.read_bytes()
    command = content.index(struct.pack("<II", 2, 24))
    symbols, count, strings, _ = struct.unpack_from("<IIII", content, command + 8)
    return symbols, count, strings


@pytest.mark.parametrize("cut", [0, 3], ids=["the same place", "its end"])
def test_cleaning_a_mac_file_keeps_names_that_are_the_ends_of_others(cut: int, tmp_path: Path) -> None:
    """A note for debuggers whose name is, or is the end of, a function's."""
    path = compiler_for(MACOS, tmp_path)('extern "C" { void first() {} void second() {} }')
    symbols, count, strings = table_of_names(path)
    content = bytearray(path.read_bytes())
    entries = [struct.unpack_from("<IBBHQ", content, symbols + 16 * number) for number in range(count)]
    number, live = next(
        (number, entry) for number, entry in enumerate(entries) if not entry[1] & 0xE0 and content[strings + entry[0]]
    )
    name = bytes(content[strings + live[0] : content.index(0, strings + live[0])])
    other = next(number for number, entry in enumerate(entries) if entry[0] != live[0])
    struct.pack_into("<IBBHQ", content, symbols + 16 * other, live[0] + cut, 0x24, 1, 0, 0)
    path.write_bytes(content)
    assert macho.clean(path) >= 1
    cleaned = path.read_bytes()
    (place,) = struct.unpack_from("<I", cleaned, symbols + 16 * number)
    assert cleaned[strings + place :].partition(b"\0")[0] == name
    assert macho.unsigned_pages(path.name, cleaned) == []


def with_note(content: bytes, path: str) -> bytes:
    """The file as zig's linker makes it of an object with a debugger's information that lies at `path`."""
    changed = bytearray(content)
    names, signature = (changed.index(struct.pack("<II", *each)) + 8 for each in ((0x2, 24), (0x1D, 16)))
    symbols, _, strings, _ = struct.unpack_from("<IIII", changed, names)
    (end,) = struct.unpack_from("<I", changed, signature)
    name = path.encode() + bytes(16 - len(path) % 16)
    struct.pack_into("<IBBHQ", changed, symbols, end - strings, 0x66, 0, 1, 0)
    struct.pack_into("<I", changed, names + 12, end - strings + len(name))
    struct.pack_into("<I", changed, signature, end + len(name))
    return bytes(changed[:end] + name + changed[end:])


def test_not_even_the_length_of_a_path_is_left_in_a_mac_file(tmp_path: Path) -> None:
    """The longer one makes the file two pages longer, of which each has its hash in the signature."""
    path = compiler_for(MACOS, tmp_path)('extern "C" { void first() {} void second() {} }')
    content = path.read_bytes()
    cleaned = []
    for folder in ("a", "b" * 0x8000):
        path.write_bytes(with_note(content, f"/{folder}/libc++.a(string.o)"))
        assert macho.clean(path) == 1
        cleaned.append(path.read_bytes())
    assert cleaned[0] == cleaned[1]
    assert macho.unsigned_pages(path.name, cleaned[0]) == []
    mac = lief.MachO.parse(str(path))
    assert mac is not None and lief.MachO.check_layout(mac.at(0)) == (True, "")


@given(content=st.binary(max_size=200), magic=st.sampled_from([b"", b"\xcf\xfa\xed\xfe"]))
def test_a_signature_is_read_or_refused(content: bytes, magic: bytes) -> None:
    with pytest.raises(macho.MachOError, match=r"some\.so"):
        macho.unsigned_pages("some.so", magic + content)


def test_code_without_names_is_found_by_its_place(tmp_path: Path) -> None:
    path = compiler_for(X86, tmp_path)(OUTSIDE)
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", stripped, path], check=True)
    faults = faults_of(stripped, X86)
    assert faults and "constann::exact" not in str([read_binary("a", stripped.read_bytes()).functions[0].names])


@pytest.mark.slow
def test_annoy_as_pip_builds_it_fails_the_audit(compiler: str, tmp_path: Path) -> None:
    """The real case: annoy 1.17.3 compiles itself with -march=native."""
    if X86.architecture != os.uname().machine or "avx" not in x86_flags():
        pytest.skip("needs a CPU that a native build uses more of: x86-64 with AVX")
    folder = cache.folder("annoy") / f"native-py{sys.version_info.minor}"
    with cache.lock(folder.with_suffix(".lock")):
        if not folder.exists():
            build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "--no-binary", "annoy"]
            with cache.whole(folder) as fresh:
                variables = {**os.environ, "CC": compiler, "CXX": compiler}
                subprocess.run([*build, "-w", fresh, "annoy==1.17.3"], check=True, env=variables, capture_output=True)
    (wheel,) = folder.glob("annoy-*.whl")
    assert main(["audit", str(wheel)]) == 1
    assert main(["audit", str(wheel), "--cpu", "Nehalem"]) == 1


def x86_flags() -> str:
    return Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


def test_the_audit_says_which_functions_would_die(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = compiler_for(X86, tmp_path)(OUTSIDE)
    assert main(["audit", str(path), "--cpu", "core2duo"]) == 1
    told = capsys.readouterr().out
    assert "constann::exact::twice(int const*, int*)" in told and "would die if called on core2duo" in told
    assert main(["audit", str(path), "--cpu", "Haswell"]) == 0
    assert "passes: Haswell" in capsys.readouterr().out
    assert main(["audit", str(path), "--cpu", "cortex-a53"]) == 2
    assert "is machine code for x86_64, and cortex-a53 is aarch64" in capsys.readouterr().err


def test_installed_packages_are_audited_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """regress, which check-jsonschema brings along, searches texts by AVX2 where there is some."""
    status = main(["audit", "--installed", "regress", "--python", sys.executable, "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    (functions,) = (each["functions"] for each in found["files"].values())
    on_x86 = os.uname().machine == "x86_64"
    assert (status, any("avx2" in sets for sets in functions.values())) == (int(on_x86), on_x86)
    assert main(["audit", "--installed", "pytest", "--python", sys.executable]) == 2
    assert "pure Python" in capsys.readouterr().err
    assert main(["audit", "--installed", "nobody", "--python", sys.executable]) == 2
    assert "has no package 'nobody'" in capsys.readouterr().err
    assert main(["audit"]) == 2
    assert main(["audit", "missing.whl"]) == 2
    assert "no such file" in capsys.readouterr().err


MAGICS = [b"", b"\x7fELF\x02\x01\x01", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe\0\0\0\1"]


@given(content=st.binary(max_size=200), magic=st.sampled_from(MAGICS))
def test_any_bytes_are_read_or_refused(content: bytes, magic: bytes) -> None:
    try:
        binaries = read_slices("some.so", magic + content)
    except WheelError as error:
        assert "some.so" in str(error)
    else:
        for binary in binaries:
            scan(binary)


def test_processors_have_what_their_makers_say() -> None:
    assert "avx2" in find_processor("Haswell").sets and "avx512f" not in find_processor("haswell").sets
    assert "sse4_1" not in find_processor("core2duo").sets and "ssse3" in find_processor("core2duo").sets
    assert find_processor("qemu64").sets >= {"sse3", "cx16"}
    assert "atomics" not in find_processor("cortex-a53").sets
    assert find_processor("graviton3").sets >= {"sve", "asimddp", "atomics"}
    for name in known_processors():
        assert find_processor(name).architecture in ("x86_64", "aarch64")
    with pytest.raises(WheelError, match=r"no CPU model 'pentium9' is known; there are: .*Haswell|haswell"):
        find_processor("pentium9")


def test_every_machine_of_the_gate_is_a_processor_that_the_audit_knows() -> None:
    for platform in load().values():
        for machine in platform.machines:
            model = str(machine.model).partition(",")[0]  # without QEMU's switches
            if machine.model is not None and model != "max":
                assert find_processor(model).runs(platform.architecture)


def test_sets_imply_one_another() -> None:
    assert closure(["avx512bw"], "x86_64") >= {"avx512f", "avx2", "fma", "sse4_2", "popcnt", "xsave"}
    assert closure(["sve2"], "aarch64") >= {"sve", "fphp"}
    assert closure([], "x86_64") == frozenset()
