"""The gate passes where machines agree, and each planted fault makes it fail and names the machine."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from process_machines import ProcessMachines

import constann
from ci import controls, data_set, gate, matrix, platforms, report, verdict, wheels
from ci.machines import Run
from ci.platforms import Machine, Target, WheelKey

SETS = [implementation.name for implementation in constann.kernels.available()]
ROWS = [
    (Machine(f"native-{kernels}", np.__version__, kernels=kernels, forced=True, platform="here"), False)
    for kernels in SETS
]
CARRIED = data_set.find_data(data_set.CARRIED_DATA)
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
    assert verdict.check_golden(rows) == []
    assert rows[0].answers is not None
    rows[0].answers["built"]["forest-cosine"]["distances"] = "0" * 64  # control: another answer is seen
    assert verdict.check_golden(rows) == [
        f"here/native-{SETS[0]}: forest-cosine: distances is not that of carried-data.json"
    ]


class Substituting(ProcessMachines):
    """Gives one machine other vectors than the rest."""

    def __init__(self, victim: Machine, right: Path, wrong: Path) -> None:
        super().__init__()
        self.victim, self.right, self.wrong = victim, right, wrong

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str],
        environment: Mapping[str, str],
        timeout: float,
    ) -> Run:
        if machine == self.victim:
            mounts = {self.wrong if path == self.right else path: inside for path, inside in mounts.items()}
        return super().run(machine, arguments, mounts, environment, timeout)


@pytest.mark.parametrize("position", range(len(SETS)))
def test_a_machine_that_got_one_different_vector_is_named(position: int, data: matrix.Data, tmp_path: Path) -> None:
    changed = np.load(data.vectors)
    changed[4, 17] += np.float16(0.001)
    np.save(tmp_path / "changed.npy", changed)
    odd = ROWS[position][0]
    machines = Substituting(odd, data.vectors, tmp_path / "changed.npy")
    rows = matrix.run_matrix(machines, ROWS, data, tmp_path / "out")
    assert failing(rows) == [odd.name]
    differences = rows[position].differences
    assert any(text.startswith("exact-cosine.constann differs from that of here/native-") for text in differences)
    # All machines loaded its files and answered alike: building, not searching, is at fault.
    # Hamming alone sees no difference: the signs are the same.
    assert len(list((rows[position - 1].folder / "deviants").glob("*.ids.npy"))) == 11
    assert not any("deviants" in text for text in differences)


def answered(folder: Path, machine: Machine, template: matrix.Row) -> matrix.Row:
    shutil.copytree(template.folder, folder)
    return matrix.Row(machine, False, folder, answers=template.answers)


@pytest.mark.parametrize("name", ["loaded-forest-cosine.distances.npy", "deviants/loaded-x.ids.npy"])
def test_answers_of_loaded_indexes_are_compared_too(name: str, data: matrix.Data, tmp_path: Path) -> None:
    (template,) = matrix.run_matrix(ProcessMachines(), ROWS[:1], data, tmp_path / "out")
    rows = [answered(tmp_path / str(i), ROWS[0][0], template) for i in range(3)]
    for row in rows:
        path = row.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(template.folder.joinpath("loaded-forest-cosine.distances.npy").read_bytes())
    spoiled = bytearray((rows[2].folder / name).read_bytes())
    spoiled[-1] ^= 1
    (rows[2].folder / name).write_bytes(spoiled)
    matrix.compare(rows)
    assert [row.bits for row in rows] == [True, True, False]


def test_a_loaded_index_must_answer_as_the_built_one_even_if_all_machines_agree(
    data: matrix.Data, tmp_path: Path
) -> None:
    (template,) = matrix.run_matrix(ProcessMachines(), ROWS[:1], data, tmp_path / "out")
    rows = [answered(tmp_path / str(i), ROWS[0][0], template) for i in range(2)]
    for row in rows:
        shutil.copy(row.folder / "exact-cosine.ids.npy", row.folder / "loaded-forest-euclidean.ids.npy")
    matrix.compare(rows)
    assert rows[0].differences == [
        "loaded-forest-euclidean.ids.npy differs from what the index answered where it was built"
    ]
    assert [row.bits for row in rows] == [False, False]


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


EXPECTED = [machine for machine, _ in ROWS]
CONTROL = controls.Control("one different vector", ROWS[0][0], ".constann differs", changed_vector=True)
FOUND = [controls.Outcome(CONTROL, [])]


@pytest.fixture(scope="module")
def answered_once(tmp_path_factory: pytest.TempPathFactory) -> list[matrix.Row]:
    everything = matrix.Data(CARRIED.vectors, CARRIED.queries, matrix.SLICE_ROWS)
    return matrix.run_matrix(ProcessMachines(), ROWS, everything, tmp_path_factory.mktemp("answered"))


@pytest.fixture
def agreeing(answered_once: list[matrix.Row]) -> list[matrix.Row]:
    """Rows that a test may change; their files it may only read."""
    return deepcopy(answered_once)


def test_the_verdict_follows_the_rows(
    agreeing: list[matrix.Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verdict.conclude({"slice": agreeing}, CARRIED, FOUND, expected=EXPECTED, partial=False)
    report.show(tmp_path)
    assert report.passed
    assert "verdict: PASS" in capsys.readouterr().out
    agreeing[0].failure = "could not start: it is not there"
    report = verdict.conclude({"slice": agreeing}, CARRIED, FOUND, expected=EXPECTED, partial=False)
    report.show(tmp_path)
    assert not report.passed
    printed = capsys.readouterr().out
    assert f"FAILED here/native-{SETS[0]} (slice): could not start: it is not there" in printed
    assert "verdict: FAIL" in printed
    kept = json.loads((tmp_path / "gate.json").read_text())
    assert kept["passed"] is False and "could not start" in kept["failures"][0]


def test_nothing_to_show_is_never_a_pass(agreeing: list[matrix.Row], tmp_path: Path) -> None:
    def problems(
        rows: list[matrix.Row], outcomes: list[controls.Outcome] = FOUND, data: data_set.DataSet = CARRIED
    ) -> list[str]:
        report = verdict.conclude({"slice": rows}, data, outcomes, expected=EXPECTED, partial=False)
        assert not report.passed
        return report.problems

    assert "expected machines have no row" in problems([])[0]
    assert problems(agreeing[1:]) == [f"expected machines have no row: here/native-{SETS[0]}"]
    assert problems(agreeing, outcomes=[]) == ["no negative control ran: they need two rows that agree"]
    other = data_set.DataSet(tmp_path / "vectors.npy", CARRIED.queries)
    np.save(other.vectors, np.zeros((1, 1), np.float32))
    alone = verdict.conclude({"slice": agreeing[:1]}, other, FOUND, expected=EXPECTED, partial=True)
    assert alone.problems == ["one machine alone agrees with itself: choose two or more"]


def test_planted_wheels_and_unnoticed_controls_fail_the_gate(agreeing: list[matrix.Row]) -> None:
    unnoticed = controls.judge(CONTROL, [*agreeing[1:], matrix.Row(CONTROL.victim, False, agreeing[0].folder)])
    report = verdict.conclude({"slice": agreeing}, CARRIED, [unnoticed], expected=EXPECTED, partial=False)
    where = f"one different vector on here/native-{SETS[0]}"
    assert report.problems == [f"negative control: {where} was not noticed; the gate said: nothing"]
    for row in agreeing:
        assert row.answers is not None
        row.answers["facts"]["planted_faults"] = "avx2"
        row.answers["facts"]["tuned_for"] = "x86-64-v3"
    report = verdict.conclude({"slice": agreeing}, CARRIED, FOUND, expected=EXPECTED, partial=False)
    assert report.problems == [
        "a wheel for a release has a planted fault: avx2",
        "a wheel for a release is tuned for x86-64-v3",
    ]


def test_a_kernel_set_without_a_native_row_fails_the_gate(agreeing: list[matrix.Row]) -> None:
    """What the process can run is asked of the CPU; the rows come from what Linux says: both must agree."""
    report = verdict.conclude({"slice": agreeing[:-1]}, CARRIED, FOUND, expected=EXPECTED[:-1], partial=False)
    assert not report.passed
    assert all("can run" in problem for problem in report.problems)


def test_a_control_must_blame_its_victim_for_its_fault_and_nobody_else(tmp_path: Path) -> None:
    innocent = [matrix.Row(machine, False, tmp_path) for machine, _ in ROWS[1:]]
    noticed = matrix.Row(CONTROL.victim, False, tmp_path, differences=["exact-cosine.constann differs from that of x"])
    missed = matrix.Row(CONTROL.victim, False, tmp_path)
    assert controls.judge(CONTROL, [*innocent, noticed]).problems == []
    assert "was not noticed" in controls.judge(CONTROL, [*innocent, missed]).problems[0]
    assert "was not noticed" in controls.judge(CONTROL, innocent).problems[-1]  # the victim has no row at all
    assert "only 1 machines" in controls.judge(CONTROL, [innocent[0], noticed]).problems[0]
    blamed = [innocent[0], replace(innocent[1], failure="could not start: gone")]
    assert "was blamed too" in controls.judge(CONTROL, [*blamed, noticed]).problems[0]


def test_controls_run_beside_rows_that_have_answered_and_those_of_one_wheel_on_one_installation(
    agreeing: list[matrix.Row], tmp_path: Path
) -> None:
    opened: list[Mapping[str, str]] = []

    @contextmanager
    def open_machines(key: WheelKey, entries: Mapping[str, str]) -> Iterator[matrix.Machines]:
        assert key.platform == "here"
        opened.append(entries)
        yield ProcessMachines()

    data = matrix.Data(CARRIED.vectors, CARRIED.queries, matrix.SLICE_ROWS)
    planted = replace(CONTROL, name="another wheel", wheel={"PLANTED": "1"})
    given = [planted, CONTROL, replace(CONTROL, name="no fault at all", changed_vector=False)]
    outcomes = controls.run_controls(given, agreeing, data, tmp_path / "controls", open_machines)
    assert [outcome.control for outcome in outcomes] == given
    assert [len(outcome.problems) for outcome in outcomes] == [0, 0, 1]
    assert sorted(map(dict, opened), key=len) == [{}, {"PLANTED": "1"}]
    assert all(row.bits for row in agreeing)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_every_platform_has_its_controls_whatever_the_engine(architecture: str) -> None:
    known = platforms.load()
    rows = [row for each in known.values() for row in each.expected_rows(architecture, ["avx2"])]
    planned = controls.planned(rows, known.values())
    names = [(control.victim.platform, control.name) for control in planned]
    assert len(names) == len(set(names)) == 7
    assert ("linux-aarch64", "kernels without -ffp-contract=off") in names
    assert not any(control.victim.kernels == "scalar" for control in planned)
    assert not any(control.victim.built_by for control in planned), "only wheels of ours can be built with a fault"


def test_the_report_folder_is_emptied_only_if_a_gate_wrote_it(tmp_path: Path) -> None:
    folder = gate.fresh_folder(tmp_path / "report")
    (folder / "gate.json").write_text('{"passed": true}')
    assert [path.name for path in gate.fresh_folder(folder).iterdir()] == [".written-by-the-gate"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(gate.GateError, match="holds other things"):
        gate.fresh_folder(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_folder_without_the_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(data_set.DataError, match=r"must hold exactly one \*vectors.npy, but it holds 0"):
        data_set.find_data(tmp_path)


def work(folder: Path, stages: Sequence[gate.Stage]) -> gate.Work:
    return gate.Work(CARRIED, folder, [stage.name for stage in stages])


def test_a_stage_that_finds_something_or_breaks_fails_the_gate(tmp_path: Path) -> None:
    def breaks(_: gate.Work) -> list[str]:
        raise OSError("no space left on device")

    stages = [
        gate.Stage("good", "nothing", lambda _: []),
        gate.Stage("bad", "something", lambda _: ["one wheel is wrong"]),
        gate.Stage("broken", "nothing either", breaks),
    ]
    checks = [gate.run_stage(stage, work(tmp_path, stages)) for stage in stages]
    assert [check.problems for check in checks] == [
        [],
        ["one wheel is wrong"],
        ["could not be completed: no space left on device"],
    ]
    assert report.Report([], {}, checks=checks[:1], rows_wanted=False).passed
    for check in checks[1:]:
        assert not report.Report([], {}, checks=[check], rows_wanted=False).passed
    assert not report.Report([], {}, checks=checks[:1]).passed, "machines were wanted, and none ran"


def test_stages_keep_their_order_and_wheels_are_always_built() -> None:
    def names(only: list[str] | None = None, without: list[str] | None = None) -> list[str]:
        return [stage.name for stage in gate.chosen_stages(only, without)]

    every = [stage.name for stage in gate.STAGES]
    assert names() == every and len(set(every)) == len(every)
    assert names(only=["matrix", "audit"]) == ["wheels", "audit", "matrix"]
    assert names(without=["cibuildwheel"]) == [name for name in every if name != "cibuildwheel"]
    with pytest.raises(gate.GateError, match="choose both, or neither"):
        names(without=["matrix"])


@pytest.mark.parametrize("stage", ["audit", "macos", "install", "workflows"])
def test_a_stage_that_runs_alone_has_the_wheels_of_every_platform(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def keep(wanted: Sequence[Target], *_: object, **__: object) -> dict[object, Path]:
        built[:] = [each.name for each in wanted]
        return {}

    monkeypatch.setattr(gate.wheels, "keep_wheels", keep)
    gate.build_wheels(gate.Work(CARRIED, tmp_path, ["wheels", stage]))
    assert set(built) == set(platforms.load_targets())
    gate.build_wheels(gate.Work(CARRIED, tmp_path, ["wheels", "matrix"]))
    assert set(built) == set(platforms.load())


def test_kernels_of_macos_that_nobody_built_are_not_said_to_give_the_known_answers(tmp_path: Path) -> None:
    assert gate.run_macos_kernels(gate.Work(CARRIED, tmp_path, ["macos"])) == ["no wheel for macOS was built"]


def test_the_audit_stage_tells_good_wheels_from_foreign_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = work(tmp_path, gate.STAGES)
    given.wheels[WheelKey("linux-x86_64", "3.11")] = tmp_path / "some.whl"
    monkeypatch.setattr(gate, "audit_wheel", lambda path, target, abi: [] if target.name == "linux-x86_64" else ["x"])
    assert gate.audit_wheels(given) == []
    monkeypatch.setattr(gate, "audit_wheel", lambda path, target, abi: ["a leak"])
    assert gate.audit_wheels(given) == ["some.whl: a leak"]
    monkeypatch.setattr(gate, "audit_wheel", lambda path, target, abi: [])
    (blind,) = gate.audit_wheels(given)
    assert "the audit sees nothing" in blind


def test_rows_of_a_stage_that_was_left_out_are_not_expected_and_else_are(tmp_path: Path) -> None:
    rows = platforms.load()["linux-aarch64"].expected_rows("x86_64", ())
    given = work(tmp_path, gate.STAGES)
    given.expected = rows
    assert gate.rows_to_run(given) == list(rows)
    given.stages = ["wheels", "matrix"]
    chosen = gate.rows_to_run(given)
    assert {row.built_by for row in chosen} == {"", "gcc", "clang", "musl"} and len(chosen) < len(rows)
    given.machine_names = ["linux-aarch64/max-cibuildwheel"]
    with pytest.raises(platforms.PlatformError, match="no machine 'linux-aarch64/max-cibuildwheel'"):
        gate.rows_to_run(given)


def test_only_the_pythons_of_the_rows_asked_for_are_needed(tmp_path: Path) -> None:
    given = work(tmp_path, gate.STAGES)
    assert given.pythons == ["3.11", "3.13"]
    given.machine_names = ["native", "linux-x86_64/qemu64"]
    assert given.pythons == ["3.11"]
    given.machine_names = ["linux-aarch64/max-python3.13"]
    assert given.pythons == ["3.13"]


def test_what_did_not_run_here_is_never_said_to_have_passed(agreeing: list[matrix.Row], tmp_path: Path) -> None:
    targets = list(platforms.load_targets().values())
    pythons = wheels.released_pythons()
    here = Machine("max", "2.4.6", "max", python="3.11", platform="linux-x86_64")
    rows = [replace(row, machine=here) for row in agreeing]
    built = {WheelKey(target.name, python): tmp_path for target in targets for python in ("3.11", "3.13")}
    lines = verdict.describe_wheels(built, targets, pythons, rows)
    assert len(lines) == len(targets) * len(pythons)
    proofs = {(line.key.platform, line.key.python): line.proof for line in lines}
    assert proofs.pop(("linux-x86_64", "3.11")) == f"run on {len(rows)} machines"
    assert not any(proof.startswith("run on") for proof in proofs.values())
    assert {proofs[target.name, "3.12"] for target in targets} == {"workflow only"}
    assert proofs["linux-x86_64", "3.13"] == proofs["linux-aarch64", "3.11"] == "built, NOT RUN"
    assert proofs["musllinux-aarch64", "3.11"].startswith("built and inspected")
    assert proofs["macos-arm64", "3.13"].startswith("built and inspected")
    remarks = verdict.not_proven(lines)
    for name in ("macos-arm64", "musllinux-x86_64", "musllinux-aarch64", "linux-aarch64", "Python 3.12", "Python 3.14"):
        assert any(remark.startswith(f"NOT PROVEN {name}") for remark in remarks)
    assert not any("linux-x86_64" in remark and "musl" not in remark for remark in remarks)
    rows[0].failure = "died"
    assert verdict.describe_wheels(built, targets, pythons, rows)[0].key.platform == targets[0].name
    failed = {
        (each.key.platform, each.key.python): each.proof
        for each in verdict.describe_wheels(built, targets, pythons, rows)
    }
    assert failed["linux-x86_64", "3.11"] == "FAILED on 1 machines"


def test_the_two_ways_to_a_wheel_are_told_apart(agreeing: list[matrix.Row], tmp_path: Path) -> None:
    """Another compiler is another combination; and its wheel has a line of its own."""
    count = len({row.machine.kernels for row in agreeing})
    for row in agreeing:
        other = json.loads(json.dumps(row.answers))
        other["facts"]["compiler"] = "another"
        agreeing = [*agreeing, replace(row, machine=replace(row.machine, built_by="cibuildwheel"), answers=other)]
    summary = verdict.summarise(agreeing)[0]
    assert summary.startswith(f"{2 * count} of {2 * count} expected rows agree")
    assert f"they are {2 * count} distinct combinations" in summary
    keys = {WheelKey("linux-x86_64", "3.11"): tmp_path, WheelKey("linux-x86_64", "3.11", "cibuildwheel"): tmp_path}
    lines = verdict.describe_wheels(keys, [platforms.load_targets()["linux-x86_64"]], ["3.11"], [])
    assert [line.key.built_by for line in lines] == ["", "cibuildwheel"]


def test_the_report_names_every_wheel_and_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "constann-0.1.0-cp311-cp311-some.whl"
    wheel.write_bytes(b"abc")
    lines = [
        report.WheelLine(WheelKey("linux-x86_64", "3.11"), wheel, "built, NOT RUN"),
        report.WheelLine(WheelKey("macos-arm64", "3.12"), None, "workflow only"),
    ]
    checks = [report.Check("audit", "nothing extra", ["a.whl: a leak"], 12.3)]
    found = report.Report([], {}, lines, checks, rows_wanted=False)
    found.show(tmp_path)
    printed = capsys.readouterr().out
    assert "workflow only" in printed and "built, NOT RUN" in printed and "FAIL (1)" in printed
    assert "FAILED audit: a.whl: a leak" in printed and "verdict: FAIL" in printed
    kept = json.loads((tmp_path / "gate.json").read_text())
    assert kept["wheels"][0]["sha256"].startswith("ba7816bf") and "sha256" not in kept["wheels"][1]
    assert kept["checks"] == [{"stage": "audit", "problems": ["a.whl: a leak"], "seconds": 12.3}]
