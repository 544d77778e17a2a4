"""The gate passes where machines agree, and each planted fault makes it fail and names the machine."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from process_machines import ProcessMachines

import constann
from ci import controls, gate, matrix
from ci.platforms import Machine

SETS = [implementation.name for implementation in constann.kernels.available()]
ROWS = [(Machine(f"native-{kernels}", "any", kernels=kernels, forced=True, platform="here"), False) for kernels in SETS]
CARRIED = gate.find_data(gate.CARRIED_DATA)
FEW = 500


@pytest.fixture(scope="module")
def data() -> matrix.Data:
    return matrix.Data(CARRIED.vectors, CARRIED.queries, FEW)


def failing(rows: list[matrix.Row]) -> list[str]:
    return [row.machine.name for row in rows if not row.bits]


def test_machines_that_agree_pass(data: matrix.Data, tmp_path: Path) -> None:
    rows = matrix.run_matrix(ProcessMachines(), ROWS, data, tmp_path)
    assert [row.machine.name for row in rows] == [f"native-{kernels}" for kernels in SETS]
    assert all(row.runs and row.bits and row.allclose for row in rows)
    assert {(row.largest_delta, row.largest_ulp) for row in rows} == {(0.0, 0)}
    assert {row.answers["facts"]["kernels"] for row in rows if row.answers} == set(SETS)


def test_the_carried_slice_gives_the_known_answers_on_every_kernel_set(tmp_path: Path) -> None:
    everything = matrix.Data(CARRIED.vectors, CARRIED.queries, matrix.SLICE_ROWS)
    rows = matrix.run_matrix(ProcessMachines(), ROWS, everything, tmp_path)
    assert failing(rows) == []
    assert gate.check_golden(rows) == []
    assert rows[0].answers is not None
    rows[0].answers["built"]["forest-cosine"]["distances"] = "0" * 64  # control: another answer is seen
    assert gate.check_golden(rows) == [
        f"here/native-{SETS[0]}: forest-cosine: distances is not that of carried-data.json"
    ]


@pytest.mark.parametrize("position", range(len(SETS)))
def test_a_machine_that_got_one_different_vector_is_named(position: int, data: matrix.Data, tmp_path: Path) -> None:
    changed = np.load(data.vectors)
    changed[4, 17] += np.float16(0.001)
    np.save(tmp_path / "changed.npy", changed)
    odd = ROWS[position][0]
    other = replace(data, vectors=tmp_path / "changed.npy")
    rows = matrix.run_matrix(ProcessMachines(), ROWS, data, tmp_path / "out", special={odd: other})
    assert failing(rows) == [odd.name]
    differences = rows[position].differences
    assert any(text.startswith("exact-cosine.constann differs from that of here/native-") for text in differences)
    # Its files are loaded by the others too, and answer everywhere alike: building, not searching, is at fault.
    deviants = sorted(path.name for path in (rows[position - 1].folder / "deviants").glob("*.ids.npy"))
    assert len(deviants) == 4


def test_a_row_that_never_started_is_named(data: matrix.Data, tmp_path: Path) -> None:
    machines = ProcessMachines({f"native-{SETS[1]}": str(tmp_path / "no-such-python")})
    rows = matrix.run_matrix(machines, ROWS, data, tmp_path)
    assert failing(rows) == [f"native-{SETS[1]}"]
    assert rows[1].failure is not None and rows[1].failure.startswith("could not start")


def test_a_row_that_dies_is_named_with_its_signal(data: matrix.Data, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -ILL $$\n")
    dying.chmod(0o755)
    rows = matrix.run_matrix(ProcessMachines({f"native-{SETS[0]}": str(dying)}), ROWS, data, tmp_path / "out")
    assert failing(rows) == [f"native-{SETS[0]}"]
    assert rows[0].failure == "finished: died of SIGILL (illegal instruction)"


def test_a_row_that_ends_well_but_answers_nothing_fails(data: matrix.Data, tmp_path: Path) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexit 0\n")
    silent.chmod(0o755)
    rows = matrix.run_matrix(ProcessMachines({f"native-{SETS[0]}": str(silent)}), ROWS, data, tmp_path / "out")
    assert rows[0].failure == "it ended without an error, but wrote no answers"


def test_a_row_that_used_other_kernels_than_expected_fails(data: matrix.Data, tmp_path: Path) -> None:
    unforced = replace(ROWS[0][0], forced=False)  # expects scalar, but the library chooses its fastest
    rows = matrix.run_matrix(ProcessMachines(), [(unforced, False), *ROWS[1:]], data, tmp_path)
    assert failing(rows) == [unforced.name]
    assert rows[0].differences == [f"used kernels {SETS[-1]}, expected {SETS[0]}"]


def test_answers_of_an_earlier_run_never_stand_in_for_a_failed_one(data: matrix.Data, tmp_path: Path) -> None:
    assert failing(matrix.run_matrix(ProcessMachines(), ROWS, data, tmp_path)) == []
    rows = matrix.run_matrix(ProcessMachines({ROWS[0][0].name: "/nowhere"}), ROWS, data, tmp_path)
    assert failing(rows) == [ROWS[0][0].name]


def test_the_verdict_follows_the_rows(data: matrix.Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = matrix.run_matrix(ProcessMachines(), ROWS, data, tmp_path / "out")
    other = gate.DataSet(tmp_path / "vectors.npy", tmp_path / "queries.npy")
    for path in (other.vectors, other.queries):
        np.save(path, np.zeros((1, 1), np.float32))
    assert gate.conclude({"slice": rows}, other, tmp_path, [], [], whole=True) == 0
    assert "verdict: PASS" in capsys.readouterr().out
    rows[0].failure = "could not start: it is not there"
    assert gate.conclude({"slice": rows}, other, tmp_path, [], [], whole=True) == 1
    printed = capsys.readouterr().out
    assert f"FAILED here/native-{SETS[0]}: could not start: it is not there" in printed
    assert "verdict: FAIL" in printed
    assert json.loads((tmp_path / "gate.json").read_text())["passed"] is False


def test_a_folder_without_the_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gate.GateError, match=r"must hold exactly one \*vectors.npy, but it holds 0"):
        gate.find_data(tmp_path)


def test_an_unnoticed_control_or_a_planted_wheel_fails_the_gate(
    data: matrix.Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = matrix.run_matrix(ProcessMachines(), ROWS, data, tmp_path / "out")
    other = gate.DataSet(tmp_path / "vectors.npy", data.queries)
    np.save(other.vectors, np.zeros((1, 1), np.float32))
    control = controls.Control("one different vector", ROWS[0][0], "differs", changed_vector=True)
    unnoticed = controls.judge(control, [matrix.Row(ROWS[0][0], False, tmp_path)])
    assert gate.conclude({"slice": rows}, other, tmp_path, [], [unnoticed], whole=True) == 1
    printed = capsys.readouterr().out
    assert f"FAILED negative control: one different vector on here/native-{SETS[0]} was not noticed" in printed
    assert rows[1].answers is not None
    rows[1].answers["facts"]["planted_faults"] = "avx2"
    assert gate.conclude({"slice": rows}, other, tmp_path, [], [], whole=True) == 1
    assert "FAILED a wheel for a release has a planted fault: avx2" in capsys.readouterr().out


def test_a_control_must_blame_its_victim_for_its_fault_and_nobody_else(tmp_path: Path) -> None:
    victim, other = ROWS[0][0], ROWS[1][0]
    control = controls.Control("one different vector", victim, ".constann differs", changed_vector=True)
    noticed = matrix.Row(victim, False, tmp_path, differences=["exact-cosine.constann differs from that of x"])
    innocent = matrix.Row(other, False, tmp_path)
    assert controls.judge(control, [innocent, noticed]).problems == []
    assert "was not noticed" in controls.judge(control, [innocent, matrix.Row(victim, False, tmp_path)]).problems[0]
    blamed = matrix.Row(other, False, tmp_path, failure="could not start: gone")
    assert "was blamed too" in controls.judge(control, [blamed, noticed]).problems[0]
