"""Machines without containers start the same programs as those in containers, and say how they end."""

import os
import platform as computer
import sys
from pathlib import Path

import pytest

from ci import cache, gate, host, offline, platforms, trees
from ci.machines import Outcome
from ci.platforms import Machine, WheelKey

KNOWN = platforms.load()
FACTS = platforms.load_images()


def machine(name: str) -> Machine:
    return platforms.find(name, [row for each in KNOWN.values() for row in each.machines])


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree whose Python, loader and QEMU are scripts that print what they were given."""
    tree = tmp_path / "tree"
    (tree / "usr" / "lib64").mkdir(parents=True)
    for name in ("usr/lib64/ld-linux-x86-64.so.2", "qemu"):
        (tree / name).write_text('#!/bin/sh\necho "$0" "$@"\n[ -z "$DIES" ] || kill -ILL $$\n')
        (tree / name).chmod(0o755)
    monkeypatch.setattr(trees, "make_tree", lambda *arguments: tree)
    monkeypatch.setattr(trees, "_numpy", lambda *arguments: tmp_path / "numpy")
    monkeypatch.setattr(host, "program", lambda name: str(tree / "qemu"))
    return tree


def test_a_model_is_played_by_qemu_with_the_tree_as_its_system(prepared: Path) -> None:
    run = trees.Trees(KNOWN, FACTS, {}).run(machine("linux-aarch64/max-64k-pages"), ["-c", "1"])
    python = prepared / "usr/bin/python3.11"
    assert run.ok
    assert run.output.split()[1:] == ["-cpu", "max", "-p", "65536", "-L", str(prepared), str(python), "-c", "1"]


def test_the_own_cpu_runs_the_trees_python_by_the_trees_loader(prepared: Path) -> None:
    run = trees.Trees(KNOWN, FACTS, {}).run(machine("linux-x86_64/native"), ["-c", "1"])
    assert run.output.split()[0].endswith("ld-linux-x86-64.so.2") and "--library-path" in run.output
    assert run.output.split()[-3:] == [str(prepared / "usr/bin/python3.11"), "-c", "1"]


def test_what_is_mounted_inside_is_found_outside(prepared: Path, tmp_path: Path) -> None:
    mounts = {tmp_path: "/output", tmp_path / "w.py": "/work.py:ro"}
    run = trees.Trees(KNOWN, FACTS, {}).run(machine("linux-x86_64/max"), ["/work.py", "/output/a", "/outputs"], mounts)
    assert run.output.split()[-3:] == [str(tmp_path / "w.py"), str(tmp_path / "a"), "/outputs"]


def test_a_program_needs_no_tree(prepared: Path, tmp_path: Path) -> None:
    musl = machine("linux-x86_64/core2duo-musl")
    run = trees.Trees(KNOWN, FACTS, {musl.wheel: tmp_path / "program"}).run(musl, ["avx2"])
    assert run.output.split()[1:] == ["-cpu", "core2duo", str(tmp_path / "program"), "avx2"]


def test_dying_running_late_and_not_starting_are_told_apart(prepared: Path) -> None:
    ready = trees.Trees(KNOWN, FACTS, {})
    died = ready.run(machine("linux-x86_64/qemu64"), ["-c", "1"], environment={"DIES": "1"})
    assert died.reason.startswith("died of SIGILL (illegal instruction)")
    (prepared / "qemu").write_text("#!/bin/sh\nexec sleep 10\n")
    late = ready.run(machine("linux-x86_64/qemu64"), ["-c", "1"], timeout=0.1)
    assert (late.outcome, late.reason) == (Outcome.TIMED_OUT, "no end in 0.1 s")
    none = ready.run(machine("linux-x86_64/max-cibuildwheel"), ["-c", "1"])
    assert (none.outcome, none.reason) == (
        Outcome.COULD_NOT_START,
        "cibuildwheel made no wheel for linux-x86_64",
    )
    ready.close()
    assert ready.run(machine("linux-x86_64/qemu64"), ["-c", "1"]).reason == "interrupted"


def test_another_wheel_is_another_machine_to_what_is_kept(prepared: Path, tmp_path: Path) -> None:
    row = machine("linux-x86_64/qemu64")
    identities = []
    for content in (b"one", b"two"):
        path = tmp_path / content.decode()
        path.write_bytes(content)
        identities.append(trees.Trees(KNOWN, FACTS, {WheelKey("linux-x86_64", "3.11"): path}).identity(row))
    assert identities[0] != identities[1] and identities[0][0] == "qemu-user"


@pytest.mark.skipif(sys.platform != "linux", reason="trees are for Linux")
def test_the_rows_are_those_of_an_engine_here() -> None:
    rows = trees.expected(KNOWN)
    own = [row for row in rows if row.model is None]
    assert {KNOWN[row.platform].architecture for row in own} == {computer.machine()}
    assert len({row.full_name for row in rows}) == len(rows) > 40


def test_a_gate_offline_takes_only_what_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("PIP_NO_INDEX", "")
    with pytest.raises(cache.CacheError, match="holds nothing that was fetched"):
        offline.go_offline(tmp_path / "nothing")
    (tmp_path / "fetched" / "wheels").mkdir(parents=True)
    offline.go_offline(tmp_path / "fetched")
    assert cache.root() == tmp_path / "fetched" and os.environ["PIP_NO_INDEX"] == "1"


def test_what_cannot_run_offline_or_without_an_engine_is_known() -> None:
    names = {stage.name for stage in gate.STAGES}
    assert {stage.name for stage in gate.STAGES if stage.machines} == {"matrix", "controls", "elsewhere"}
    assert {"install", "others", "workflows"} < {stage.name for stage in gate.STAGES if stage.network} < names
