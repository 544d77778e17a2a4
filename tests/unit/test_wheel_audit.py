"""The audit of a whole wheel passes what is right and names each thing that is wrong; the controls are seen to fail.

The quick tests make small wheels of planted code and finish them as the real ones are; the slow ones build the project.
"""

import json
import platform
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import planted_code
import pytest
from planted_code import ATOMIC, IN_KERNEL, MERGED, OUTSIDE, STATIC_INITIALISER

from ci import cache, wheels
from ci.__main__ import main
from ci.audit.manifest import NAME as MANIFEST
from ci.audit.wheel import LARGEST, audit_wheel, check_wheel
from ci.finish import finish_wheel
from ci.platforms import Target, load_targets
from ci.wheel_file import WheelError, read_wheel, target_of

ROOT = Path(__file__).resolve().parents[2]
TARGETS = load_targets()
X86, ARM, MACOS = TARGETS["linux-x86_64"], TARGETS["linux-aarch64"], TARGETS["macos-arm64"]
KERNEL = {"x86_64": "avx2", "aarch64": "neon", "arm64": "neon"}
METADATA = """Metadata-Version: 2.4
Name: constann
Version: 0.1.0
License-Expression: Apache-2.0
License-File: LICENSE
License-File: THIRD-PARTY-LICENSES
Description-Content-Type: text/markdown

# A description
"""
INFORMATION = "constann-0.1.0.dist-info"
Members = Mapping[str, bytes | None]


def compiled(
    target: Target, folder: Path, *sources: str, flags: tuple[str, ...] = (), link: tuple[str, ...] = ()
) -> bytes:
    """A library with one right kernel, and with these sources."""
    if target is MACOS:
        link = (*link, "-Wl,-install_name,_core.so")
    build = planted_code.compile_with(target, cache.folder("wheels") / "zig", folder)
    kernel = IN_KERNEL.format(name=KERNEL[target.architecture], attributes="")
    return build(*sources, kernel, flags=flags, link=link).read_bytes()


def pack(path: Path, members: Members) -> Path:
    """Write a wheel with a true list of its files."""
    record = f"{INFORMATION}/RECORD"
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None and name != record:
                archive.writestr(name, content)
                digest = urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
                lines.append(f"{name},sha256={digest},{len(content)}\n")
        archive.writestr(record, "".join([*lines, f"{record},,\n"]))
    return path


def members_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def changed(wheel: Path, folder: Path, changes: Members, name: str = "") -> Path:
    """The wheel with these files in place of its own, or with None without them."""
    folder.mkdir(exist_ok=True)
    return pack(folder / (name or wheel.name), {**members_of(wheel), **changes})


def module_of(target: Target) -> str:
    return f"constann/_core{target.wheel.extension_suffix.format(abi='311')}"


