"""Building in the file: the same bytes as in memory, little memory, and never half a file under the name."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import constann

ROWS = np.random.default_rng(3).standard_normal((3000, 20)).astype(np.float32)
CASES = {
    "exact": ("exact", "euclidean", ROWS, None),
    "forest with codes": ("forest", "cosine", ROWS, None),
    "forest without codes": ("forest", "dot", ROWS[:500], None),
    "forest of tight clusters": (
        "forest",
        "euclidean",
        np.repeat(ROWS[:20] * 1000, 100, axis=0) + ROWS[:2000] * 1e-3,
        None,
    ),
    "graph": ("graph", "cosine", ROWS, None),
    "graph of equal rows": ("graph", "dot", np.repeat(ROWS[:200], 10, axis=0), [f"row {i}" for i in range(2000)]),
    "hamming": ("forest", "hamming", np.packbits(ROWS > 0, axis=1), None),
    "int64 ids": ("forest", "manhattan", ROWS, np.arange(3000)[::-1] * 5),
    "string ids": ("exact", "cosine", ROWS[:100], [f"row {i}" for i in range(100)]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_that_of_building_in_memory(case: str, tmp_path: Path) -> None:
    kind, metric, rows, ids = CASES[case]
    path = tmp_path / "index"
    expected = constann.build(rows, metric, kind=kind, ids=ids, seed=4)  # type: ignore[arg-type]
    dim = rows.shape[1] * 8 if metric == "hamming" else rows.shape[1]
    index = getattr(constann, kind.capitalize())(dim, metric, path=path)
    for start in range(0, len(rows), 700):
        index.add(rows[start : start + 700], None if ids is None else ids[start : start + 700])
        assert not path.exists()
    index.build(seed=4)
    assert path.read_bytes() == expected.to_bytes() and os.listdir(tmp_path) == ["index"]
    for each in (index, constann.open(path, verify=True)):
        for found, true in zip(each.search(rows[:20]), expected.search(rows[:20]), strict=True):
            np.testing.assert_array_equal(found, true)
    assert index.fingerprint == expected.fingerprint
    index.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_build_takes_a_path(tmp_path: Path) -> None:
    index = constann.build(ROWS, kind="forest", path=tmp_path / "index")
    assert (tmp_path / "index").read_bytes() == constann.build(ROWS, kind="forest").to_bytes() == index.to_bytes()


def test_bad_rows_and_stops_leave_nothing(tmp_path: Path) -> None:
    index = constann.Forest(20, "cosine", path=tmp_path / "index")
    bad = ROWS[:5].copy()
    bad[3, 2] = np.nan
    index.add(ROWS[:1000])
    with pytest.raises(ValueError, match="row 3, column 2 is NaN"):
        index.add(bad)
    with pytest.raises(ValueError, match="vectors have dim 3"):
        index.add(ROWS[:5, :3])
    index.add(ROWS[1000:])
    index.build()
    assert index.fingerprint == constann.build(ROWS, kind="forest").fingerprint
    dropped = constann.Forest(20, "cosine", path=tmp_path / "other")
    dropped.add(ROWS)
    del dropped
    assert os.listdir(tmp_path) == ["index"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        constann.Forest(3, "cosine", path=tmp_path / "nowhere" / "index")


def test_a_folder_at_the_path_is_an_error_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a folder is there"):
        constann.Forest(3, "cosine", path=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("case", CASES)
def test_an_index_whose_file_cannot_be_put_there_answers_right_and_can_be_saved(case: str, tmp_path: Path) -> None:
    kind, metric, rows, ids = CASES[case]
    expected = constann.build(rows, metric, kind=kind, ids=ids)  # type: ignore[arg-type]
    dim = rows.shape[1] * 8 if metric == "hamming" else rows.shape[1]
    kinds = {"exact": constann.Exact, "forest": constann.Forest, "graph": constann.Graph}
    index = kinds[kind](dim, metric, path=tmp_path / "index")  # type: ignore[arg-type]
    index.add(rows, ids)
    (tmp_path / "index").mkdir()
    with pytest.raises(IsADirectoryError, match=r"save\(\) it elsewhere"):
        index.build()
    assert os.listdir(tmp_path) == ["index"] and index.built
    for found, true in zip(index.search(rows[:20]), expected.search(rows[:20]), strict=True):
        np.testing.assert_array_equal(found, true)
    index.save(tmp_path / "elsewhere")
    assert constann.open(tmp_path / "elsewhere", verify=True).fingerprint == expected.fingerprint


def test_nobody_sees_the_index_while_its_file_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows move then."""
    index = constann.Forest(20, "cosine", path=tmp_path / "index")
    index.add(ROWS)
    refused = []

    def look(_: int) -> None:
        for use in (lambda: index.search(ROWS[:1]), index.to_bytes, lambda: index.add(ROWS), index.build):
            with pytest.raises(ValueError, match=r"is not built|being changed") as error:
                use()
            refused.append(str(error.value))

    monkeypatch.setattr(os, "fsync", look)
    index.build()
    assert len(refused) >= 4
    np.testing.assert_array_equal(index.search(ROWS[:20])[0], constann.build(ROWS, kind="forest").search(ROWS[:20])[0])


