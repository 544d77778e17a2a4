"""Where an index comes from and goes to: memory modes, bytes, open files, pickles, and every damaged byte found."""

import copy
import errno
import io
import mmap
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import constann
from constann.indexes import Metric

GENERATOR = np.random.default_rng(4)
ROWS = GENERATOR.standard_normal((40, 7)).astype(np.float32)
MODES = ["map", "warm", "copy", "lock"]
SMALL = {
    "exact": lambda: constann.build(ROWS[:5, :3], "euclidean", kind="exact"),
    "forest": lambda: forest(ROWS[:9, :2], "cosine"),
    "hamming": lambda: forest(np.packbits(ROWS[:9] > 0, axis=1), "hamming"),
    "int64 ids": lambda: constann.build(ROWS[:5, :3], "dot", kind="exact", ids=[5, 1, 9, -4, 2]),
    "string ids": lambda: constann.build(ROWS[:5, :3], "manhattan", kind="exact", ids=["b", "a", "", "ä", "c"]),
    "forest, string ids": lambda: forest(ROWS[:9, :2], "dot", ids=list("ihgfedcba")),
}
METRICS: tuple[Metric, ...] = ("cosine", "euclidean", "manhattan", "dot", "hamming")


def forest(rows: np.ndarray, metric: str, *, ids: list[str] | None = None, **options: int) -> constann.Forest:
    index = constann.Forest(8 if metric == "hamming" else rows.shape[1], metric, trees=2, **options)  # type: ignore[arg-type]
    index.add(rows, ids)
    index.build()
    return index


def answers(index: constann.Index) -> tuple[bytes, bytes]:
    ids, distances = index.search(ROWS[:5], 10)
    return ids.tobytes(), distances.tobytes()


INDEX = constann.build(ROWS, kind="forest")


@pytest.mark.parametrize("memory", MODES)
def test_all_memory_modes_answer_alike(memory: str, tmp_path: Path) -> None:
    INDEX.save(tmp_path / "index")
    opened = constann.open(tmp_path / "index", memory=memory)  # type: ignore[arg-type]
    assert answers(opened) == answers(INDEX) and opened.fingerprint == INDEX.fingerprint


def test_a_copy_does_not_follow_the_file(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "index")
    opened = constann.open(tmp_path / "index", memory="copy")
    (tmp_path / "index").write_bytes(bytes((tmp_path / "index").stat().st_size))
    assert answers(opened) == answers(INDEX)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps: run on Linux")
def test_a_copy_is_memory_of_this_process_alone(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "index")
    shared = "/dev/zero (deleted)"  # what Linux calls memory that belongs to no file and is shared all the same
    before = Path("/proc/self/maps").read_text().count(shared)
    opened = constann.open(tmp_path / "index", memory="copy")
    assert Path("/proc/self/maps").read_text().count(shared) == before and len(opened) == len(ROWS)
    control = mmap.mmap(-1, 1 << 20)
    assert Path("/proc/self/maps").read_text().count(shared) == before + 1
    control.close()


def test_a_refused_lock_says_what_to_do(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "index")
    # All modules are read first: the user it then becomes may not read them.
    code = (
        "import constann.indexes, sys, resource, os\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "constann.open(sys.stdin.fileno() and '/dev/null' or '/dev/stdin', memory='lock')"
    )
    with (tmp_path / "index").open("rb") as file:
        run = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=False)
    assert "refuses to lock" in run.stderr and "RLIMIT_MEMLOCK): raise it with `ulimit -l`" in run.stderr


def test_an_unknown_mode_is_an_error_that_lists_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no memory mode 'fast': use 'map', 'warm', 'copy', 'lock'"):
        constann.open(tmp_path / "index", memory="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SMALL)
def test_bytes_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    index = SMALL[kind]()
    index.save(tmp_path / "index")
    with (tmp_path / "other").open("wb") as file:
        index.save(file)
    content = (tmp_path / "index").read_bytes()
    assert index.to_bytes() == content == (tmp_path / "other").read_bytes()
    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content), np.frombuffer(content, "u1")):
        assert constann.open(source, verify=True).fingerprint == index.fingerprint
    with (tmp_path / "index").open("rb") as file:
        assert constann.open(file).fingerprint == index.fingerprint


def test_bytes_are_searched_where_they_lie() -> None:
    content = bytearray(INDEX.to_bytes())
    opened = constann.open(content)
    with pytest.raises(BufferError):
        content.append(0)
    del opened
    content.append(0)
    with pytest.raises(constann.FileFormatError, match="truncated or was added to"):
        constann.open(content)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_the_same_index(protocol: int) -> None:
    again = pickle.loads(pickle.dumps(INDEX, protocol))
    assert type(again) is constann.Forest and again.fingerprint == INDEX.fingerprint
    assert answers(again) == answers(INDEX)


def test_a_pickle_may_leave_its_bytes_outside() -> None:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(INDEX, 5, buffer_callback=buffers.append)
    assert len(content) < 200 and sum(len(each.raw()) for each in buffers) == len(INDEX.to_bytes())
    assert answers(pickle.loads(content, buffers=buffers)) == answers(INDEX)


