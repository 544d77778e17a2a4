"""A wheel is what its name says, or the error says what is wrong and where; compiler flags mean the same to zig.

Nothing is compiled here.
"""

import dataclasses
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packaging.tags import Tag

from ci import finish, python_headers, wheels, zig
from ci.platforms import Platform, load, load_targets
from ci.wheel_file import (
    Extension,
    Wheel,
    WheelError,
    expected_tags,
    find_faults,
    glibc_of_tag,
    read_wheel,
    running_version,
    target_of,
)

PLATFORMS = load()
X86, ARM = PLATFORMS["linux-x86_64"], PLATFORMS["linux-aarch64"]
EM = {"x86_64": 62, "aarch64": 183}
BOTH_NAMES = "manylinux2014_{0}.manylinux_2_17_{0}"


def tiny_elf(machine: str) -> bytes:
    """An ELF header and nothing else: enough to say which machine it is for."""
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", 3, EM[machine], 1, 0, 0, 0, 0, 64, 0, 0, 64, 0, 0)


def make_wheel(
    folder: Path, *, machine: str = "x86_64", tag: str = "", metadata: str = "", module: str = "", abi: str = "311"
) -> Path:
    """Make a wheel of the project; what is not given is right for x86-64 and CPython 3.11."""
    tag = tag or f"cp{abi}-cp{abi}-{BOTH_NAMES.format(machine)}"
    module = module or f"constann/_core.cpython-{abi}-{machine}-linux-gnu.so"
    path = folder / f"constann-0.1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("constann/__init__.py", "")
        archive.writestr(module, tiny_elf(machine))
        archive.writestr("constann-0.1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {metadata or tag}\n")
    return path


def faults_of(path: Path, platform: Platform, abi: str = "311") -> list[str]:
    return find_faults(read_wheel(path), platform, abi)


def good_extension() -> Extension:
    name = "constann/_core.cpython-311-x86_64-linux-gnu.so"
    return Extension(name, "x86_64", ("libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"), glibc=(2, 17))


def good_wheel(extension: Extension | None = None) -> Wheel:
    tags = expected_tags(X86, "311")
    return Wheel(Path("some.whl"), tags, tags, (extension or good_extension(),))


@pytest.mark.parametrize(("platform", "machine"), [(X86, "x86_64"), (ARM, "aarch64")], ids=["x86_64", "aarch64"])
def test_a_good_wheel_passes(platform: Platform, machine: str, tmp_path: Path) -> None:
    wheel = read_wheel(make_wheel(tmp_path, machine=machine))
    assert find_faults(wheel, platform, "311") == []
    assert wheel.extensions[0].machine == machine
    assert wheel.size == wheel.path.stat().st_size
    assert len(wheel.sha256) == 64


def test_the_tag_of_another_platform_is_named(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, tag="cp311-cp311-linux_x86_64")
    (fault,) = faults_of(path, X86)
    assert re.search(r"file name says cp311-cp311-linux_x86_64, expected .*manylinux_2_17_x86_64", fault)


def test_a_wheel_without_an_abi_is_refused(tmp_path: Path) -> None:
    """What scikit-build-core writes when it does not know the platform it was told."""
    path = make_wheel(tmp_path, tag="cp311-none-manylinux_2_17_x86_64")
    (fault,) = faults_of(path, X86)
    assert "the file name says cp311-none-manylinux_2_17_x86_64" in fault


def test_machine_code_of_another_machine_is_named(tmp_path: Path) -> None:
    tag = f"cp311-cp311-{BOTH_NAMES.format('aarch64')}"
    module = "constann/_core.cpython-311-aarch64-linux-gnu.so"
    path = make_wheel(tmp_path, machine="x86_64", tag=tag, module=module)
    (fault,) = faults_of(path, ARM)
    assert "aarch64-linux-gnu.so is machine code for x86_64, expected aarch64" in fault


def test_the_suffix_of_the_building_machine_is_named(tmp_path: Path) -> None:
    module = "constann/_core.cpython-311-x86_64-linux-gnu.so"
    path = make_wheel(tmp_path, machine="aarch64", module=module)
    faults = faults_of(path, ARM)
    assert any("does not end in .cpython-311-aarch64-linux-gnu.so" in fault for fault in faults)


def test_a_wheel_for_another_python_is_refused(tmp_path: Path) -> None:
    assert "expected cp313-cp313-" in faults_of(make_wheel(tmp_path), X86, "313")[0]


