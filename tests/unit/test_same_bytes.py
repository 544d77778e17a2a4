"""The promise within one machine: nothing about the process or the form of the input changes a byte or a bit."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference

import constann

KINDS = ["exact", "forest", "graph"]
METRICS = ["cosine", "euclidean", "manhattan", "dot"]
EACH = [(kind, metric) for kind in KINDS for metric in METRICS if (kind, metric) != ("graph", "manhattan")]


def answers(index: constann.Index, queries: np.ndarray, **options: int) -> tuple[str, bytes, bytes]:
    ids, distances = index.search(queries, 10, **options)
    return index.fingerprint, ids.tobytes(), distances.tobytes()


@pytest.mark.parametrize(("kind", "metric"), EACH)
def test_bytes_and_answers_do_not_depend_on_thread_count(
    kind: str, metric: str, vectors: np.ndarray, queries: np.ndarray
) -> None:
    seen = set()
    for threads in (1, 2, 3, 7):
        index = constann.build(vectors, metric, kind=kind, threads=threads)
        seen.add(answers(index, queries, threads=threads))
    assert len(seen) == 1


@pytest.mark.parametrize(("metric", "code_bits"), [("cosine", None), ("euclidean", 7), ("dot", 0)])
def test_a_graph_whose_batches_are_shared_by_threads_is_the_same_for_1_to_8_of_them(
    metric: str, code_bits: int | None
) -> None:
    """Batches of 2 % of the rows, tasks of 64 nodes: fewer rows are linked by one thread."""
    rows = np.random.default_rng(2).standard_normal((13_000, 8)).astype(np.float32)
    seen = set()
    for threads in range(1, 9):
        index = constann.Graph(8, metric, code_bits=code_bits)  # type: ignore[arg-type]
        index.add(rows)
        index.build(threads=threads)
        seen.add(answers(index, rows[:300], threads=threads))
    assert len(seen) == 1


@pytest.mark.parametrize(("kind", "metric"), EACH)
def test_bytes_and_answers_do_not_depend_on_the_kernel_set(
    kind: str, metric: str, vectors: np.ndarray, queries: np.ndarray
) -> None:
    seen = set()
    try:
        for implementation in constann.kernels.available():
            constann.kernels.use(implementation.name)
            seen.add(answers(constann.build(vectors, metric, kind=kind), queries))
    finally:
        constann.kernels.use(None)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_do_not_depend_on_how_many_adds_brought_the_rows(kind: str, vectors: np.ndarray) -> None:
    whole = constann.build(vectors, "euclidean", kind=kind)
    parts = getattr(constann, kind.capitalize())(384, "euclidean")
    for start, end in [(0, 1), (1, 1), (1, 700), (700, 1999), (1999, 2000)]:
        parts.add(vectors[start:end])
    parts.build()
    assert parts.fingerprint == whole.fingerprint


def test_a_graph_of_fifty_adds_is_the_graph_of_one(vectors: np.ndarray, queries: np.ndarray) -> None:
    for metric in ("cosine", "euclidean", "dot"):
        index = constann.Graph(384, metric)  # type: ignore[arg-type]
        for part in np.array_split(vectors, 50):
            index.add(part)
        index.build(threads=2)
        assert answers(index, queries) == answers(constann.build(vectors, metric), queries)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "Fortran order": np.asfortranarray,
    "float16": lambda array: array.astype(np.float16),
    "float64": lambda array: array.astype(np.float64),
    "read-only": read_only,
    "every second column of a wider array": lambda array: np.repeat(array, 2, axis=1)[:, ::2],
    "reversed memory": lambda array: np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
    "unaligned": lambda array: (
        np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(array.shape)
    ),
    "subclass": lambda array: array.view(np.matrix),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_bytes_and_answers_do_not_depend_on_the_form_of_the_array(
    form: str, kind: str, vectors: np.ndarray, queries: np.ndarray
) -> None:
    expected = answers(constann.build(vectors, kind=kind), queries)
    assert answers(constann.build(FORMS[form](vectors), kind=kind), FORMS[form](queries)) == expected


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_integers_are_the_floats_of_the_same_value(dtype: str) -> None:
    limits = np.iinfo(dtype)
    rows = np.random.default_rng(1).integers(limits.min, limits.max, (300, 9), dtype, endpoint=True)
    for metric in METRICS:
        expected = answers(constann.build(rows.astype(np.float32), metric, kind="forest"), rows[:9].astype(np.float32))
        assert answers(constann.build(rows, metric, kind="forest"), rows[:9]) == expected


def test_every_float16_is_read_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)][:, None]
    kept = constann.build(finite, "euclidean", kind="exact")._contents()[0][1]
    stored = np.frombuffer(kept, np.float32).reshape(-1, 16)[:, 0]
    np.testing.assert_array_equal(stored.view(np.uint32), finite[:, 0].astype(np.float32).view(np.uint32))


def hard_rows(scale: float) -> np.ndarray:
    """Rows in float64, so that reading them is under the guard as well."""
    return (np.random.default_rng(3).standard_normal((900, 20)) * scale).astype(np.float32).astype(np.float64)


# Numbers whose terms or sums are denormal, and the modes that change their distances where nothing guards them.
EUCLIDEAN_PRODUCTS = ("euclidean", 1e-21, {"flushing", "rounding_up"})
COSINE_DENORMALS = ("cosine", 1e-41, {"flushing", "rounding_up"})
EUCLIDEAN_DENORMALS = ("euclidean", 1e-41, {"rounding_up"})
HARD = [EUCLIDEAN_PRODUCTS, COSINE_DENORMALS, EUCLIDEAN_DENORMALS]


@pytest.mark.parametrize(("metric", "scale", "changing"), HARD)
@pytest.mark.parametrize("which", ["flushing", "rounding_up", "unmasked"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_process_cannot_change_the_arithmetic_and_keeps_its_own_setting(
    kind: str, which: str, metric: str, scale: float, changing: set[str], mode: ctypes.CDLL
) -> None:
    rows = hard_rows(scale)
    expected = answers(constann.build(rows, metric, kind=kind), rows[:30], threads=2)
    before = mode.get_mode()
    asked = getattr(mode, which)()
    mode.set_mode(asked)
    try:
        index = constann.build(rows, metric, kind=kind, threads=2)
        ids, distances = index.search(rows[:30], 10, threads=2)
        after = mode.get_mode()
    finally:
        mode.set_mode(before)
    assert after == asked, "the caller's setting is left as it was"
    assert (index.fingerprint, ids.tobytes(), distances.tobytes()) == expected


# Of rows in clusters, whose graph is in parts that are then joined, by inner products and distances so small
# that the mode would choose other links.
PARTED = [("dot", 1e-21, "flushing"), ("dot", 1e-41, "rounding_up"), ("euclidean", 1e-41, "rounding_up")]


@pytest.mark.parametrize(("metric", "scale", "which"), PARTED)
@pytest.mark.parametrize("kind", ["forest", "graph"])
def test_a_progress_callback_cannot_change_the_arithmetic(
    kind: str, metric: str, scale: float, which: str, mode: ctypes.CDLL
) -> None:
    random = np.random.default_rng(3)
    centres = random.standard_normal((40, 20)) * 50
    rows = (np.repeat(centres, 60, axis=0) + random.standard_normal((2400, 20))) * scale

    def spoil(done: int, total: int) -> None:
        mode.set_mode(getattr(mode, which)())

    def built(progress: Callable[[int, int], None] | bool = False) -> str:
        index = constann.Graph(20, metric, code_bits=0) if kind == "graph" else constann.Forest(20, metric)
        index.add(rows)
        index.build(threads=2, progress=progress)
        return index.fingerprint

    expected = built()
    before = mode.get_mode()
    try:
        spoilt = built(spoil)
    finally:
        mode.set_mode(before)
    assert spoilt == expected


@pytest.mark.parametrize(("metric", "scale", "changing"), HARD)
@pytest.mark.parametrize("which", ["flushing", "rounding_up"])
def test_without_the_guard_these_modes_change_these_distances(
    which: str, metric: str, scale: float, changing: set[str], mode: ctypes.CDLL
) -> None:
    """Control of the test above: numpy, which has no guard, gives other bits where `changing` says so."""
    rows = hard_rows(scale).astype(np.float32)
    plain = reference.distances(metric, rows[0], rows)
    before = mode.get_mode()
    mode.set_mode(getattr(mode, which)())
    try:
        unguarded = reference.distances(metric, rows[0], rows)
    finally:
        mode.set_mode(before)
    assert (plain.view(np.uint32) != unguarded.view(np.uint32)).any() == (which in changing)


def test_lists_are_converted_under_the_guard_too(mode: ctypes.CDLL) -> None:
    mixed = [np.full(16, 1e-41, np.float32), np.ones(16)]
    expected = constann.build(mixed, "euclidean", kind="exact").fingerprint
    before = mode.get_mode()
    mode.set_mode(mode.flushing())
    try:
        flushed = constann.build(mixed, "euclidean", kind="exact").fingerprint
    finally:
        mode.set_mode(before)
    assert flushed == expected


PERTURBED = """
import sys, numpy as np, constann
rows = np.load(sys.argv[1])[:400, :21].astype(np.float32)
for kind in ("exact", "forest", "graph"):
    for metric in ("cosine", "euclidean", "dot"):
        index = constann.build(rows, metric, kind=kind)
        ids, distances = index.search(rows[:20])
        print(index.fingerprint, ids.tobytes().hex(), distances.tobytes().hex())
