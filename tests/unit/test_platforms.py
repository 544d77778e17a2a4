"""platforms/ says what the gate relies on, and a mistake in it is an error that names the file and the key."""

import shutil
import tomllib
from pathlib import Path

import pytest

from ci import platforms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(platforms.FOLDER, tmp_path / "platforms")
    return tmp_path / "platforms"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_every_promised_row_is_expected() -> None:
    known = platforms.load()
    rows = [row for platform in known.values() for row in platform.expected_rows("x86_64", {"avx2"})]
    assert len({row.full_name for row in rows}) == len(rows) >= 50
    names = {row.full_name for row in rows}
    assert {f"linux-x86_64/native-{kernels}" for kernels in ("scalar", "baseline", "avx2")} <= names
    models = {row.model for row in rows}
    assert {"Nehalem", "SandyBridge", "Haswell", "max"} < models and {"qemu64", "core2duo"} & models
    assert {"cortex-a53", "cortex-a72", "neoverse-n1", "a64fx"} < models
    assert {row.sve_bits for row in rows} == {0, 128, 256, 512, 2048}
    assert {row.page_size for row in rows} == {0, 65536} and {row.threads for row in rows} == {0, 1, 7}
    assert all(row.kernels for row in rows)


def test_native_rows_are_the_kernel_sets_of_the_cpu() -> None:
    x86 = platforms.load()["linux-x86_64"]
    ways = ("", "cibuildwheel")

    def kernels(flags: list[str], way: str) -> list[str | None]:
        return [row.kernels for row in x86.native_rows(flags) if row.built_by == way and not row.threads]

    assert [kernels([], way) for way in ways] == [["baseline", "scalar"]] * 2
    every = ["avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"]
    assert [kernels(every, way) for way in ways] == [["avx512", "avx2", "baseline", "scalar"]] * 2
    assert kernels([*every, "avx512_vnni"], "")[0] == "avx512vnni"
    assert all(row.environment == {"CONSTANN_KERNELS": row.kernels} for row in x86.native_rows(every))
    assert not [row for row in x86.expected_rows("aarch64", every) if row.model is None]


def test_machines_use_the_numpy_that_the_harness_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = next(each for each in project["dependency-groups"]["harness"] if str(each).startswith("numpy=="))
    versions = {row.numpy for platform in platforms.load().values() for row in platform.machines}
    assert pinned.removeprefix("numpy==") in versions


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('debian_architecture = "amd64"', "", ["debian_architecture", "missing"]),
        ('zig_cpu = "baseline"', 'zig_cpu = "baseline"\nzig_spu = "x"', ["[compiler]", "zig_spu", "unknown"]),
        ("[wheel]", "[wheels]", ["[wheel]", "missing"]),
        ('zig_cpu = "baseline"', "zig_cpu = 3", ["[compiler]", "zig_cpu", "string"]),
        ('avx2 = ["avx2"]', 'avx2 = "avx2"', ["[kernels]", "avx2", "list"]),
        ('kernels = "avx2"', 'kernels = "avx3"', ["Haswell", "avx3"]),
        ('name = "core2duo"', 'name = "qemu64"', ["two machines", "qemu64"]),
        ('model = "core2duo"', "", ["core2duo", "go together"]),
        ('model = "core2duo"', 'model = "core2duo"\nforced = "yes"', ["core2duo", "forced", "true or false"]),
        ('name = "linux-x86_64"', 'name = "linux"', ["'linux'", "linux-x86_64"]),
        ('built_by = "cibuildwheel"', 'built_by = "me"', ["native-cibuildwheel", "built_by", "'me'"]),
        ('built_by = "musl"', 'numpy = "2.4.6"\nbuilt_by = "musl"', ["native-musl", "no numpy"]),
        ("threads = 1", "threads = 0", ["native-one-thread", "threads", "above 0"]),
        ("threads = 1", "page_size = 65536", ["native-one-thread", "page_size", "name a model"]),
        ("[kernels]", "[kernels", ["TOML"]),
    ],
)
def test_a_mistake_names_file_and_key(folder: Path, old: str, new: str, words: list[str]) -> None:
    path = folder / "linux-x86_64.toml"
    change(path, old, new)
    with pytest.raises(platforms.PlatformError) as caught:
        platforms.load(folder)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(platforms.PlatformError, match="no platform files"):
        platforms.load(tmp_path)


def test_a_release_for_each_python_that_is_named() -> None:
    images = platforms.load_images()
    assert images.release(images.python) is not None
    assert images.release("2.7") is None


def test_rows_have_the_python_that_is_asked_for_unless_they_name_one() -> None:
    def pythons(version: str | None) -> dict[str, str]:
        known = platforms.load(python=version)
        return {row.name: row.python for row in known["linux-x86_64"].machines}

    assert pythons(None)["qemu64"] == platforms.load_images().python == "3.11"
    assert pythons("3.12")["qemu64"] == "3.12"
    assert pythons("3.12")["max-python3.13"] == "3.13"
    x86 = platforms.load()["linux-x86_64"]
    assert x86.pythons == ("3.11", "3.13")
    assert x86.numpy_versions("3.11") == ("1.26.4", "2.2.6", "2.4.6") and x86.numpy_versions("3.13") == ("2.4.6",)


def test_every_python_whose_wheels_are_cross_compiled_runs_on_each_platform() -> None:
    wanted = set(platforms.load_images().wheels)
    for platform in platforms.load().values():
        rows = platform.expected_rows("x86_64", {"avx2"})
        assert {row.python for row in rows} == wanted
        assert {row.built_by for row in rows} == {"", *platforms.BUILDERS}


def test_the_oldest_numpy_and_that_of_the_oldest_system_are_run_on_each_platform() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (floor,) = (each.removeprefix("numpy>=") for each in project["dependencies"])
    for platform in platforms.load().values():
        versions = {row.numpy for row in platform.machines}
        assert platforms.load_images().oldest_system_numpy in versions
        assert any(version.startswith(f"{floor}.") for version in versions)


def test_flags_are_read_from_both_kinds_of_cpuinfo() -> None:
    assert platforms.read_flags("processor\t: 0\nflags\t\t: fpu sse2 avx2\nbugs\t\t:\n") == {"fpu", "sse2", "avx2"}
    assert platforms.read_flags("processor\t: 0\nFeatures\t: fp asimd\n") == {"fp", "asimd"}
    assert platforms.read_flags("") == frozenset()


def test_an_unknown_machine_is_told_with_those_there_are() -> None:
    rows = platforms.load()["linux-aarch64"].machines
    assert platforms.find("linux-aarch64/max", rows).model == "max"
    with pytest.raises(platforms.PlatformError, match=r"a64fx.*max"):
        platforms.find("linux-aarch64/cortex-z9", rows)