def test_a_renamed_wheel_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, metadata="cp311-cp311-linux_x86_64")
    (fault,) = faults_of(path, X86)
    assert "WHEEL file says cp311-cp311-linux_x86_64, unlike the file name" in fault


def test_every_fault_is_listed(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, machine="aarch64", tag="cp311-cp311-linux_x86_64", module="constann/_core.so")
    assert len(faults_of(path, X86)) == 3


def test_a_library_beyond_libc_is_a_fault() -> None:
    extension = dataclasses.replace(good_extension(), needed=("libc.so.6", "libstdc++.so.6"))
    (fault,) = find_faults(good_wheel(extension), X86, "311")
    assert "needs libstdc++.so.6" in fault


def test_symbols_newer_than_the_tag_are_a_fault() -> None:
    assert find_faults(good_wheel(), X86, "311") == []
    (fault,) = find_faults(good_wheel(dataclasses.replace(good_extension(), glibc=(2, 28))), X86, "311")
    assert "needs glibc 2.28, but the tag promises 2.17" in fault


def test_a_wheel_may_be_held_to_a_tag_of_its_own() -> None:
    """As cibuildwheel makes it in an image with a newer C library: that tag is then what must be true."""
    tag = "manylinux_2_34_x86_64"
    tags = expected_tags(X86, "311", tag)
    newer = Wheel(Path("some.whl"), tags, tags, (dataclasses.replace(good_extension(), glibc=(2, 34)),))
    assert find_faults(newer, X86, "311", tag) == []
    assert len(find_faults(newer, X86, "311")) == 2
    newest = dataclasses.replace(newer, extensions=(dataclasses.replace(good_extension(), glibc=(2, 38)),))
    (fault,) = find_faults(newest, X86, "311", tag)
    assert "needs glibc 2.38, but the tag promises 2.34" in fault


@pytest.mark.parametrize(
    ("tag", "machine", "suffix", "name"),
    [
        ("manylinux_2_17_aarch64", "x86_64", "x86_64-linux-gnu.so", "linux-aarch64"),
        ("manylinux2014_x86_64", "x86_64", "x86_64-linux-gnu.so", "linux-x86_64"),
        ("musllinux_1_2_x86_64", "x86_64", "x86_64-linux-gnu.so", "musllinux-x86_64"),
        ("macosx_14_0_arm64", "arm64", "darwin.so", "macos-arm64"),
        ("linux_x86_64", "x86_64", "x86_64-linux-musl.so", "musllinux-x86_64"),
        ("linux_aarch64", "aarch64", "aarch64-linux-gnu.so", "linux-aarch64"),
        ("linux_aarch64", "x86_64", "aarch64-linux-gnu.so", None),
        ("win_amd64", "x86_64", "win_amd64.pyd", None),
    ],
)
def test_a_wheel_is_for_what_its_tag_says(tag: str, machine: str, suffix: str, name: str | None) -> None:
    """As it comes from the compiler, `linux_…` says too little: then its file does."""
    extension = dataclasses.replace(good_extension(), name=f"constann/_core.cpython-311-{suffix}", machine=machine)
    wheel = dataclasses.replace(good_wheel(extension), name_tags=frozenset({Tag("cp311", "cp311", tag)}))
    found = target_of(wheel, load_targets().values())
    assert (found.name if found else None) == name


def test_a_wheel_without_machine_code_is_a_fault() -> None:
    (fault,) = find_faults(dataclasses.replace(good_wheel(), extensions=()), X86, "311")
    assert "no compiled file" in fault


def test_versions_are_compared_as_numbers() -> None:
    extensions = tuple(dataclasses.replace(good_extension(), glibc=glibc) for glibc in [(2, 4), (2, 17), ()])
    assert dataclasses.replace(good_wheel(), extensions=extensions).floor == "glibc 2.17"
    assert dataclasses.replace(good_wheel(), extensions=()).floor == "none"
    assert glibc_of_tag("manylinux_2_5_x86_64") < glibc_of_tag("manylinux_2_17_x86_64")
    assert glibc_of_tag("linux_x86_64") == ()