"""


def test_buffers_are_zeroed_before_use() -> None:
    data = Path(__file__).resolve().parents[1] / "conformance" / "data" / "gloss-vectors.npy"
    outputs = set()
    for value in ("0", "1", "254"):
        run = subprocess.run(
            [sys.executable, "-c", PERTURBED, str(data)],
            env={**os.environ, "MALLOC_PERTURB_": value},
            capture_output=True,
            check=True,
        )
        outputs.add(run.stdout)
    assert len(outputs) == 1


@pytest.mark.parametrize("kind", ["forest", "graph"])
def test_eight_threads_search_one_index_at_once(kind: str, vectors: np.ndarray, queries: np.ndarray) -> None:
    index = constann.build(vectors, kind=kind)
    expected = answers(index, queries)
    seen: list[tuple[str, bytes, bytes]] = []
    threads = [threading.Thread(target=lambda: seen.append(answers(index, queries, threads=2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 8


def test_the_first_bad_row_is_named_whatever_comes_after() -> None:
    rows = np.ones((5000, 4), np.float32)
    rows[[321, 322, 4000]] = np.nan
    for _ in range(3):
        with pytest.raises(ValueError, match="row 321, column 0 is NaN"):
            constann.build(rows, kind="forest", threads=4)


@pytest.mark.parametrize("made", ["Forest(32, 'euclidean', trees=5000)", "Graph(32, 'euclidean')"])
def test_ctrl_c_stops_a_build(made: str) -> None:
    code = (
        "import numpy as np, constann, sys\n"
        "rows = np.random.default_rng(0).standard_normal((60_000, 32)).astype('float32')\n"
        f"index = constann.{made}; index.add(rows)\n"
        "print('building', flush=True)\n"
        "try:\n    index.build(threads=2)\nexcept KeyboardInterrupt:\n    print('stopped', index.built)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "building\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert output == "stopped False\n"


def test_a_daemon_thread_that_builds_does_not_kill_the_process_at_its_end() -> None:
    code = (
        "import threading, time, numpy as np, constann\n"
        "rows = np.random.default_rng(0).standard_normal((60_000, 32)).astype('float32')\n"
        "index = constann.Forest(32, 'euclidean', trees=5000); index.add(rows)\n"
        "threading.Thread(target=index.build, daemon=True).start()\n"
        "time.sleep(0.3)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_process_may_fork_after_a_search() -> None:
    code = (
        "import os, sys, numpy as np, constann\n"
        "rows = np.load(sys.argv[1]).astype('float32')\n"
        "index = constann.build(rows, kind='forest', threads=2)\n"
        "expected = index.search(rows[:99], threads=2)[0].tobytes()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if index.search(rows[:99], threads=2)[0].tobytes() == expected else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    data = Path(__file__).resolve().parents[1] / "conformance" / "data" / "gloss-vectors.npy"
    subprocess.run([sys.executable, "-c", code, str(data)], check=True, timeout=60)


def test_progress_is_told_and_never_changes_the_index(vectors: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    index = constann.build(vectors, kind="forest", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (32, 32)
    assert index.fingerprint == constann.build(vectors, kind="forest", progress=True).fingerprint
    assert "building: 32 of 32\n" in capfd.readouterr().err
