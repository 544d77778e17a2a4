"""The doctor says what is wrong and what to do, survives what dies, and never says that all is well where it is not."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import constann
from ci.audit.wheel import audit_wheel
from ci.platforms import load_targets
from constann import __main__ as command_line
from constann import _core
from constann.doctor import binaries, examination, known_answers, machine, sentences
from constann.doctor.children import Ended, Runner

PACKAGE = Path(constann.__file__).parent
EXTENSION = Path(_core.__file__)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="ELF files are Linux's: run this on Linux")
OLD_CPU = machine.Cpu("an old one", "x86_64", frozenset({"sse2", "sse3"}))
NEW_CPU = machine.Cpu("a new one", "x86_64", frozenset({*machine.X86_64_V2, "avx2"}))


def run(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def doctor(folder: Path | None = None, **environment: str) -> tuple[int, dict[str, Any]]:
    done = run("-m", "constann", "doctor", "--json", folder=folder, **environment)
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


# What must not be imported


def test_import_constann_imports_neither_numpy_nor_the_extension() -> None:
    done = run("-c", "import sys, constann; print({'numpy', 'constann._core', 'constann.indexes'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr
    # That the check can fail: the first use imports both.
    used = run("-c", "import sys, constann; constann.build; print({'numpy', 'constann._core'} <= set(sys.modules))")
    assert used.stdout.strip() == "True", used.stderr


def test_every_public_name_is_there_at_first_use_and_by_star() -> None:
    code = """
import constann
assert set(constann.__all__) <= set(dir(constann))
names = {}
exec("from constann import *", names)
assert set(constann.__all__) <= set(names)
assert names["open"] is constann.open is constann.indexes.open_index
assert names["kernels"].available() == constann.kernels.available()
assert names["FileFormatError"] is constann.errors.FileFormatError
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert constann.__version__ == version("constann")
    with pytest.raises(AttributeError, match="module 'constann' has no attribute 'nothing'"):
        _ = constann.nothing


def test_the_doctors_own_process_imports_neither_numpy_nor_the_extension() -> None:
    code = """
import sys
from constann.__main__ import main
status = main(["doctor"])
assert not {"numpy", "constann._core", "click", "ctypes"} & set(sys.modules), sorted(sys.modules)
sys.exit(status)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stdout + done.stderr


# A machine where all is well


def test_where_all_is_well_it_says_so() -> None:
    status, found = doctor()
    assert (status, found["ok"], found["problems"]) == (0, True, [])
    assert found["cpu"]["architecture"] in found["extension"]["machines"]
    assert found["numpy"]["version"] == np.__version__
    assert found["extension"]["file"] == str(EXTENSION)
    assert found["kernels"]["current"] == constann.kernels.current()
    runnable = [each["name"] for each in found["kernels"]["sets"] if not each["lacking"]]
    assert runnable == found["known_answers"]["sets"] == [each.name for each in constann.kernels.available()]
    assert {"exact cosine", "forest hamming"} <= set(found["known_answers"]["fingerprints"])


def test_as_text_the_cpu_comes_first_and_the_verdict_last() -> None:
    done = run("-m", "constann", "doctor")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("CPU ") and lines[-1] == "all is well"


def test_the_installed_command_is_the_same() -> None:
    entry = Path(sys.executable).with_name("constann")
    done = subprocess.run([entry, "doctor", "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True), done.stderr


def test_other_commands_say_what_the_command_line_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    assert command_line.main(["record", "a.rec"]) == 2
    assert "pip install 'click>=8.1' 'rich>=13'" in capsys.readouterr().err


def test_other_commands_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    commands = ModuleType("constann.command_line")
    vars(commands)["main"] = seen.append
    monkeypatch.setitem(sys.modules, "constann.command_line", commands)
    monkeypatch.setattr(command_line, "find_spec", lambda name: "there")
    assert command_line.main(["record", "a.rec"]) == 0
    assert seen == [["record", "a.rec"]]


# Deaths


def launcher(folder: Path, body: str) -> str:
    """A program that stands before Python, as an emulator does, and does `body` with the child's code."""
    path = folder / "launcher.py"
    path.write_text(f"import os, signal, sys\ncode = sys.argv[-1]\n{body}\nos.execv(sys.argv[1], sys.argv[1:])\n")
    return f"{sys.executable} {path}"