def test_copies_are_the_same_index(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "index")
    for index in (INDEX, constann.open(tmp_path / "index")):
        assert answers(copy.deepcopy(index)) == answers(copy.copy(index)) == answers(INDEX)


def test_an_unbuilt_index_has_no_bytes() -> None:
    index = constann.Forest(3, "cosine")
    for attempt in (index.to_bytes, lambda: pickle.dumps(index)):
        with pytest.raises(ValueError, match="the index is not built"):
            attempt()


def test_a_damaged_pickle_is_an_error() -> None:
    content = bytearray(pickle.dumps(INDEX))
    content[content.index(b"CONSTANN") + 24] ^= 1
    with pytest.raises(constann.FileFormatError):
        pickle.loads(content)


def every_kind() -> dict[str, bytes]:
    """A small file of each kind and metric, of each kind of ids, and with codes of rows and planes."""
    files = {name: make().to_bytes() for name, make in SMALL.items()}
    for metric in METRICS:
        rows = np.packbits(ROWS[:9] > 0, axis=1) if metric == "hamming" else ROWS[:9, :2]
        files[f"forest-{metric}"] = forest(rows, metric).to_bytes()
        dim = 8 if metric == "hamming" else 2
        exact = constann.Exact(dim, metric)
        exact.add(rows)
        exact.build()
        files[f"exact-{metric}"] = exact.to_bytes()
        if metric != "hamming":
            coded = forest(ROWS[:12, :3], metric, code_bits=7)
            assert coded.code_bits == 7
            files[f"codes-{metric}"] = coded.to_bytes()
    return files


EVERY_KIND = every_kind()
ROW_CODES, PLANE_CODES = 23, 24  # as docs/format.md numbers sections


def test_every_section_is_in_one_of_the_small_files() -> None:
    found = set()
    for content in EVERY_KIND.values():
        parameters, sections = struct.unpack_from("<2I", content, 72)
        found |= {struct.unpack_from("<I", content, 80 + 16 * parameters + 56 * i)[0] for i in range(sections)}
    assert found == {1, 2, 3, 4, 5, *range(16, 23), ROW_CODES, PLANE_CODES}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_flipped_byte_and_every_cut_is_found(kind: str) -> None:
    content = EVERY_KIND[kind]
    assert len(content) < 5000
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(constann.FileFormatError):
            constann.open(damaged, verify=True)
        with pytest.raises(constann.FileFormatError):
            constann.open(content[:place])
    with pytest.raises(constann.FileFormatError):
        constann.open(content + b"\0")


def test_threads_search_one_index_at_once() -> None:
    found: list[tuple[bytes, bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(answers(INDEX))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [answers(INDEX)] * 8


def test_a_forked_child_goes_on_searching() -> None:
    expected = answers(INDEX)
    child = os.fork()
    if child == 0:
        os._exit(0 if answers(INDEX) == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: it needs no root."""
    path = tmp_path / "index"
    INDEX.save(path)
    before = path.read_bytes()
    large = constann.build(np.tile(ROWS, (100, 1)), kind="exact")
    code = (
        "import constann, resource, signal, sys, pickle\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "index = pickle.load(sys.stdin.buffer)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"index.save({str(path)!r})"
    )
    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(large), capture_output=True, check=False)
    assert b"File too large" in run.stderr
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["index"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small tmpfs is mounted by root on Linux: run the tests as root, in a container for example")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "constann-test", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here ({mounted.stderr.strip()}): start the container with SYS_ADMIN")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_full_leaves_the_old_file_whole(small_disk: Path) -> None:
    path = small_disk / "index"
    INDEX.save(path)
    before = path.read_bytes()
    large = constann.build(np.tile(ROWS, (1000, 1)), kind="exact")
    assert len(large.to_bytes()) > 2**20
    with pytest.raises(OSError) as caught:
        large.save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before and os.listdir(small_disk) == ["index"]
    assert answers(constann.open(path, verify=True)) == answers(INDEX)
    INDEX.save(path)  # and there is room again
    unfinished = constann.Forest(7, "cosine", path=path)
    with pytest.raises(OSError) as caught:
        unfinished.add(np.tile(ROWS, (1000, 1)))
        unfinished.build()
    assert caught.value.errno == errno.ENOSPC
    del unfinished
    assert path.read_bytes() == before


@pytest.mark.slow
def test_killed_while_saving_it_leaves_one_file_or_the_other(tmp_path: Path) -> None:
    """At 50 moments: the file is the one or the other, whole."""
    path = tmp_path / "index"
    contents = [constann.build(np.tile(ROWS, (500, 1)) * scale, "euclidean", kind="exact") for scale in (1, 2)]
    files = []
    for index in contents:
        index.save(path)
        files.append(path.read_bytes())
        (tmp_path / f"pickled{len(files)}").write_bytes(pickle.dumps(index))
    code = (
        "import pickle, sys\n"
        f"both = [pickle.load(open({str(tmp_path)!r} + f'/pickled{{i}}', 'rb')) for i in (1, 2)]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        f"    for index in both: index.save({str(path)!r})"
    )
    moments = np.random.default_rng(7).uniform(0, 0.03, 50)
    for moment in moments:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        threading.Event().wait(moment)
        child.kill()
        child.wait()
        child.stdout.close()
        assert path.read_bytes() in files
