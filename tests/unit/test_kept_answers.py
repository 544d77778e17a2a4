"""A row is repeated only if something of it changed; a failure or a damaged answer never stands for a run."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ci import wheel_file
from ci.kept_answers import KeptAnswers
from ci.machines import Outcome, Run
from ci.platforms import Machine

MACHINE = Machine("max", "2.4.6", "max", "avx2", platform="linux-x86_64")


class Counting:
    """Machines that write one file, and count how often they do."""

    def __init__(self) -> None:
        self.count, self.status = 0, 0

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str],
        environment: Mapping[str, str],
        timeout: float,
    ) -> Run:
        self.count += 1
        (output,) = (path for path, inside in mounts.items() if inside == "/output")
        (output / "answers.json").write_text(json.dumps({"run": self.count}))
        return Run(machine, Outcome.FINISHED, self.status, "fine\n", "", 1.0)

    def close(self) -> None:
        """Nothing to end."""


class Kept:
    """One row's surroundings, of which a test changes one thing."""

    def __init__(self, folder: Path) -> None:
        self.machines, self.folder, self.identity = Counting(), folder, ["wheel", "image"]
        self.machine, self.arguments, self.environment = MACHINE, ["/workload.py"], {"A": "1"}
        self.given, self.load = folder / "vectors.npy", folder / "load"
        self.given.write_bytes(b"rows")
        self.load.mkdir()
        (self.load / "exact-dot.constann").write_bytes(b"index")

    def run(self) -> Run:
        output = self.folder / f"output-{self.machines.count}"
        output.mkdir(exist_ok=True)
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        kept = KeptAnswers(self.machines, lambda machine: self.identity, cache)
        mounts = {output: "/output", self.given: "/vectors.npy:ro", self.load: "/load:ro"}
        run = kept.run(self.machine, self.arguments, mounts, self.environment, 10)
        assert (output / "answers.json").exists()
        return run


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_what_did_not_change_is_not_run_again_and_says_so(kept: Kept) -> None:
    first, second = kept.run(), kept.run()
    assert (first.kept, kept.machines.count) == ("", 1)
    assert second.ok and second.kept and second.output == "fine\n"
    (kept.load / "answers.json").write_text("how long it took is nobody's input")
    assert kept.run().kept


CHANGES: dict[str, Callable[[Kept], object]] = {
    "wheel": lambda kept: kept.identity.append("another"),
    "machine": lambda kept: setattr(kept, "machine", dataclasses.replace(MACHINE, threads=1)),
    "arguments": lambda kept: kept.arguments.append("--rows"),
    "environment": lambda kept: kept.environment.update(A="2"),
    "vectors": lambda kept: kept.given.write_bytes(b"rowz"),
    "index": lambda kept: (kept.load / "exact-dot.constann").write_bytes(b"indez"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_run_again(kept: Kept, what: str) -> None:
    kept.run()
    CHANGES[what](kept)
    assert not kept.run().kept and kept.machines.count == 2


def test_a_failure_is_not_kept(kept: Kept) -> None:
    kept.machines.status = 1
    assert not kept.run().ok
    kept.machines.status = 0
    assert kept.run().ok and kept.machines.count == 2


def test_a_damaged_answer_is_run_again(kept: Kept) -> None:
    kept.run()
    (damaged,) = (path for path in (kept.folder / "cache").iterdir() if path.suffix != ".json")
    damaged.write_text("{}")
    assert not kept.run().kept
    assert kept.run().kept


def test_what_nobody_used_for_a_month_is_removed(kept: Kept) -> None:
    kept.run()
    for path in (kept.folder / "cache").iterdir():
        os.utime(path, (1, 1))
    assert not kept.run().kept and kept.run().kept


def test_a_wheel_of_another_day_is_the_same_build(tmp_path: Path) -> None:
    paths = []
    for name, date, code in (("a", 1980, "x"), ("b", 2020, "x"), ("c", 2020, "y")):
        paths.append(tmp_path / f"{name}.whl")
        with zipfile.ZipFile(paths[-1], "w") as archive:
            archive.writestr(zipfile.ZipInfo("constann/_core.so", (date, 1, 1, 0, 0, 0)), code)
            archive.writestr("constann.dist-info/RECORD", str(date))
    first, same, other = map(wheel_file.digest_of_build, paths)
    assert first == same != other
