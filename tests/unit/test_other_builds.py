"""Builds by other compilers are kept, and one that cannot be made says what to install."""

import subprocess
from pathlib import Path

import pytest

from ci import compilers, host, other_builds, platforms, wheels
from ci.platforms import WheelKey

ROOT = Path(__file__).resolve().parents[2]
TARGETS = platforms.load_targets()
KNOWN = platforms.load()
KEYS = [WheelKey("linux-aarch64", "3.11", by) for by in ("gcc", "clang", "musl")]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was built, by names; nothing is compiled."""
    names: list[str] = []
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "program", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compilers, "version", lambda target, compiler: f"{compiler} 12")

    def wheel(targets: object, root: object, output: Path, *, compiler: str, **_: object) -> dict[object, Path]:
        names.append(compiler)
        path = output / "constann-1-cp311-cp311-linux_aarch64.whl"
        path.touch()
        return {("linux-aarch64", "3.11"): path}

    def program(target: platforms.Target, root: object, output: Path, **_: object) -> Path:
        names.append(target.name)
        (output / "program").touch()
        return output / "program"

    monkeypatch.setattr(wheels, "build_wheels", wheel)
    monkeypatch.setattr(wheels, "build_program", program)
    return names


def test_each_is_built_once_from_the_same_sources(built: list[str]) -> None:
    first, problems = other_builds.build(KEYS, KNOWN, TARGETS, ROOT, may_install=False)
    assert sorted(built) == ["clang", "gcc", "musllinux-aarch64"] and problems == []
    assert other_builds.build(KEYS, KNOWN, TARGETS, ROOT, may_install=False) == (first, []) and len(built) == 3
    assert set(first) == set(KEYS)


def test_a_compiler_that_is_not_here_is_named_with_its_packages(
    built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(host, "program", lambda name: None)
    made, (problem,) = other_builds.build(KEYS[:1], KNOWN, TARGETS, ROOT, may_install=False)
    assert made == {} and problem.startswith("linux-aarch64: gcc made nothing")
    assert "apt-get install" in problem and "g++-aarch64-linux-gnu" in problem and "clang" in problem


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_wrappers_pass_on_every_flag_and_search_the_headers_first(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "program", lambda name: "/bin/echo")
    toolchain = compilers.make_toolchain(TARGETS["linux-aarch64"], compiler, tmp_path / "a b", tmp_path / "headers")
    command = [toolchain.tools / "c++", "-DX=a b", "x.cpp"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.endswith(f"-isystem {tmp_path / 'headers'} -DX=a b x.cpp\n")
    assert ("--target=aarch64-linux-gnu" in said) == (compiler == "clang")
