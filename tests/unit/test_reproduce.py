"""Two builds have the same bytes, and what differs between two files is named: the member, the section, the line."""

import io
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import lief
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci import builders, cache, elsewhere, reproduce, wheels
from ci.platforms import load_targets
from ci.wheel_file import WheelError

ROOT = Path(__file__).resolve().parents[2]
X86 = load_targets()["linux-x86_64"]
DAY = (2020, 1, 1, 0, 0, 0)


def make_zip(
    path: Path, members: Mapping[str, bytes], *, date: tuple[int, ...] = DAY, mode: int = 0o644, level: int = 6
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        for name, content in members.items():
            information = zipfile.ZipInfo(name, date)  # type: ignore[arg-type]
            information.external_attr = mode << 16
            information.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(information, content, compresslevel=level)
    return path


def make_tar(path: Path, members: Mapping[str, bytes], *, date: int = 1_577_836_800) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            information = tarfile.TarInfo(name)
            information.size, information.mtime = len(content), date
            archive.addfile(information, io.BytesIO(content))
    return path


def test_the_same_bytes_have_no_difference(tmp_path: Path) -> None:
    files = [make_zip(tmp_path / name, {"a": b"1"}) for name in ("1.whl", "2.whl")]
    assert reproduce.explain(*files) == []


def test_a_line_that_differs_is_shown(tmp_path: Path) -> None:
    first = make_zip(tmp_path / "1.whl", {"a.py": b"x = 1\ny = 2\n", "b.py": b""})
    second = make_zip(tmp_path / "2.whl", {"a.py": b"x = 1\ny = 3\n", "b.py": b""})
    (found,) = reproduce.explain(first, second)
    assert found.startswith("a.py: the text differs") and "-y = 2" in found and "+y = 3" in found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"date": (2020, 1, 1, 0, 0, 2)}, "its date is"),
        ({"mode": 0o600}, "its mode is 0o644 in the first and 0o600 in the second"),
        ({"level": 1}, "every member is the same, but the archives are not"),
    ],
    ids=["date", "mode", "compression"],
)
def test_what_an_archive_says_of_a_member_counts(change: dict[str, object], told: str, tmp_path: Path) -> None:
    content = {"a": bytes(range(256)) * 40 + b"some text, some text and more text" * 30}
    first = make_zip(tmp_path / "1.whl", content)
    second = make_zip(tmp_path / "2.whl", content, **change)  # type: ignore[arg-type]
    (found,) = reproduce.explain(first, second)
    assert told in found


def test_a_member_of_one_alone_and_another_order_are_told(tmp_path: Path) -> None:
    first = make_zip(tmp_path / "1.whl", {"a": b"", "b": b"", "c": b""})
    second = make_zip(tmp_path / "2.whl", {"b": b"", "a": b"", "d": b""})
    found = reproduce.explain(first, second)
    assert found == ["c is only in the first", "d is only in the second", "the members are in another order"]


def test_the_section_of_machine_code_is_named(tmp_path: Path) -> None:
    module = next(Path(np.__file__).parent.glob("linalg/_umath_linalg*.so")).read_bytes()
    parsed = lief.parse(module)
    assert parsed is not None
    (section,) = [each for each in parsed.sections if each.name in (".rodata", "__const")]
    changed = bytearray(module)
    changed[section.offset + 40] ^= 1
    files = [
        make_zip(tmp_path / name, {"m.so": bytes(content)}) for name, content in (("1.whl", module), ("2.whl", changed))
    ]
    (found,) = reproduce.explain(*files)
    assert "the machine code differs" in found and f"{section.name}: " in found and "first at 0x28" in found


def test_sdists_are_compared_too(tmp_path: Path) -> None:
    first = make_tar(tmp_path / "1.tar.gz", {"p/a": b"1"})
    second = make_tar(tmp_path / "2.tar.gz", {"p/a": b"1"}, date=1_577_836_801)
    (found,) = reproduce.explain(first, second)
    assert "p/a: its date is 1577836800 in the first" in found


def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "1.whl").write_bytes(b"1")
    (tmp_path / "2.whl").write_bytes(b"2")
    with pytest.raises(WheelError, match="no wheel and no sdist"):
        reproduce.explain(tmp_path / "1.whl", tmp_path / "2.whl")


MEMBERS = st.dictionaries(st.sampled_from(["a", "b.py", "c/d.so"]), st.binary(max_size=40), min_size=1)


