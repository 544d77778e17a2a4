"""The commands do what their help says, in scripts too: exit statuses, JSON, pipes, Ctrl-C."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

import constann
from constann.command_line import main

ROWS = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    np.save(tmp_path / "rows.npy", ROWS)
    np.save(tmp_path / "queries.npy", ROWS[:5])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main(arguments)


def test_build_and_query_are_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "rows.npy", "a.constann", "--seed", "5", "--quiet", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    index = constann.build(ROWS, seed=5)
    assert answer["fingerprint"] == index.fingerprint and answer["rows"] == 2000
    assert run("build", "rows.npy", "b.constann", "--seed", "5", "--quiet", "--on-disk") == 0
    assert (folder / "b.constann").read_bytes() == (folder / "a.constann").read_bytes()
    capsys.readouterr()
    assert run("query", "a.constann", "queries.npy", "-k", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    ids, distances = index.search(ROWS[:5], 3)
    assert found == {"ids": ids.tolist(), "distances": distances.tolist()}
    for out in ("a.npz", "a.ivecs", "a.tsv"):
        assert run("query", "a.constann", "queries.npy", "--out", out) == 0
    with np.load("a.npz") as kept:
        np.testing.assert_array_equal(kept["ids"], index.search(ROWS[:5])[0])
    assert np.fromfile("a.ivecs", "<i4").reshape(5, 11)[:, 1:].tolist() == index.search(ROWS[:5])[0].tolist()
    assert (folder / "a.tsv").read_text().splitlines()[0].startswith("0\t0\t0.0")


@pytest.mark.parametrize("out", ["a.npz", "a.ivecs", "a.tsv"])
def test_what_a_query_writes_replaces_the_old_file_whole_or_not_at_all(
    out: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("build", "rows.npy", "index", "--kind", "exact", "-q") == 0
    (folder / out).write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir(folder))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run("query", "index", "queries.npy", "--out", out) == 3
    assert (folder / out).read_bytes() == b"old" and sorted(os.listdir(folder)) == before
    assert run("query", "index", "queries.npy", "--out", out) == 0
    assert (folder / out).read_bytes() != b"old"


def stderr_on_a_terminal(command: list[str]) -> str:
    """What the command wrote to standard error, which is a terminal."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=its, env=environment) as process:
        os.close(its)
        seen = b""
        with contextlib.suppress(OSError):  # how Linux says that a terminal has ended
            while part := os.read(ours, 1 << 16):
                seen += part
        os.close(ours)
        assert process.wait() == 0
    return seen.decode()


def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_pipe(folder: Path) -> None:
    command = [sys.executable, "-m", "constann", "build", "rows.npy", "a.constann"]
    shown = stderr_on_a_terminal(command)
    assert "building" in shown and "\u2501" in shown and "\x1b[" in shown and "100%" in shown
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "\x1b" not in piped and "\u2501" not in piped
    assert re.search(r"^building: \d+ of 2000$", piped, re.MULTILINE)
    assert "building" not in stderr_on_a_terminal([*command, "--quiet"])


def test_ids_and_filters_come_from_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "names").write_text("".join(f"row {i}\n" for i in range(2000)))
    (folder / "few").write_text("row 7\nrow 9\n")
    assert run("build", "rows.npy", "a", "--kind", "exact", "--ids", "names", "-q") == 0
    capsys.readouterr()
    assert run("query", "a", "queries.npy", "--allowed", "few", "--json") == 0
    assert {*json.loads(capsys.readouterr().out)["ids"][0]} == {"row 7", "row 9", None}
    assert run("build", "rows.npy", "b", "-q") == 0
    (folder / "numbers").write_text("0\n1\n")
    capsys.readouterr()
    assert run("query", "b", "queries.npy", "-k", "2", "--allowed", "numbers", "--exclude", "numbers", "--json") == 0
    assert json.loads(capsys.readouterr().out)["distances"][0] == [None, None]
    assert run("query", "b", "queries.npy", "--allowed", "few") == 2
    assert "the index has integer ids" in capsys.readouterr().err


def test_verify_names_what_is_damaged_and_says_no(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "rows.npy", "a", "-q") == run("build", "rows.npy", "b", "-q") == 0
    content = bytearray((folder / "b").read_bytes())
    content[-1] ^= 1
    (folder / "b").write_bytes(content)
    capsys.readouterr()
    assert run("verify", "a") == 0
    assert run("verify", "a", "b") == 1
    out = capsys.readouterr().out
    assert "a: whole" in out and "b: section codes is damaged" in out
    assert run("verify", "a", "b", "--json") == 1
    assert json.loads(capsys.readouterr().out)["whole"] is False


