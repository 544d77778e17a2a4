"""Another project's wheel is built from its own sources and switches, for every CPU, or refused with the reason."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ci import foreign, sbom, wheels, zig
from ci.__main__ import main
from ci.audit.command import verdict_of
from ci.platforms import load, load_targets
from ci.wheel_file import Extension, Wheel, WheelError, expected_tags

PLATFORMS = load()
X86, ARM = PLATFORMS["linux-x86_64"], PLATFORMS["linux-aarch64"]
ANNOY_SWITCHES = {"ANNOY_COMPILER_ARGS": "-D_CRT_SECURE_NO_WARNINGS,-DANNOYLIB_MULTITHREADED_BUILD,-mtune=native"}


def sdist(path: Path, *, date: int = 1_600_000_000, folder: str = "thing-1.0/") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"PKG-INFO": b"Name: thing\n", "setup.py": b"pass\n"}.items():
            information = tarfile.TarInfo(f"{folder}{name}")
            information.size, information.mtime = len(content), date
            archive.addfile(information, io.BytesIO(content))
    return path


def built(tmp_path: Path, target: str = "linux-x86_64", *remarks: str) -> foreign.Built:
    platform = PLATFORMS[target]
    tag = f"cp311-cp311-manylinux2014_{platform.architecture}.manylinux_2_17_{platform.architecture}"
    path = tmp_path / f"some_thing-1.0-{tag}.whl"
    path.write_bytes(target.encode())
    tags = expected_tags(platform, "311")
    name = f"thing{platform.wheel.extension_suffix.format(abi='311')}"
    extension = Extension(name, platform.architecture, ("libc.so.6",), glibc=(2, 17), alignment=0x10000)
    return foreign.Built(platform, "3.11", Wheel(path, tags, tags, (extension,)), verdict_of(path.name, {}), remarks)


def test_an_sdist_dates_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    found = foreign.find_sources(str(sdist(tmp_path / "thing-1.0.tar.gz")), tmp_path)
    assert (found.folder / "setup.py").is_file() and found.date == "1600000000"
    assert found.origin.startswith("thing-1.0.tar.gz  SHA-256 ")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here: apt-get install git (Debian, Ubuntu)")
def test_a_checkout_is_copied_without_what_git_ignores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1700000001 +0000")
    checkout = tmp_path / "checkout"
    (checkout / "build").mkdir(parents=True)
    (checkout / "build" / "old.o").touch()
    (checkout / ".gitignore").write_text("build/\n")
    (checkout / "setup.py").touch()
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@example.org commit -q -m a"):
        subprocess.run(["git", "-C", checkout, *command.split()], check=True)
    (tmp_path / "work").mkdir()
    found = foreign.find_sources(str(checkout), tmp_path / "work")
    assert (found.folder / "setup.py").is_file() and not (found.folder / "build").exists()
    assert found.date == "1700000001"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("thing", "name one version, such as thing==1.2.3"),
        ("thing>=1", "name one version"),
        ("no/such/thing-1.0.tar.gz", "no such sdist"),
        ("no/such folder", "no folder, no sdist and no NAME==VERSION"),
    ],
)
def test_what_cannot_be_wanted_is_said(wanted: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(WheelError, match=told):
        foreign.find_sources(wanted, tmp_path)


def test_a_broken_sdist_is_named(tmp_path: Path) -> None:
    (tmp_path / "thing-1.0.tar.gz").write_bytes(b"no archive")
    with pytest.raises(WheelError, match=r"thing-1\.0\.tar\.gz: not an sdist that can be read"):
        foreign.find_sources(str(tmp_path / "thing-1.0.tar.gz"), tmp_path)


def test_an_sdist_cannot_write_elsewhere(tmp_path: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python's tarfile has no filters: Python 3.11.4 and newer do")
    (tmp_path / "work").mkdir()
    with pytest.raises(WheelError, match="not an sdist that can be read"):
        foreign.find_sources(str(sdist(tmp_path / "thing-1.0.tar.gz", folder="../../outside/")), tmp_path / "work")
    assert not (tmp_path / "outside").exists()


def test_macos_is_refused() -> None:
    with pytest.raises(WheelError, match="built for Linux alone, not for macos-arm64"):
        foreign.build("thing==1", [load_targets()["macos-arm64"]], ["3.11"], Path("dist"))


@pytest.mark.parametrize(
    ("tag", "told"), [("py3-none-any", "holds no machine code"), ("cp38-abi3-linux_x86_64", "several Pythons at once")]
)
def test_wheels_that_are_not_made_here_are_refused(tag: str, told: str, tmp_path: Path) -> None:
    raw = tmp_path / f"thing-1.0-{tag}.whl"
    with pytest.raises(WheelError, match=told):
        foreign._finish(raw, X86, "3.11", tmp_path, date="1577836800", built_with={})


def test_the_lines_name_every_wheel(tmp_path: Path) -> None:
    both = [built(tmp_path), built(tmp_path, "linux-aarch64")]
    text = foreign.use_lines(both, tmp_path)
    assert "--only-binary some-thing some-thing==1.0" in text
    assert all(each.wheel.sha256 in text and each.wheel.path.name in text for each in both)
    assert "platform_machine == 'aarch64'" in text and "explicit = true" in text


def test_native_tuning_is_warned_of(tmp_path: Path) -> None:
    lines = foreign.remarks([built(tmp_path, "linux-x86_64", "-mtune=native is left out: why")])
    assert lines[0] == "WARNING linux-x86_64: -mtune=native is left out: why"
    assert "native tuning breaks reproducibility" in lines[1]
    assert foreign.remarks([built(tmp_path)]) == []


def test_code_that_not_every_cpu_runs_is_refused(tmp_path: Path) -> None:
    good = built(tmp_path)
    foreign._judge(good, asks_first=False)
    bad = replace(good, verdict=replace(good.verdict, faults=("thing.so: 3 functions would die",)))
    with pytest.raises(WheelError, match="3 functions would die"):
        foreign._judge(bad, asks_first=False)
    foreign._judge(bad, asks_first=True)
    assert any("3 functions would die" in line for line in foreign.remarks([bad]))


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], str, str]]:
    """The wrapper around zig, with a zig that prints its arguments."""
    echo = tmp_path / "zig"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    monkeypatch.setattr(zig, "_find_zig", lambda: echo)

    def run(*flags: str, noted: bool) -> tuple[list[str], str, str]:
        toolchain = zig.make_toolchain(X86, tmp_path / "tools", once=True)
        notes = tmp_path / "notes"
        variables = {**toolchain.environment, **({"CONSTANN_CROSS_NOTES": str(notes)} if noted else {})}
        done = subprocess.run(
            [toolchain.tools / "cc", *flags], env=variables, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines(), done.stderr, notes.read_text() if notes.exists() else ""

    return run


@pytest.mark.parametrize("flag", ["-mtune=native", "-march=native", "-mcpu=native", "-fopenmp"])
def test_flags_that_tie_a_wheel_to_a_machine_are_left_out_and_noted(
    compiler: Callable[..., tuple[list[str], str, str]], flag: str
) -> None:
    arguments, errors, notes = compiler("-O2", flag, "-c", "a.c", noted=True)
    assert flag not in arguments and arguments[-3:] == ["-O2", "-c", "a.c"]
    assert errors.startswith(f"{flag} is left out: ") and notes == errors


def test_our_own_builds_keep_march_native_for_the_audit_to_find(
    compiler: Callable[..., tuple[list[str], str, str]],
) -> None:
    assert "-march=native" in compiler("-march=native", noted=False)[0]
    arguments, errors, notes = compiler("-mtune=native", noted=False)
    assert "-mtune=native" not in arguments and "left out" in errors and notes == ""


def test_setup_py_is_told_the_targets_machine(tmp_path: Path) -> None:
    toolchain = zig.Toolchain(tmp_path, {"CONSTANN_CROSS_TOOLS": str(tmp_path)})
    variables = foreign._cross_variables(tmp_path, toolchain, ARM, "3.13", headers=tmp_path, source=tmp_path)
    code = (
        "import platform, sysconfig; print(platform.machine(), sysconfig.get_platform(),"
        " sysconfig.get_config_var('EXT_SUFFIX'), sysconfig.get_config_var('CC'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    expected = ["aarch64", "linux-aarch64", ".cpython-313-aarch64-linux-gnu.so", str(tmp_path / "cc")]
    assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("flags", "inside"), [(["-static-libstdc++", "-static-libgcc"], ["libstdc++"]), ([], [])], ids=["static", "dynamic"]
)
def test_the_list_of_parts_names_the_cpp_library_that_is_inside(
    flags: list[str], inside: list[str], tmp_path: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here: apt-get install g++ (Debian, Ubuntu)")
    source = tmp_path / "a.cpp"
    source.write_text(
        "#include <string>\nstruct E : std::exception {};\nint f(int i) { if (i) throw E(); return 0; }\n"
    )
    subprocess.run(["g++", "-shared", "-fPIC", *flags, source, "-o", tmp_path / "a.so"], check=True)
    parts = sbom._runtimes([tmp_path / "a.so"], cross_compiled=False)
    assert [part.name for part in parts] == inside
    assert all(part.version for part in parts)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_annoys_missing_wheels_are_portable_and_run_on_an_old_cpu(tmp_path: Path) -> None:
    found = foreign.build("annoy==1.17.3", [X86, ARM], ["3.11"], tmp_path / "dist", switches=ANNOY_SWITCHES)
    assert [each.verdict.faults for each in found] == [(), ()]
    assert any("-mtune=native" in line for line in foreign.remarks(found))
    again = foreign.build("annoy==1.17.3", [X86], ["3.11"], tmp_path / "again", switches=ANNOY_SWITCHES)
    assert again[0].wheel.sha256 == found[0].wheel.sha256
    for each in found:
        with zipfile.ZipFile(each.wheel.path) as archive:
            assert "Version: 1.17.3" in archive.read("annoy-1.17.3.dist-info/METADATA").decode()
    qemu = shutil.which("qemu-x86_64-static")
    if qemu is None or sys.version_info[:2] != (3, 11):
        pytest.skip("running it takes Python 3.11 and qemu-x86_64-static: apt-get install qemu-user-static")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", tmp_path / "site"]
    subprocess.run([*pip, found[0].wheel.path], check=True)
    command = [qemu, "-cpu", "core2duo", sys.executable, "-I", "-S", "-c", foreign.TRIAL, tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[0, 1]\n", done.stderr


def test_switches_belong_to_another_project(tmp_path: Path) -> None:
    assert main(["wheels", "--env", "A=1", "--output", str(tmp_path)]) == 2
    assert main(["wheels", "--sdist", "thing==1", "--env", "A", "--output", str(tmp_path)]) == 2
    assert wheels.released_pythons()


def test_another_checkouts_wrappers_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may build at the same time with one cache: a wrapper must not change under a build that runs."""
    folders = []
    for name in ("zig of one", "zig of another"):
        monkeypatch.setattr(zig, "_find_zig", lambda name=name: tmp_path / name)
        toolchain = zig.make_toolchain(X86, tmp_path / "tools", once=True)
        assert name in (toolchain.tools / "cc").read_text()
        folders.append(toolchain.tools)
    assert folders[0] != folders[1] and "zig of one" in (folders[0] / "cc").read_text()