@given(MEMBERS, MEMBERS)
@settings(max_examples=60, deadline=None)
def test_files_differ_exactly_where_a_difference_is_told(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    files = [make_zip(folder / "1", first), make_zip(folder / "2", second)]
    assert bool(reproduce.explain(*files)) == (files[0].read_bytes() != files[1].read_bytes())


def test_a_build_that_made_nothing_proves_nothing(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    with pytest.raises(WheelError, match="nothing was built"):
        reproduce.compare_folders(tmp_path / "1", tmp_path / "2")
    make_zip(tmp_path / "1" / "a.whl", {"a": b""})
    (found,) = reproduce.compare_folders(tmp_path / "1", tmp_path / "2")
    assert found.differences == ("the second build made no file of this name",)


def test_the_sdist_is_reproducible_and_a_planted_line_is_found() -> None:
    """The quick twin: no compiler runs. The planted line is the negative control."""
    assert reproduce.problems([], [], fresh_cache=False) == []

    def plant(source: Path) -> None:
        with (source / "python" / "constann" / "__init__.py").open("a") as file:
            print(f"# built at {time.time()}", file=file)

    (found,) = reproduce.problems([], [], fresh_cache=False, plant=plant)
    assert found.startswith("constann-") and "constann/__init__.py: the text differs" in found and "# built at" in found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_wheel_is_reproducible_and_planted_machine_code_is_found(tmp_path: Path) -> None:
    def plant(source: Path) -> None:
        facts = source / "cpp" / "python" / "build_facts.cpp"
        facts.write_text(facts.read_text().replace("= CONSTANN_COMPILER;", '= CONSTANN_COMPILER " planted";'))

    def build(source: Path, which: int, name: str) -> Path:
        # Fresh caches, which take minutes more, are the gate's stage.
        return reproduce._build(source, tmp_path / name, [X86], ["3.11"], which=which, cache=cache.root())

    first = build(ROOT, 0, "first")
    copy = reproduce._copied(tmp_path / "another folder", 1)
    same = reproduce.compare_folders(first, build(copy, 1, "second"))
    assert [each.name.rpartition(".")[2] for each in same] == ["whl", "gz"]
    assert not any(each.differences for each in same)
    plant(copy)
    wheel, sdist = reproduce.compare_folders(first, build(copy, 1, "planted"))
    assert any(
        "_core" in each and "the machine code differs" in each and "section" in each for each in wheel.differences
    )
    assert any("build_facts.cpp" in each for each in sdist.differences)


def test_every_released_python_is_in_the_table_or_was_built() -> None:
    released = wheels.released_pythons()
    assert {"3.11", "3.12", "3.13", "3.14"} <= set(released)
    rows = wheels._workflow_rows([X86], ["3.11", "3.13"])
    assert {row[1].rpartition(" ")[2] for row in rows} == set(released) - {"3.11", "3.13"}
    assert all("workflow only" in row[-1] for row in rows)


def test_what_an_arm_container_needs_is_asked_of_arm_and_not_of_this_computer() -> None:
    needed = {architecture: builders.requirements("harness", architecture) for architecture in ("x86_64", "aarch64")}
    assert {each.partition("==")[0] for each in needed["x86_64"]} >= {"iced-x86", "ziglang", "build", "lief", "docker"}
    assert set(needed["x86_64"]) - set(needed["aarch64"]) == {
        each for each in needed["x86_64"] if each.startswith("iced-x86==")
    }
    assert not any(";" in each for each in needed["aarch64"])


def test_the_gate_builds_anew_and_compares_with_a_second_build_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    built: list[int] = []
    code = b"code"

    def build(source: Path, output: Path, targets: object, pythons: object, *, which: int, cache: Path) -> Path:
        built.append(which)
        make_zip(output / "constann.whl", {"a.so": code})
        return output

    def copied(place: Path, which: int) -> Path:
        place.mkdir(parents=True)
        return place

    monkeypatch.setattr(reproduce, "_build", build)
    monkeypatch.setattr(reproduce, "_copied", copied)
    assert reproduce.problems([X86], ["3.11"], kept_too=True) == []
    assert reproduce.problems([X86], ["3.11"], kept_too=True) == []
    assert built == [0, 1, 0]
    code = b"odd!"
    (problem,) = reproduce.problems([X86], ["3.11"], kept_too=True)
    assert problem.startswith("constann.whl: a.so: ") and built == [0, 1, 0, 0]
    monkeypatch.setattr(wheels, "digests_of_inputs", lambda source, pythons, cache: dict.fromkeys(pythons, "changed"))
    assert reproduce.problems([X86], ["3.11"], kept_too=True) == []
    assert reproduce.problems([X86], ["3.11"]) == []
    assert built == [0, 1, 0, 0, 0, 1, 0, 1]


def test_the_native_build_is_compared_and_not_made_again_from_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    made: list[str] = []

    def build(platform: object, source: Path, output: Path, *, date: str) -> None:
        made.append(date)
        make_zip(output / "constann.whl", {"a.so": b"code"})

    monkeypatch.setattr(elsewhere, "build", build)
    same = make_zip(tmp_path / "same" / "constann.whl", {"a.so": b"code"})
    other = make_zip(tmp_path / "other" / "constann.whl", {"a.so": b"odd!"})
    shown: list[reproduce.Compared] = []
    assert reproduce.container_problems(shown.extend, cross_compiled=same) == []
    assert [each.name for each in shown] == ["constann.whl"] and len(made) == 1
    (problem,) = reproduce.container_problems(cross_compiled=other)
    assert problem.startswith("constann.whl: a.so: ") and len(made) == 1
    monkeypatch.setattr(wheels, "digests_of_inputs", lambda source, pythons, cache: dict.fromkeys(pythons, "changed"))
    assert reproduce.container_problems(cross_compiled=same) == []
    assert len(made) == 2