def test_info_and_bench_tell_what_there_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "rows.npy", "a", "--kind", "forest", "--trees", "4", "-q")
    capsys.readouterr()
    assert run("info", "a", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kind"], answer["trees"], answer["dim"], answer["ids"]) == ("forest", 4, 8, "row numbers")
    assert sum(answer["sections"].values()) < answer["bytes"]
    assert run("info", "a") == 0 and "trees               4" in capsys.readouterr().out
    assert run("bench", "a", "queries.npy", "--efforts", "0.01,100", "--json") == 0
    low, high = json.loads(capsys.readouterr().out)["measured"]
    assert low["recall"] <= high["recall"] == 1.0 and high["queries a second"] > 0


def test_a_graph_is_what_is_built_where_nothing_else_is_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "rows.npy", "a", "--effort", "30", "-q")
    capsys.readouterr()
    assert run("info", "a", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kind"], answer["effort"], "trees" in answer) == ("graph", 30, False)
    assert run("bench", "a", "queries.npy", "--efforts", "0.01,100", "--json") == 0
    efforts = [each["effort"] for each in json.loads(capsys.readouterr().out)["measured"]]
    assert efforts == [1, 3000]


def test_a_map_of_pairs_is_described_and_not_searched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = constann.PairMap()
    pairs.add([1, 1, 2], [1, 2, 1])
    pairs.save("seen")
    assert run("verify", "seen") == 0 and run("info", "seen", "--json") == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["kind"], answer["dtype"], answer["pairs"], answer["users"]) == ("pairmap", "int16", 3, 2)
    assert answer["fingerprint"] == pairs.fingerprint
    for command in ("query", "bench"):
        assert run(command, "seen", "queries.npy") == 2
        assert "seen holds a map of pairs, which is no index" in capsys.readouterr().err


def test_convert_goes_both_ways(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "rows.npy", "a.constann", "--metric", "euclidean", "--kind", "forest", "-q")
    assert run("convert", "a.constann", "a.ann") == 0
    assert run("convert", "a.ann", "b.constann", "--dim", "8", "--metric", "euclidean") == 0
    assert constann.open("b.constann").search(ROWS[:5], 1)[0][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert run("convert", "a.ann", "c.constann") == 2
    assert "give --dim and --metric" in capsys.readouterr().err
    assert run("convert", "a.ann", "c.constann", "--dim", "9", "--metric", "euclidean") == 1
    assert "no multiple of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["build", "nowhere.npy", "a"], 3, "No such file"),
        (["build", "rows.npy", "/nowhere/a"], 3, "No such file"),
        (["build", "rows.txt", "a"], 2, "vectors come as .npy"),
        (["build", "rows.npy", "a", "--kind", "exact", "--trees", "3"], 2, "--trees is not for --kind exact"),
        (["build", "rows.npy", "a", "--trees", "3"], 2, "--trees is not for --kind graph"),
        (["build", "rows.npy", "a", "--metric", "hamming"], 2, "graph"),
        (["build", "rows.npy", "a", "--metric", "cosinus"], 2, "is not one of"),
        (["query", "rows.npy", "rows.npy"], 1, "this is not a Constann index"),
        (["query", "rows.npy", "rows.npy", "--out", "a.csv"], 2, "--out takes"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_bad_input_ends_in_a_sentence_and_a_status(
    arguments: list[str], status: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == status
    error = capsys.readouterr().err
    assert message in error and "Error: " in error and "Traceback" not in error


def constann_process(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "constann", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_progress_in_a_pipe_is_plain_lines(folder: Path) -> None:
    process = constann_process("build", "rows.npy", "a", "--kind", "forest", "--trees", "20")
    out, error = process.communicate()
    assert process.returncode == 0 and "\x1b" not in out + error and "\r" not in error
    assert "reading: 2000 of 2000" in error and out.startswith("a: 2000 rows")


def test_ctrl_c_leaves_no_file(folder: Path) -> None:
    np.save("many.npy", np.tile(ROWS, (200, 1)))
    process = constann_process("build", "many.npy", "a", "--kind", "forest", "--trees", "500")
    assert process.stderr is not None
    assert "reading" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and "Interrupted." in error
    assert sorted(os.listdir()) == ["many.npy", "queries.npy", "rows.npy"]


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    run("build", "rows.npy", "a", "-q")
    line = f"{sys.executable} -m constann query a rows.npy | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.startswith("0\t0\t")


@pytest.mark.parametrize("command", ["build", "query", "info", "verify", "convert", "bench"])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    out = capsys.readouterr().out
    assert "Usage: constann " + command in out and "Exit status: 0 well" in out