def test_numpy_dying_of_an_illegal_instruction_on_an_old_cpu_is_named_with_the_remedy(tmp_path: Path) -> None:
    body = """
if "'features'" in code:
    print('["sse2", "sse3"]')
    sys.exit()
if "'numpy'" in code:
    os.kill(os.getpid(), signal.SIGILL)
"""
    status, found = doctor(CONSTANN_LAUNCHER=launcher(tmp_path, body))
    assert (status, found["numpy"]["signal"]) == (1, "SIGILL")
    if machine.running_machine() == "x86_64" and sentences.release(np.__version__) >= (2, 4):
        assert found["problems"] == [
            f"numpy {np.__version__} needs x86-64-v2; this CPU lacks SSSE3 (ssse3), SSE4.1 (sse4_1), SSE4.2 (sse4_2), "
            "POPCNT (popcnt): pip install 'numpy<2.4'"
        ]
    else:
        assert f"numpy {np.__version__} died of SIGILL" in found["problems"][0]
    # The rest is examined all the same.
    assert found["core"]["loads"] and found["kernels"]["sets"]
    assert found["known_answers"] == {"run": False}


def test_the_extension_dying_is_named_and_the_doctor_lives(tmp_path: Path) -> None:
    body = """if "'core'" in code: os.kill(os.getpid(), signal.SIGILL)"""
    status, found = doctor(CONSTANN_LAUNCHER=launcher(tmp_path, body))
    assert (status, found["core"]["signal"], len(found["problems"])) == (1, "SIGILL", 1)
    assert "constann's extension died of SIGILL (illegal instruction)" in found["problems"][0]


def test_a_child_that_dies_later_is_named_too(tmp_path: Path) -> None:
    body = """if "'answers'" in code: os.kill(os.getpid(), signal.SIGSEGV)"""
    status, found = doctor(CONSTANN_LAUNCHER=launcher(tmp_path, body))
    assert (status, found["known_answers"]["signal"]) == (1, "SIGSEGV")
    assert "died of SIGSEGV" in found["problems"][0]


def test_a_launcher_that_is_not_there_is_an_error_not_a_pass() -> None:
    status, found = doctor(CONSTANN_LAUNCHER="/there/is/no/qemu -cpu old")
    assert status == 1
    assert "/there/is/no/qemu does not start" in found["problems"][0]


@pytest.mark.parametrize("status", [-signal.SIGILL, 128 + signal.SIGILL])
def test_a_signal_is_known_by_both_of_its_statuses(status: int, tmp_path: Path) -> None:
    kind = "os.kill(os.getpid(), signal.SIGILL)" if status < 0 else f"os._exit({status})"
    ended = Runner(tuple(launcher(tmp_path, kind).split())).run("numpy")
    assert (ended.status, ended.signal, ended.ok) == (status, "SIGILL", False)


def test_a_child_that_hangs_is_ended_and_named(tmp_path: Path) -> None:
    ended = Runner(tuple(launcher(tmp_path, "signal.pause()").split()), timeout=0.3).run("core")
    assert not ended.ok
    assert "did not end in 0.3 s" in sentences.explain_core(ended, NEW_CPU)


def test_a_child_that_says_nothing_is_not_ok(tmp_path: Path) -> None:
    ended = Runner(tuple(launcher(tmp_path, "sys.exit()").split())).run("core")
    assert (ended.status, ended.ok) == (0, False)
    assert "without an answer" in sentences.explain_core(ended, NEW_CPU)


# What systems say of their CPU