def small_wheel(target: Target, folder: Path, module: bytes) -> Path:
    """A wheel of this machine code, finished as the project's own are."""
    tag = f"cp311-cp311-{re.sub(r'[-.]', '_', target.wheel.host_platform)}"
    licences = {f"{INFORMATION}/licenses/{name}": b"free" for name in ("LICENSE", "THIRD-PARTY-LICENSES")}
    raw: Members = {
        **{f"constann/{name}": b"" for name in ("__init__.py", "py.typed", "_core.pyi")},
        module_of(target): module,
        f"{INFORMATION}/METADATA": METADATA.encode(),
        f"{INFORMATION}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        **licences,
    }
    (folder / "raw").mkdir(exist_ok=True)
    path = pack(folder / "raw" / f"constann-0.1.0-{tag}.whl", raw)
    return finish_wheel(path, target, "311", folder / "finished", date="1577836800")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A small wheel for each of three platforms, with nothing wrong."""
    found = {}
    for target in (X86, ARM, MACOS):
        folder = tmp_path_factory.mktemp(target.name)
        flags = ("-mavx2",) if target is X86 else ()
        found[target.name] = small_wheel(target, folder, compiled(target, folder, flags=flags))
    return found


@pytest.mark.parametrize("target", [X86, ARM, MACOS], ids=lambda target: target.name)
def test_a_right_wheel_passes(right: Mapping[str, Path], target: Target) -> None:
    assert audit_wheel(right[target.name], target, "311") == []
    check_wheel(right[target.name], target, "311")
    assert main(["audit", str(right[target.name])]) == 0


def test_every_fault_is_on_a_line_of_the_error(right: Mapping[str, Path], tmp_path: Path) -> None:
    path = changed(right[X86.name], tmp_path, {"constann/py.typed": None, "constann/_core.pyi": None})
    with pytest.raises(WheelError, match=r"not a wheel for linux-x86_64:\n  - lacks .*py.typed\n  - lacks .*_core.pyi"):
        check_wheel(path, X86, "311")


WRONG_DESCRIPTION = METADATA.replace("text/markdown", "text/x-rst").encode()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"constann/py.typed": None}, "lacks constann/py.typed"),
        ({"constann/_core.pyi": None}, "lacks constann/_core.pyi"),
        ({MANIFEST: None}, f"lacks {MANIFEST}"),
        ({MANIFEST: b"{}\n"}, f"{MANIFEST} is not what the audit finds"),
        ({"tests/test_all.py": b""}, "tests/test_all.py would be installed beside other people's packages"),
        ({f"{INFORMATION}/licenses/LICENSE": None}, "lacks the licence file LICENSE"),
        ({f"{INFORMATION}/licenses/THIRD-PARTY-LICENSES": None}, "lacks the licence file THIRD-PARTY-LICENSES"),
        ({f"{INFORMATION}/METADATA": WRONG_DESCRIPTION}, "package indexes cannot show the description"),
        (
            {f"{INFORMATION}/METADATA": METADATA.replace("License-Expression: Apache-2.0\n", "").encode()},
            "names no licence",
        ),
        ({f"{INFORMATION}/METADATA": b"Metadata-Version: 2.4\nName: constann\n"}, "METADATA: 'version'"),
        ({f"{INFORMATION}/sboms/constann.cdx.json": None}, "lacks its list of parts"),
        ({f"{INFORMATION}/sboms/constann.cdx.json": b'{"components": []}'}, "is not in CycloneDX's format"),
        ({"constann/large.npy": bytes(LARGEST)}, "bytes, more than 2,097,152"),
        ({"constann/paths.py": f"HERE = '{ROOT}/cpp'".encode()}, "names a path of the machine it was built on"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(
    right: Mapping[str, Path], changes: Members, fault: str, tmp_path: Path
) -> None:
    faults = audit_wheel(changed(right[X86.name], tmp_path, changes), X86, "311")
    assert [each for each in faults if fault in each], faults


def test_a_list_of_files_that_is_not_true_is_a_fault(right: Mapping[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(right[X86.name], tmp_path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("constann/added.py", "")
    (fault,) = audit_wheel(path, X86, "311")
    assert fault == "constann/added.py is only in the wheel"


FOLDERS = (
    "/home/someone /root/it /host/work /io/cpp /opt/hostedtoolcache/Python /usr/src/app /data/build /tmp/pip-req-build"
    " /workspace/all /__w/constann/constann /Users/runner/work /private/var/folders /builds/group /nix/store /app/cpp"
)


def test_a_path_of_the_building_machine_is_found_wherever_it_built(tmp_path: Path) -> None:
    files = [f"{folder}/core/index.cpp" for folder in FOLDERS.split()]
    names = ", ".join(f'"{each}"' for each in files)
    source = f'extern "C" const char* here(int i) {{ static const char* all[] = {{{names}}}; return all[i]; }}'
    faults = audit_wheel(small_wheel(ARM, tmp_path, compiled(ARM, tmp_path, source)), ARM, "311")
    for each in files:
        assert f"{module_of(ARM)} names a path of the machine it was built on: {each}" in faults


def test_paths_that_every_machine_has_are_no_fault(tmp_path: Path) -> None:
    told = (
        "/proc/self/maps /usr/lib/libSystem.B.dylib /lib64/ld-linux-x86-64.so.2 https://example.org/a/page cpp/core/x"
    )
    source = f'extern "C" const char* here() {{ return "{told}"; }}'
    wheel = small_wheel(ARM, tmp_path, compiled(ARM, tmp_path, source))
    assert audit_wheel(wheel, ARM, "311") == []


# The controls: what must never be released.

TUNED = {"-march=x86-64-v3": "avx", "-march=x86-64-v2": "ssse3"}
SUMMED = """
namespace constann::exact { void sum(const int* a, const int* b, int* out) {
  for (int i = 0; i < 1024; ++i) out[i] = a[i] > b[i] ? a[i] : -b[i];
} }
"""


@pytest.mark.parametrize("flag", TUNED)
def test_a_wheel_compiled_for_newer_cpus_fails(flag: str, tmp_path: Path) -> None:
    faults = audit_wheel(small_wheel(X86, tmp_path, compiled(X86, tmp_path, SUMMED, flags=(flag,))), X86, "311")
    assert [each for each in faults if "constann::exact::sum" in each and "not every x86_64 CPU has" in each]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or "avx" not in Path("/proc/cpuinfo").read_text(),
    reason="needs a CPU that a native build uses more of: x86-64 with AVX",
)
def test_a_wheel_compiled_for_this_very_machine_fails(tmp_path: Path) -> None:
    module = compiled(X86, tmp_path, SUMMED, flags=("-march=native", "-O3"))
    faults = audit_wheel(small_wheel(X86, tmp_path, module), X86, "311")
    assert [each for each in faults if "constann::exact::sum" in each]


@pytest.mark.parametrize(
    ("target", "source", "blamed"),
    [
        (X86, OUTSIDE, "constann::exact::twice"),
        (X86, STATIC_INITIALISER, "_GLOBAL__sub_I"),
        (X86, MERGED.format(space="kernels::avx2") + MERGED.format(space="exact").partition(">\n")[2], "fill_n"),
        (ARM, planted_code.ASSEMBLY.format(text=ATOMIC), "constann::exact::planted()"),
        (ARM, planted_code.ASSEMBLY.format(text=planted_code.DOT), "constann::exact::planted()"),
        (ARM, planted_code.ASSEMBLY.format(text=planted_code.SCALABLE), "constann::exact::planted()"),
    ],
    ids=["outside", "static initialiser", "merged", "LSE", "sdot", "SVE"],
)
def test_a_wheel_with_a_planted_instruction_fails(target: Target, source: str, blamed: str, tmp_path: Path) -> None:
    flags = ("-mavx2", "-O3") if target is X86 else ()
    if "std::" in source:
        flags = (*flags, "-fno-inline")
    wheel = small_wheel(target, tmp_path, compiled(target, tmp_path, source, flags=flags))
    faults = audit_wheel(wheel, target, "311")
    assert faults and [each for each in faults if blamed in each], faults
    assert main(["audit", str(wheel)]) == 1


def test_an_x86_file_inside_an_arm_wheel_is_a_fault_and_no_error(
    right: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target in (ARM, MACOS):
        wrong = {module_of(target): members_of(right[X86.name])[module_of(X86)]}
        path = changed(right[target.name], tmp_path, wrong)
        assert target_of(read_wheel(path), TARGETS.values()) is target
        assert main(["audit", str(path)]) == 1
        assert f"is machine code for x86_64, expected {target.architecture}" in capsys.readouterr().out


def test_a_stripped_wheel_cannot_pass(right: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "module.so").write_bytes(compiled(X86, tmp_path, flags=("-mavx2", "-fvisibility=hidden")))
    subprocess.run(["strip", tmp_path / "module.so"], check=True)
    path = changed(right[X86.name], tmp_path, {module_of(X86): (tmp_path / "module.so").read_bytes()})
    assert [each for each in audit_wheel(path, X86, "311") if "no kernel has a name" in each]


NEW_GLIBC = 'extern "C" int pthread_join(unsigned long, void**); extern "C" int f() { return pthread_join(0, 0); }'


def test_a_wheel_tagged_older_than_its_symbols_fails(right: Mapping[str, Path], tmp_path: Path) -> None:
    """Linked against glibc 2.34, where threads moved, and put into a wheel whose tag promises 2.17."""
    newer = ("-target", "x86_64-linux-gnu.2.34", "-lc")
    module = compiled(X86, tmp_path, NEW_GLIBC, flags=("-mavx2",), link=newer)
    path = changed(right[X86.name], tmp_path, {module_of(X86): module})
    faults = audit_wheel(path, X86, "311")
    assert [each for each in faults if "needs glibc 2.34, but the tag promises 2.17" in each], faults


def test_macos_code_without_a_true_signature_is_a_fault(right: Mapping[str, Path], tmp_path: Path) -> None:
    signed = members_of(right[MACOS.name])[module_of(MACOS)]
    at = signed.index(b"\x00" * 32, 0x4000 if len(signed) > 0x4000 else 0)
    edited = signed[:at] + b"\x01" + signed[at + 1 :]
    (fault,) = macos_faults(right, tmp_path, edited)
    assert "its signature does not fit pages [" in fault
    # LC_CODE_SIGNATURE, made into a command that macOS passes over.
    command = signed.index(struct.pack("<II", 0x1D, 16))
    unsigned = signed[:command] + struct.pack("<I", 0x2B) + signed[command + 4 :]
    faults = macos_faults(right, tmp_path, unsigned)
    assert [each for each in faults if "has no signature: macOS kills" in each]


def macos_faults(right: Mapping[str, Path], folder: Path, module: bytes) -> list[str]:
    """What is wrong with the macOS wheel with this module, but for lists that no longer fit it."""
    faults = audit_wheel(changed(right[MACOS.name], folder, {module_of(MACOS): module}), MACOS, "311")
    return [each for each in faults if "does not list" not in each and MANIFEST not in each]


def test_arm_segments_that_large_pages_cannot_map_are_a_fault(right: Mapping[str, Path], tmp_path: Path) -> None:
    module = compiled(ARM, tmp_path, link=("-Wl,-z,max-page-size=4096",))
    faults = audit_wheel(changed(right[ARM.name], tmp_path, {module_of(ARM): module}), ARM, "311")
    assert [each for each in faults if "aligned to 4096 bytes, but pages may have 65536" in each], faults


def test_the_manifest_says_which_functions_use_what(right: Mapping[str, Path]) -> None:
    manifest = json.loads(members_of(right[X86.name])[MANIFEST])
    functions = manifest["files"][module_of(X86)]
    assert functions["constann::kernels::avx2::twice(float const*, float*)"] == {"kernels": "avx2", "sets": ["avx"]}


# The project itself


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(target: Target) -> Path:
        return wheels.build_wheel(target, ROOT, tmp_path_factory.mktemp("wheels"), cache=cache.folder("wheels"))

    return run


@pytest.mark.slow
def test_the_projects_wheel_passes_and_no_longer_with_an_older_tag(build: Callable[..., Path], tmp_path: Path) -> None:
    wheel = build(X86)
    assert main(["audit", str(wheel)]) == 0
    for model in ("core2duo", "Nehalem", "Haswell", "skylake-avx512"):
        assert main(["audit", str(wheel), "--cpu", model]) == 0
    older = "manylinux_2_12_x86_64"
    retag = [sys.executable, "-m", "wheel", "tags", "--platform-tag", f"manylinux2010_x86_64.{older}", wheel]
    subprocess.run(retag, check=True, capture_output=True)
    (retagged,) = wheel.parent.glob("*manylinux_2_12*.whl")
    abi = f"{sys.version_info.major}{sys.version_info.minor}"
    (fault,) = audit_wheel(retagged, X86, abi, tag=older)
    assert re.search(r"needs glibc 2\.1[3-7], but the tag promises 2\.12", fault)
    assert main(["audit", str(retagged)]) == 1


@pytest.mark.slow
def test_a_build_with_instructions_that_the_platforms_file_does_not_name_is_refused(build: Callable[..., Path]) -> None:
    without = replace(X86, kernels=tuple(each for each in X86.kernels if each.name != "avx2"))
    with pytest.raises(WheelError, match=r"not a wheel for linux-x86_64:") as error:
        build(without)
    assert "constann::kernels::avx2" in str(error.value) and "which not every x86_64 CPU has" in str(error.value)