def test_ctrl_c_after_the_last_step_of_building_leaves_the_whole_file(tmp_path: Path) -> None:
    class Interrupted(constann.Forest):
        def _build(self, *arguments: Any) -> None:
            super()._build(*arguments)
            raise KeyboardInterrupt

    index = Interrupted(20, "cosine", path=tmp_path / "index")
    index.add(ROWS)
    with pytest.raises(KeyboardInterrupt):
        index.build()
    assert index.built and os.listdir(tmp_path) == ["index"]
    expected = constann.build(ROWS, "cosine", kind="forest")
    assert constann.open(tmp_path / "index", verify=True).fingerprint == expected.fingerprint


FULL = """
import resource, signal, sys, numpy as np, constann
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
index = constann.Forest(20, "cosine", path=sys.argv[1])
rows = np.random.default_rng(0).standard_normal((20_000, 20)).astype("f4")
index.add(rows)
index.build()
"""


@pytest.mark.parametrize("limit", [2**20, 3 * 2**20])
def test_a_full_disk_is_an_error_that_leaves_the_old_file(limit: int, tmp_path: Path) -> None:
    """While rows are added, and while what was built is written."""
    (tmp_path / "index").write_bytes(b"old")
    command = [sys.executable, "-c", FULL, tmp_path / "index", str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "OSError: [Errno 27] File too large" in run.stderr
    assert (tmp_path / "index").read_bytes() == b"old" and os.listdir(tmp_path) == ["index"]


KILLED = """
import sys, numpy as np, constann
rows = np.random.default_rng(0).standard_normal((20_000, 20)).astype("f4")
print("ready", flush=True)
while True:
    index = constann.Forest(20, "cosine", trees=4, path=sys.argv[1])
    for start in range(0, 20_000, 2_000):
        index.add(rows[start:start + 2_000])
    index.build()
"""


@pytest.mark.slow
def test_killed_while_building_it_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    """At 50 moments of about two buildings, however busy the machine."""
    path = tmp_path / "index"
    rows = np.random.default_rng(0).standard_normal((20_000, 20)).astype("f4")
    begin = time.perf_counter()
    expected = constann.Forest(20, "cosine", trees=4, path=path)
    expected.add(rows)
    expected.build()
    took = time.perf_counter() - begin
    whole = expected.to_bytes()
    path.unlink()
    seen = set()
    for moment in np.random.default_rng(8).uniform(0, 2 * took, 50):
        child = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        threading.Event().wait(moment)
        child.kill()
        child.wait()
        child.stdout.close()
        seen.add(path.exists())
        assert not path.exists() or path.read_bytes() == whole
        for left in tmp_path.iterdir():
            left.unlink()
    assert seen == {True, False}


MEMORY = """
import sys, threading, time, numpy as np, constann
def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon:"))
count = int(sys.argv[2])
index = constann.Forest(96, "euclidean", trees=4, path=sys.argv[1])
generator = np.random.default_rng(0)
generator.standard_normal((10_000, 96), np.float32)
before, peak, running = anonymous(), 0, True
def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
for _ in range(0, count, 10_000):
    index.add(generator.standard_normal((10_000, 96), np.float32))
index.build(threads=2)
running = False
thread.join()
print(before, peak, sum(len(content) for name, content in index._contents() if name != "rows"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_holds_the_trees_and_not_the_rows(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "index", "300000"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    before, peak, trees = map(int, run.stdout.split())
    assert peak - before <= trees + 64 * 2**20
