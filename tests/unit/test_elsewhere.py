"""A recording proves its machine only if it agrees, is of these wheels, and is of the same workload."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from process_machines import ProcessMachines

import constann._core
from ci import gate, platforms, recordings, sbom, wheels
from ci.data_set import CARRIED_DATA, find_data
from ci.platforms import Machine, WheelKey
from ci.report import Report

ROOT = Path(__file__).resolve().parents[2]
CELLS = platforms.load_elsewhere()
HERE = {"workload": {"name": "standard"}, "stages": 3}
FACTS = {
    "system": "Linux 6.1",
    "architecture": "aarch64",
    "cpu": "0x41 0xd40",
    "libraries": {"_core": {"sha256": "ours"}},
}
AGREES: dict[str, Any] = {
    "file": "g3.rec", "facts": FACTS, "agrees": True, "verdict": "all agree", **HERE,
}  # fmt: skip


def judged(**changes: Any) -> recordings.Joined:
    facts = {**FACTS, **changes.pop("facts", {})}
    return recordings.judge({**AGREES, **changes, "facts": facts}, HERE, CELLS, {"ours"})


@pytest.mark.parametrize(
    ("system", "architecture", "cpu", "cell"),
    [
        ("Darwin 24.1", "arm64", "Apple M3", "apple-silicon"),
        ("Linux 6.10", "aarch64", "0x61 0x000", "docker-desktop"),
        ("Linux 6.10", "x86_64", "VirtualApple @ 2.50GHz", "rosetta"),
        ("Linux 6.1", "aarch64", "0x41 0xd0c", "graviton-2"),
        ("Linux 6.1", "aarch64", "0x41 0xd40", "graviton-3"),
        ("Linux 6.1", "aarch64", "0x41 0xd4f", "graviton-4"),
        ("Linux 6.1", "x86_64", "Some Xeon", ""),
    ],
)
def test_a_recording_fills_the_cell_of_its_machine(system: str, architecture: str, cpu: str, cell: str) -> None:
    found = judged(facts={"system": system, "architecture": architecture, "cpu": cpu})
    assert (found.cell, found.problems) == (cell, ())
    empty = recordings.Elsewhere(CELLS, [found]).empty
    assert {each.name for each in CELLS} - {each.name for each in empty} == ({cell} - {""})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agrees": False, "verdict": "the first stage that differs is ids/x"}, "first stage that differs is ids/x"),
        ({"workload": {"name": "own"}}, "not of the standard workload"),
        ({"stages": 2}, "not of the standard workload"),
        ({"facts": {"libraries": {}}}, "another build"),
        ({"facts": {"libraries": {"_core": {"sha256": "theirs"}}}}, "another build"),
        ({"facts": {"planted_faults": "avx2"}}, "planted fault avx2"),
        ({"facts": {"tuned_for": "x86-64-v3"}}, "tuned for x86-64-v3"),
    ],
)
def test_what_is_wrong_with_a_recording_leaves_its_cell_empty(changes: dict[str, Any], words: str) -> None:
    found = judged(**changes)
    assert any(words in problem for problem in found.problems)
    elsewhere = recordings.Elsewhere(CELLS, [found])
    assert len(elsewhere.empty) == len(CELLS)
    assert all("g3.rec" in problem for problem in elsewhere.problems())
    assert not any(remark.startswith("PROVEN") for remark in elsewhere.remarks(Path("wheels")))


def test_an_empty_cell_is_told_with_the_command_that_fills_it() -> None:
    remarks = recordings.Elsewhere(CELLS).remarks(Path("report/wheels"))
    assert len(remarks) == len(CELLS)
    assert all("NOT PROVEN" in each and "constann record" in each and "links wheels" in each for each in remarks)


def test_recordings_are_found_by_name_and_in_folders(tmp_path: Path) -> None:
    for name in ("a.rec", "b.rec", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in recordings.find([tmp_path, tmp_path / "b.rec"])] == ["a.rec", "b.rec", "b.rec"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(recordings.RecordingsError, match="holds no recording"):
        recordings.find([tmp_path / "empty"])
    with pytest.raises(recordings.RecordingsError, match="no recording"):
        recordings.find([tmp_path / "c.rec"])


def test_real_recordings_join_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    made = tmp_path / "made.rec"
    code = "import sys; from constann import recorder, workload; r = recorder.Recording();"
    code += "workload.run(r, {'name': 'standard'}, None); r.write(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(made)], check=True)
    (tmp_path / "cut.rec").write_bytes(made.read_bytes()[:-2000])
    wheel = tmp_path / "constann.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(constann._core.__file__, "constann/_core.so")
    machine = Machine("native", "2.4.6", platform="linux-x86_64")
    elsewhere = recordings.join(
        ProcessMachines(),
        machine,
        [made, tmp_path / "cut.rec"],
        [wheel],
        cells=CELLS,
        output=tmp_path / "out",
    )
    problems = {each.file: each.problems for each in elsewhere.joined}
    assert problems["made.rec"] == () and len(problems["cut.rec"]) == 1
    assert "AGREE" in (tmp_path / "out" / "compared.html").read_text()


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gate.Work:
    """A gate in which nothing is missing for a release."""
    work = gate.Work(find_data(CARRIED_DATA), tmp_path, [stage.name for stage in gate.STAGES], released=tmp_path)
    work.elsewhere = recordings.Elsewhere(())
    for target in work.targets.values():
        for python in wheels.released_pythons():
            work.wheels[WheelKey(target.name, python, "cibuildwheel")] = tmp_path / f"{target.name}-{python}.whl"
    monkeypatch.setattr(sbom, "built_by", lambda path: "cibuildwheel")
    return work


def test_a_release_needs_every_cell_stage_and_wheel(released: gate.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gate.release_problems(released, Report([], {})) == []
    partial = Report([], {}, remarks=["PARTIAL: without the stages audit"])
    assert gate.release_problems(released, partial) == ["for a release: PARTIAL: without the stages audit"]
    key = WheelKey("linux-x86_64", "3.12", "cibuildwheel")
    path = released.wheels.pop(key)
    (problem,) = gate.release_problems(released, Report([], {}))
    assert "linux-x86_64, Python 3.12: there is no wheel of cibuildwheel" in problem
    released.wheels[key] = path
    released.elsewhere = recordings.Elsewhere(CELLS)
    assert len(gate.release_problems(released, Report([], {}))) == len(CELLS)
    released.elsewhere = recordings.Elsewhere(())
    monkeypatch.setattr(sbom, "built_by", lambda path: "")
    assert all("did not come from cibuildwheel" in each for each in gate.release_problems(released, Report([], {})))


def test_a_wheel_says_whether_cibuildwheel_built_it(tmp_path: Path) -> None:
    for properties, by in (([{"name": "built by", "value": "cibuildwheel"}], "cibuildwheel"), ([], "")):
        path = tmp_path / "some.whl"
        with zipfile.ZipFile(path, "w") as archive:
            component = {"metadata": {"component": {"properties": properties}}}
            archive.writestr("constann-1.dist-info/sboms/constann.cdx.json", json.dumps(component))
        assert sbom.built_by(path) == by
    with zipfile.ZipFile(tmp_path / "none.whl", "w") as archive:
        archive.writestr("x", "y")
    assert sbom.built_by(tmp_path / "none.whl") == ""


def test_cells_are_told_apart() -> None:
    names = [cell.name for cell in CELLS]
    assert len(names) == len(set(names)) == 6
    assert all(dataclasses.asdict(cell)["run"].count("{wheels}") == 1 for cell in CELLS)