def test_tags_of_a_free_threaded_python() -> None:
    tags = {str(tag) for tag in expected_tags(X86, "314t")}
    assert tags == {"cp314-cp314t-manylinux_2_17_x86_64", "cp314-cp314t-manylinux2014_x86_64"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"not a zip"), "not a wheel that can be read"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "no .dist-info/WHEEL"),
        (lambda path: path.unlink(), "no such file"),
    ],
    ids=["no zip", "no metadata", "missing"],
)
def test_what_is_no_wheel_is_said_to_be_none(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    damage(path)
    with pytest.raises(WheelError, match=message) as error:
        read_wheel(path)
    assert str(path) in str(error.value)


def test_a_broken_elf_file_is_named(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("constann/broken.so", b"\x7fELF")
    with pytest.raises(WheelError, match=r"constann/broken\.so is a broken ELF file"):
        read_wheel(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file that is installed here")
def test_a_real_extension_is_read(tmp_path: Path) -> None:
    """numpy's own: its tag promises glibc 2.27 or so, and so its symbols ask for something not newer."""
    module = next(Path(np.__file__).parent.glob("_core/_multiarray_umath*.so"))
    path = make_wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(module, "numpy/_core/module.so")
    extension = next(each for each in read_wheel(path).extensions if each.name == "numpy/_core/module.so")
    assert extension.machine == sysconfig.get_platform().partition("-")[2]
    assert "libc.so.6" in extension.needed
    assert (2, 2) <= extension.glibc <= (2, 40)


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file that is installed here")
def test_a_wheel_that_does_not_keep_the_policy_is_refused(tmp_path: Path) -> None:
    """numpy's module asks for libraries that numpy's own wheel carries, and this one does not."""
    module = next(Path(np.__file__).parent.glob("_core/_multiarray_umath*.so"))
    machine = sysconfig.get_platform().partition("-")[2]
    path = make_wheel(tmp_path, tag=f"cp311-cp311-linux_{machine}", machine=machine, module="constann/none.txt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(module, f"constann/{module.name}")
        archive.writestr("constann-0.1.0.dist-info/RECORD", f"constann/{module.name},,\n")
    platform = PLATFORMS[f"linux-{machine}"]
    with pytest.raises(WheelError, match=rf"cannot be {platform.wheel.tag}: .*symbols .*GLIBC_.* lib\w*openblas"):
        finish.judge(path, platform.wheel.tag)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The wrapper around zig, with a zig that prints its arguments."""
    echo = tmp_path / "zig"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    monkeypatch.setattr(zig, "_find_zig", lambda: echo)

    def run(platform: Platform, *flags: str, once: bool = False) -> list[str]:
        toolchain = zig.make_toolchain(platform, tmp_path / "a folder", once=once)
        wrapper = Path(toolchain.environment["CONSTANN_CROSS_TOOLS"], "c++")
        answer = subprocess.run(
            [wrapper, *flags], env={**toolchain.environment}, capture_output=True, text=True, check=True
        )
        return answer.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    ("platform", "given", "meant"),
    [
        (X86, "-march=x86-64", "-mcpu=x86_64"),
        (X86, "-march=x86-64-v3", "-mcpu=x86_64_v3"),
        (X86, "-march=native", "-march=native"),
        (X86, "-mavx2", "-mavx2"),
        (ARM, "-march=armv8-a", "-mcpu=generic"),
        (ARM, "-march=armv8-a+dotprod", "-mcpu=generic+dotprod"),
        (ARM, "-march=armv8.2-a+dotprod", "-mcpu=generic+v8_2a+dotprod"),
        (ARM, "-march=armv8.2-a", "-mcpu=generic+v8_2a"),
    ],
)
def test_flags_are_translated_for_zig(
    compiler: Callable[..., list[str]], platform: Platform, given: str, meant: str
) -> None:
    arguments = compiler(platform, "-O2", given, "-c", "a file.cpp")
    assert arguments[-4:] == ["-O2", meant, "-c", "a file.cpp"]
    # Always a target and a CPU, and before the project's own: else zig compiles for the machine it runs on.
    assert arguments[:4] == ["c++", "-target", platform.compiler.zig_target, f"-mcpu={platform.compiler.zig_cpu}"]


def test_header_lists_are_left_out_only_where_the_folder_is_thrown_away(
    compiler: Callable[..., list[str]],
) -> None:
    flags = ["-MD", "-MT", "a.o", "-MF", "a.o.d", "-c", "a.cpp"]
    assert compiler(X86, *flags)[-7:] == flags
    assert compiler(X86, *flags, once=True)[-2:] == ["-c", "a.cpp"]
    assert "-MF" not in compiler(X86, *flags, once=True)


def test_cmakes_trial_program_is_not_linked(compiler: Callable[..., list[str]]) -> None:
    assert "-c" in compiler(X86, "CMakeCXXCompilerId.cpp")
    assert "-c" not in compiler(X86, "main.cpp")


def test_a_missing_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONSTANN_ZIG", raising=False)
    monkeypatch.setattr(zig, "find_spec", lambda name: None)
    with pytest.raises(zig.ToolchainError, match="pip install --group harness"):
        zig.make_toolchain(X86, tmp_path, once=True)


def test_missing_headers_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.python_headers.sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(python_headers.HeadersError, match=r"Python\.h is missing: .*apt-get install python.*-dev"):
        python_headers.headers_of(running_version(), tmp_path / "cache")


def test_headers_that_no_release_carries_name_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(
        python_headers.HeadersError, match=r"headers of Python 3\.99 are missing: .*names no release.*PATH"
    ):
        python_headers.headers_of("3.99", tmp_path)


def test_foreign_flags_do_not_reach_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = ["CXXFLAGS", "CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE", "CC"]
    kept = ["HTTPS_PROXY", "PIP_INDEX_URL", "SSL_CERT_FILE", "CMAKE_BUILD_PARALLEL_LEVEL"]
    for name in [*dropped, *kept]:
        monkeypatch.setenv(name, "given")
    toolchain = zig.Toolchain(tmp_path / "file", {})
    variables = wheels._variables(ARM, toolchain, "1577836800", "3.13")
    assert not variables.keys() & set(dropped)
    assert all(variables[name] == "given" for name in kept)
    assert variables["_PYTHON_HOST_PLATFORM"] == "linux-aarch64"
    assert variables["SETUPTOOLS_EXT_SUFFIX"] == ".cpython-313-aarch64-linux-gnu.so"


def test_the_date_of_a_wheel_is_never_the_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert wheels.date_of(tmp_path) == "1577836800"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert wheels.date_of(tmp_path) == "1700000000"


@pytest.mark.skipif(
    shutil.which("git") is None, reason="git is not on this machine: apt-get install git (Debian, Ubuntu)"
)
def test_the_date_does_not_depend_on_who_owns_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1700000001 +0000")
    for command in ("init -q", "-c user.name=a -c user.email=a@example.org commit -q --allow-empty -m a"):
        subprocess.run(["git", "-C", tmp_path, *command.split()], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert wheels.date_of(tmp_path) == "1700000001"


def test_a_build_with_a_planted_fault_has_a_log_of_its_own() -> None:
    names = [wheels._log_name(ARM, defines) for defines in ({}, {"FAULT": "1"}, {"FAULT": "2"})]
    names.append(wheels._log_name(X86, {}))
    assert len(set(names)) == 4 and names[0] == "linux-aarch64.txt"


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match=r"no project that can be built|cannot be built") as error:
        wheels.build_wheel(X86, tmp_path / "missing", tmp_path, cache=tmp_path, progress=lambda text: None)
    assert str(tmp_path / "missing") in str(error.value)


def test_wheels_are_built_again_only_where_a_source_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    source = tmp_path / "source"
    for name in wheels.SOURCES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).mkdir() if "." not in name and name.islower() else (source / name).touch()
    asked: list[list[str]] = []

    def build(platforms: list[Platform], *_: object, pythons: list[str], **__: object) -> dict[tuple[str, str], Path]:
        asked.append([each.name for each in platforms])
        made = {}
        for each in platforms:
            for python in pythons:
                made[each.name, python] = tmp_path / f"{each.name}-{python}-{len(asked)}.whl"
                made[each.name, python].write_text("a wheel")
        return made

    def keep(*platforms: Platform) -> list[str]:
        output = tmp_path / f"output-{len(list(tmp_path.iterdir()))}"
        found = wheels.keep_wheels(platforms, source, output, cache=tmp_path, pythons=[running_version()])
        assert all(path.parent == output and path.exists() for path in found.values())
        return [name for name, _ in found]

    monkeypatch.setattr(wheels, "build_wheels", build)
    assert keep(X86) == keep(X86) == [X86.name] and asked == [[X86.name]]
    assert keep(X86, ARM) == [X86.name, ARM.name] and asked[1:] == [[ARM.name]]
    (source / "cpp" / "new.cpp").write_text("int x;")
    keep(X86)
    assert asked[2:] == [[X86.name]]