def test_linux_names_an_x86_cpu_and_its_features() -> None:
    first = "processor\t: 0\nmodel name\t: Old One\nflags\t\t: fpu sse2 pni cx16 lahf_lm\n"
    cpu = machine.cpu_of_cpuinfo(f"{first}\nmodel name\t: Other\nflags\t: avx2\n")
    assert (cpu.model, cpu.features) == ("Old One", {"sse2", "sse3", "cx16", "lahf_lm"})
    assert cpu.lacks(machine.X86_64_V2) == ["ssse3", "sse4_1", "sse4_2", "popcnt"]


def test_linux_names_an_arm_cpu_by_its_numbers() -> None:
    cpu = machine.cpu_of_cpuinfo("Features\t: fp asimd asimddp evtstrm\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    assert (cpu.model, cpu.features) == ("implementer 0x41, part 0xd0c", {"fp", "asimd", "asimddp"})


def test_what_linux_does_not_tell_is_unknown_not_missing() -> None:
    cpu = machine.cpu_of_cpuinfo("processor : 0\n")
    assert (cpu.model, cpu.features, cpu.lacks(machine.X86_64_V2)) == ("unknown", None, [])


def test_macos_names_its_cpu() -> None:
    text = "hw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_FHM: 0\n"
    cpu = machine.cpu_of_sysctl(f"{text}machdep.cpu.brand_string: Apple M2\n")
    assert (cpu.model, cpu.features) == ("Apple M2", {"asimd", "asimddp"})
    assert cpu.lacks(("asimddp", "asimdfhm", "sse4_2")) == ["asimdfhm"]


# Emulators


def test_an_emulator_is_found_in_the_command_line() -> None:
    python = ["python", "-m", "constann", "doctor"]
    assert machine.emulator_in(["/bin/python", "-m", "constann", "doctor"], python) == ()
    found = machine.emulator_in(["/c/qemu", "-cpu", "max", "/bin/python", "-m", "constann", "doctor"], python)
    assert found == ("/c/qemu", "-cpu", "max")


def test_an_emulator_whose_command_line_is_not_understood_is_an_error() -> None:
    for command in (["qemu-x86_64", "python", "-c", "1"], ["qemu-x86_64", "wrapper.sh", "x", "y"]):
        with pytest.raises(machine.LauncherError, match="Set CONSTANN_LAUNCHER"):
            machine.emulator_in(command, ["python", "-m", "constann"])


def test_children_are_started_through_the_emulator_unless_the_kernel_does_that(tmp_path: Path) -> None:
    """In a container whose programs the kernel starts through QEMU, QEMU is in the command line and nowhere else."""
    python = ["python", "-m", "constann", "doctor"]
    emulator = tmp_path / "qemu-aarch64-static"
    gone = machine.launcher_in([str(emulator), *python], python)
    emulator.touch(mode=0o755)
    there = machine.launcher_in([str(emulator), *python], python)
    assert gone and (gone.command, gone.name) == ((), str(emulator))
    assert there and (there.command, there.name) == ((str(emulator),), str(emulator))
    assert machine.launcher_in(python, python) is None


@pytest.mark.slow
def test_on_an_old_cpu_numpy_2_4_dies_and_the_doctor_says_why() -> None:
    qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if machine.running_machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("plays an old x86-64 CPU with this machine's Python: run this on x86-64 Linux")
    if qemu is None:
        pytest.skip("qemu-x86_64-static is missing: apt-get install qemu-user-static")
    if sentences.release(np.__version__) < (2, 4):
        pytest.skip("numpy 2.4 or newer is what dies there: pip install 'numpy>=2.4'")
    command = [qemu, "-cpu", "qemu64", sys.executable, "-m", "constann", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["numpy"]["signal"]) == (1, "SIGILL")
    assert found["cpu"]["launcher"] == f"{qemu} -cpu qemu64"
    assert len(found["problems"]) == 1
    assert re.fullmatch(
        r"numpy \S+ needs x86-64-v2; this CPU lacks .*SSE4\.2 \(sse4_2\).*: pip install 'numpy<2\.4'",
        found["problems"][0],
    )
    # Not this machine's kernels: the children ran on the played CPU.
    assert found["kernels"]["current"] == "baseline"
    assert found["extension"]["file"] == str(EXTENSION)


# Damaged and foreign extension files


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, whose extension may be spoilt."""
    shutil.copytree(PACKAGE, tmp_path / "constann", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def spoil(folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = folder / "constann" / EXTENSION.name
    before = path.read_bytes()
    after = change(before)
    assert after != before
    path.write_bytes(after)


def other_machine(content: bytes) -> bytes:
    number = 183 if machine.running_machine() == "x86_64" else 62
    return content[:18] + struct.pack("<H", number) + content[20:]


def newer_glibc(content: bytes) -> bytes:
    newest = max(re.findall(rb"\0(GLIBC_2\.\d\d)\0", content))
    return content.replace(newest + b"\0", b"GLIBC_2.99"[: len(newest)] + b"\0")


@on_linux
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_machine, r"was built for (aarch64|x86_64), but this Python is for "),
        (newer_glibc, r"lacks GLIBC_2\.99, which constann's extension needs: install a wheel for this system"),
        (lambda content: content.replace(b"libc.so.6\0", b"libc.so.9\0"), r"libc\.so\.9 is missing, which"),
        (lambda content: content[:3000], r"cannot be read \(it is damaged or truncated"),
        (lambda content: b"", r"cannot be read \(it is empty"),
        (
            lambda content: content.replace(b"\0PyObject_Str\0", b"\0PyObject_Sto\0"),
            r"does not fit this Python or these libraries \(the loader misses the symbol PyObject_Sto\)",
        ),
    ],
    ids=["machine", "glibc", "library", "cut", "empty", "symbol"],
)
def test_an_extension_that_cannot_load_here_is_one_problem_with_its_cause(
    change: Callable[[bytes], bytes], expected: str, copied: Path
) -> None:
    spoil(copied, change)
    status, found = doctor(copied)
    assert status == 1 and not found["core"]["loads"]
    assert len(found["problems"]) == 1, found["problems"]
    assert re.search(expected, found["problems"][0]), found["problems"]


@on_linux
def test_an_extension_for_another_python_is_named(copied: Path) -> None:
    path = copied / "constann" / EXTENSION.name
    path.rename(path.with_name("_core.cpython-399-x86_64-linux-gnu.so"))
    status, found = doctor(copied)
    assert status == 1
    assert "has _core.cpython-399-x86_64-linux-gnu.so, which is for another Python" in found["problems"][0]


def test_a_package_without_an_extension_is_named(copied: Path) -> None:
    (copied / "constann" / EXTENSION.name).unlink()
    status, found = doctor(copied)
    assert (status, found["extension"]["file"]) == (1, None)
    assert "has no extension file: it is a source folder or a damaged installation" in found["problems"][0]


def test_a_missing_or_broken_numpy_is_named(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\")")
    status, found = doctor(tmp_path)
    assert (status, found["problems"]) == (1, ["numpy is missing: pip install 'numpy>=1.26'"])


def test_an_unknown_forced_kernel_set_is_a_problem() -> None:
    status, found = doctor(CONSTANN_KERNELS="avx1024")
    assert status == 1
    assert "CONSTANN_KERNELS: there are no kernels named 'avx1024'" in found["problems"][0]


def test_a_forced_kernel_set_is_shown_as_forced() -> None:
    done = run("-m", "constann", "doctor", CONSTANN_KERNELS="scalar")
    assert "scalar, in use: CONSTANN_KERNELS=scalar" in done.stdout
    assert done.returncode == 0


# Sentences


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("ImportError: /lib/libc.so.6: version `GLIBC_2.38' not found (required by x)", "C library lacks GLIBC_2.38"),
        ("ImportError: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (r)", "libstdc++ lacks GLIBCXX_3.4.32"),
        ("ImportError: libstdc++.so.6: cannot open shared object file: No such file", "libstdc++.so.6 is missing"),
        ("ImportError: libfoo.so.3: cannot open shared object file: No such file", "libfoo.so.3 is missing"),
        ("ImportError: Error loading shared library ld-linux-x86-64.so.2: No such", "such as Alpine"),
        ("ImportError: /x/_core.so: wrong ELF class: ELFCLASS32", "built for another machine"),
        ("ImportError: /x/_core.so: invalid ELF header", "built for another machine"),
        ("OSError: [Errno 8] Exec format error: '/x'", "built for another machine"),
        (
            "ImportError: dlopen(x): (mach-o file, but is an incompatible architecture (have",
            "built for another machine",
        ),
        ("ImportError: /x/_core.so: undefined symbol: PyFoo", "the loader misses the symbol PyFoo"),
        ("ImportError: Error relocating /x/_core.so: PyFoo: symbol not found", "the loader misses the symbol PyFoo"),
        ("ValueError: numpy.dtype size changed, may indicate binary incompatibility", "do not fit each other"),
        ("ImportError: numpy.core.multiarray failed to import", "do not fit each other"),
        ("A module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.0.0", "do not fit each other"),
        ("KeyError: 'something else'", "does not work: KeyError: 'something else'"),
    ],
)
def test_each_known_error_has_its_sentence(errors: str, expected: str) -> None:
    said = sentences.explain_core(Ended(None, f"Traceback:\n  {errors}", 1), NEW_CPU)
    assert expected in said
    assert "\\" not in said and "{" not in said


@pytest.mark.parametrize(
    ("ended", "numpy", "cpu", "expected"),
    [
        (Ended(None, "", -4, "SIGILL"), "2.4.0", OLD_CPU, r"needs x86-64-v2; .*SSE4\.2.*: pip install 'numpy<2\.4'"),
        (Ended(None, "", -4, "SIGILL"), "2.10.1", OLD_CPU, r"needs x86-64-v2; .*cx16, lahf_lm: pip install"),
        (Ended(None, "", -4, "SIGILL"), "2.4.0", NEW_CPU, r"does not seem to have: pip install 'numpy<2\.4'"),
        (Ended(None, "", -4, "SIGILL"), "2.3.5", OLD_CPU, r"died of SIGILL .* Install numpy's own wheel"),
        (
            Ended(None, "RuntimeError: NumPy was built with baseline optimizations: \n(X86_V2) but your machine", 1),
            "2.4.6",
            OLD_CPU,
            r"needs x86-64-v2; .*: pip install 'numpy<2\.4'",
        ),
        (Ended({"version": "1.24.0"}, "", 0), "1.24.0", NEW_CPU, r"older than 1\.26"),
        (Ended(None, "ModuleNotFoundError: No module named 'numpy'", 1), None, NEW_CPU, "numpy is missing"),
        (Ended(None, "No module named 'numpy._core._multiarray_umath'", 1), "2.3.5", NEW_CPU, "not whole"),
        (Ended(None, "", -11, "SIGSEGV"), "2.3.5", NEW_CPU, "numpy 2.3.5 died of SIGSEGV"),
    ],
)
def test_each_way_numpy_fails_has_its_sentence(
    ended: Ended, numpy: str | None, cpu: machine.Cpu, expected: str
) -> None:
    assert re.search(expected, sentences.explain_numpy(ended, numpy, cpu))


def test_a_feature_that_nobody_told_of_is_not_called_missing() -> None:
    seen = NEW_CPU.as_seen_by_the_extension(["sse2", "sse3"])
    assert seen.lacks(machine.X86_64_V2) == ["ssse3", "sse4_1", "sse4_2", "popcnt"]
    assert NEW_CPU.as_seen_by_the_extension(None).lacks(machine.X86_64_V2) == []


# Compiled files


@on_linux
def test_needs_are_those_that_readelf_prints() -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is missing: apt-get install binutils")
    binary = binaries.read(EXTENSION)
    printed = subprocess.run([readelf, "-dVW", EXTENSION], capture_output=True, text=True, check=True).stdout
    assert list(binary.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", printed)
    versions = {each for all_of in binary.needed_versions.values() for each in all_of}
    needs = printed[printed.index(".gnu.version_r") :]
    assert versions == set(re.findall(r"Name: ([\w.]+)  Flags", needs))
    assert versions


@pytest.mark.parametrize(
    ("content", "machines"),
    [
        (struct.pack("<II", 0xFEEDFACF, 0x0100000C) + bytes(24), ("arm64",)),
        (struct.pack("<II", 0xFEEDFACF, 0x01000007) + bytes(24), ("x86_64",)),
        (
            struct.pack(">II", 0xCAFEBABE, 2)
            + struct.pack(">5I", 0x01000007, 3, 0, 0, 0)
            + struct.pack(">5I", 0x0100000C, 0, 0, 0, 0),
            ("x86_64", "arm64"),
        ),
        (b"\x7fELF\1\1" + bytes(12) + struct.pack("<H", 3) + bytes(32), ("i686",)),
        (b"\x7fELF\2\2" + bytes(12) + struct.pack(">H", 22) + bytes(44), ("s390x",)),
    ],
    ids=["arm64 Mac", "Intel Mac", "universal", "32 bits", "big-endian"],
)
def test_the_machine_of_foreign_files_is_known(content: bytes, machines: tuple[str, ...]) -> None:
    assert binaries.parse(content).machines == machines


WHOLE = EXTENSION.read_bytes()


@on_linux
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    content = (
        bytearray(WHOLE[: data.draw(st.integers(0, len(WHOLE)))]) if data.draw(st.booleans()) else bytearray(WHOLE)
    )
    # The headers and the tables they lead to lie in the first pages and at the dynamic section.
    places = st.one_of(st.integers(0, 1024), st.integers(0, max(0, len(content) - 1)))
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=30)):
        if at < len(content):
            content[at] = value
    try:
        binaries.parse(bytes(content))
    except binaries.BinaryError as error:
        assert str(error)


@given(
    content=st.binary(max_size=300), magic=st.sampled_from([b"\x7fELF\2\1", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"])
)
def test_any_bytes_are_read_or_refused(content: bytes, magic: bytes) -> None:
    try:
        binaries.parse(magic + content)
    except binaries.BinaryError as error:
        assert str(error)


# Instruction sets, as the wheel's audit listed them


def list_instructions(folder: Path, name: str) -> Path:
    path = folder / "constann" / "instruction_sets.json"
    functions = {
        "constann::kernels::avx2::one()": {"sets": ["avx", "avx2"], "kernels": "avx2"},
        "constann::kernels::avx2::many()": {"sets": ["avx"], "kernels": "avx2"},
        "constann::kernels::cpu_features()": {"sets": ["xsave"]},
    }
    path.write_text(json.dumps({"platform": "linux-x86_64", "files": {f"constann/{name}": functions}}))
    return path


def test_the_wheels_list_of_instruction_sets_is_shown(copied: Path) -> None:
    list_instructions(copied, EXTENSION.name)
    status, found = doctor(copied)
    assert status == 0 and found["instructions"]["listed"]
    assert len(found["instructions"]["files"][f"constann/{EXTENSION.name}"]) == 3
    told = run("-m", "constann", "doctor", folder=copied).stdout
    assert "audited for linux-x86_64: every CPU there runs all but" in told
    assert "1 function that asks the CPU first: xsave" in told
    assert "2 functions of the kernels avx2: avx avx2" in told


def test_a_list_that_is_missing_is_no_problem_and_one_of_another_file_is(copied: Path) -> None:
    list_instructions(copied, "x").unlink()
    assert doctor(copied)[1]["instructions"] == {"listed": False}
    list_instructions(copied, "_core.of-another-python.so")
    status, found = doctor(copied)
    assert status == 1 and "does not list the extension that loads" in found["problems"][0]


json_values = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["files", "x", "sets"]), inner),
)


@settings(deadline=None)
@given(content=st.binary(max_size=20) | st.builds(lambda value: json.dumps(value).encode(), json_values))
def test_any_list_is_read_or_said_to_be_damaged(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("package")
    (folder / "instruction_sets.json").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination, "_PACKAGE", folder)
        section = examination._instruction_sets("/somewhere/x")
    assert section.lines or section.problems


def test_a_tuned_build_is_marked() -> None:
    answer = {"compiler": "c", "arithmetic_revision": 0, "builder_revision": 0, "planted_faults": "", "tuned_for": ""}
    plain = examination._core(Ended(answer, "", 0), NEW_CPU, explained=False)
    assert not [line for line in plain.lines if "tuned" in line]
    tuned = examination._core(Ended({**answer, "tuned_for": "x86-64-v3"}, "", 0), NEW_CPU, explained=False)
    assert "tuned: built with CONSTANN_BASELINE=x86-64-v3, for no older CPU" in tuned.lines
    assert doctor()[1]["core"]["tuned_for"] == _core.tuned_for


@pytest.mark.slow
def test_a_build_that_asks_for_more_than_every_cpu_has_says_so_itself_and_is_no_wheel_for_release(
    tmp_path: Path,
) -> None:
    running = machine.running_machine()
    asked = {"x86_64": "x86-64-v2", "aarch64": "armv8-a+crc", "arm64": "armv8-a+crc"}[running]
    options = [f"-Ccmake.define.CONSTANN_BASELINE={asked}", "-Cinstall.strip=false"]
    root = Path(__file__).resolve().parents[2]
    built = run("-m", "build", "--wheel", "--outdir", str(tmp_path), *options, str(root))
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("constann-*.whl")
    shutil.unpack_archive(wheel, tmp_path / "unpacked", "zip")
    status, found = doctor(tmp_path / "unpacked")
    assert (status, found["core"]["tuned_for"]) == (0, asked)
    assert f"CONSTANN_BASELINE={asked}" in run("-m", "constann", "doctor", folder=tmp_path / "unpacked").stdout
    if running == "x86_64":  # no compiler uses a checksum's instructions by itself
        faults = audit_wheel(wheel, load_targets()["linux-x86_64"], f"{sys.version_info.major}{sys.version_info.minor}")
        assert [each for each in faults if "constann::" in each and "which not every x86_64 CPU has" in each]


# Known answers


@pytest.mark.parametrize("function", ["inner_product", "squared_euclidean", "manhattan"])
def test_the_stored_bits_are_those_of_the_reference(function: str) -> None:
    for dim in known_answers.DIMS:
        query, rows = known_answers.inputs(dim)
        expected = getattr(reference, function)(query, rows)
        assert known_answers.EXPECTED[function, dim] == known_answers.hexadecimal(expected)


def test_the_known_answer_test_passes_here() -> None:
    found = known_answers.run()
    assert found["problems"] == []
    assert found["answers"] > 20 and len(found["fingerprints"]) >= 10


def test_one_wrong_bit_of_one_set_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = _core.kernel_answers

    def wrong(kernels: str, *arguments: Any) -> np.ndarray:
        answers = right(kernels, *arguments)
        if kernels == "scalar" and arguments[0] == "manhattan" and arguments[-1]:
            answers.view(np.uint32)[-1] ^= 1
        return answers

    monkeypatch.setattr(_core, "kernel_answers", wrong)
    problems = known_answers.run()["problems"]
    assert problems == [
        f"the kernels 'scalar' answer wrongly: manhattan of dim {dim} by groups" for dim in known_answers.DIMS
    ]


def test_an_index_that_depends_on_the_kernel_set_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = constann.kernels.available()
    if len(sets) < 2:
        pytest.fail("every architecture has two kernel sets at least")
    fingerprint = constann.Index.fingerprint.fget  # type: ignore[attr-defined]
    other = property(lambda index: fingerprint(index) + ("x" if constann.kernels.current() == sets[-1].name else ""))
    monkeypatch.setattr(constann.Index, "fingerprint", other)
    problems = known_answers.run()["problems"]
    assert problems and all("another fingerprint with the kernels" in problem for problem in problems)


def test_the_doctor_is_in_the_package_and_says_how_to_start_it() -> None:
    assert find_spec("constann.doctor.report") is not None
    done = run("-m", "constann", "doctor", "--help")
    assert "CONSTANN_LAUNCHER" in done.stdout
