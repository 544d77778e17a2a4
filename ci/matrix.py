"""Runs the workload on every machine and compares what came out, byte by byte. Starts no container and builds nothing.

A row that did not start, died, timed out or wrote no answers fails; so does one that differs from the others.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ci import core_program
from ci.machines import Run
from ci.platforms import Machine
from ci.progress import say

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

WORKLOAD = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "workload.py"
METRICS = ("cosine", "euclidean", "manhattan", "dot", "hamming")
INDEXES = tuple(f"{kind}-{metric}" for kind in ("exact", "forest") for metric in METRICS)
INDEXES += tuple(f"graph-{metric}" for metric in ("cosine", "euclidean", "dot"))
SLICE_ROWS = 2_000
TIMEOUT = 600.0
TIMEOUT_WHOLE = 3600.0

# The weaker measure that others use, beside ours of no difference at all.
RTOL, ATOL = 1e-5, 1e-8


class Running(Protocol):
    """What another thread can end."""

    def close(self) -> None:
        """End what runs, at once."""


class Machines(Running, Protocol):
    """Where workloads run: containers (ci/machines.py), or plain processes in tests."""

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str],
        environment: Mapping[str, str],
        timeout: float,
    ) -> Run:
        """Run Python with these arguments on a machine, with folders of ours mounted there."""


@dataclass(frozen=True)
class Data:
    """Vectors and queries for every machine, and how many rows of them are used (None: all)."""

    vectors: Path
    queries: Path
    rows: int | None


@dataclass
class Row:
    """One machine's outcome: what it answered and what is wrong with it."""

    machine: Machine
    emulated: bool
    folder: Path
    loaded_from: Path | None = None
    """The folder of the row that made the indexes it loaded."""
    answers: dict[str, Any] | None = None
    kept: str = ""
    """When it ran, where an earlier run of the very same stands for it."""
    failure: str | None = None
    differences: list[str] = field(default_factory=list)
    largest_delta: float = 0.0
    largest_ulp: int = 0
    allclose: bool = True

    @property
    def runs(self) -> bool:
        """Whether it ran to its end: no illegal instruction, no other death."""
        return self.failure is None

    @property
    def bits(self) -> bool:
        """Whether all it made and answered equals the others' to the last bit."""
        return self.runs and not self.differences

    def digest(self, suffix: str) -> str:
        """Return one digest of the row's files of a kind, such as `.ids.npy`, over all indexes."""
        total = sha256()
        for name in INDEXES:
            total.update(_read(self.folder / f"{name}{suffix}"))
        return total.hexdigest()


def run_matrix(
    machines: Machines,
    rows: Sequence[tuple[Machine, bool]],
    data: Data,
    output: Path,
) -> list[Row]:
    """Build on each machine, load every distinct index on all of them, and compare.

    Parameters
    ----------
    machines
        Runs the workload.
    rows
        Each expected machine, and whether it is emulated.
    data
        What to build from and search for.
    output
        A folder of ours, made anew; each machine's files go to one of their own in it.

    Returns
    -------
    list of Row
        One for each expected machine, in the same order, compared.
    """
    if output.exists():
        shutil.rmtree(output)  # what an earlier run left must never stand in for this one's
    results = [Row(machine, emulated, output / machine.full_name) for machine, emulated in rows]
    shared = None
    waiting = sorted(results, key=lambda row: row.machine.program)  # a program needs the files of others to load
    while waiting and shared is None:  # the first that runs makes the files that all others load
        row = waiting.pop(0)
        _run_row(machines, row, data, load=row.folder)
        shared = row if row.runs else None
    if shared is not None:
        folder = shared.folder
        side_by_side(machines, waiting, lambda row: _run_row(machines, row, data, load=folder))
        _load_deviants(machines, results, shared, data, output / "deviants")
    compare(results)
    return results


def run_beside(machines: Machines, witnesses: Sequence[Row], odd: Machine, data: Data, output: Path) -> list[Row]:
    """Run one more machine and compare it with rows that have answered; return them all, compared anew.

    Parameters
    ----------
    machines
        Runs the workload on the odd machine.
    witnesses
        Rows of `run_matrix`; what they made is read, not made again.
    odd
        The machine to run.
    data
        What it builds from and searches for.
    output
        A folder of ours for its files, made anew.
    """
    if output.exists():
        shutil.rmtree(output)
    results = [replace(row, differences=[]) for row in witnesses]
    results.append(Row(odd, odd.model is not None, output))
    _run_row(machines, results[-1], data, load=witnesses[0].folder)
    compare(results)
    return results


def side_by_side(running: Running, items: Sequence[_Item], run: Callable[[_Item], _Answer]) -> list[_Answer]:
    """Run something for each item, as many at a time as there are CPUs; return what came of each, in their order."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        runs = [pool.submit(run, item) for item in items]
        try:
            return [done.result() for done in runs]
        except BaseException:
            # The pool waits for what runs: end it, or Ctrl-C would take as long as the runs.
            for waiting in runs:
                waiting.cancel()
            running.close()
            raise


def _run_row(
    machines: Machines, row: Row, data: Data, load: Path | None, *, into: str = "", load_only: bool = False
) -> None:
    """Run the workload for one row and note how it ended; its files land in the row's folder."""
    output = row.folder / into
    output.mkdir(parents=True, exist_ok=True)
    # What is given is read-only: no machine may change what others read.
    mounts = {output: "/output"}
    if load is not None and load != output:
        mounts[load] = "/load:ro"
    timeout = TIMEOUT if data.rows is not None else TIMEOUT_WHOLE
    if row.machine.program:
        run = _run_program(machines, row.machine, data, mounts, timeout, load_only=load_only)
    else:
        mounts |= {WORKLOAD: "/workload.py:ro", data.vectors: "/vectors.npy:ro", data.queries: "/queries.npy:ro"}
        arguments = ["/workload.py", "--vectors", "/vectors.npy", "--queries", "/queries.npy", "--output", "/output"]
        arguments += ["--rows", str(data.rows)] if data.rows is not None else []
        arguments += ["--load", "/output" if load == output else "/load"] if load is not None else []
        arguments += ["--threads", str(row.machine.threads)] if row.machine.threads else []
        arguments += ["--load-only"] if load_only else []
        run = machines.run(row.machine, arguments, mounts, row.machine.environment, timeout)
    row.failure = _failure(run, output)
    row.kept = run.kept
    if row.failure is None and not into:
        row.loaded_from = load
        row.answers = json.loads((output / "answers.json").read_text())
    said = f"kept of {run.kept}" if run.kept else _last_line(run.output)
    say(f"{row.machine.full_name}: {row.failure or said}")


def _run_program(
    machines: Machines, machine: Machine, data: Data, mounts: dict[Path, str], timeout: float, *, load_only: bool
) -> Run:
    """Run the core without Python on the same rows; its files get the form of the workload's."""
    (output,) = (path for path, inside in mounts.items() if inside == "/output")
    with tempfile.TemporaryDirectory(prefix="constann-input-") as work:
        Path(work).chmod(0o755)
        dim = core_program.write_input(data.vectors, data.queries, data.rows, Path(work))
        loads = "/load:ro" in mounts.values()
        words = core_program.arguments(str(machine.kernels), machine.threads, dim, load=loads)
        run = machines.run(machine, words, {**mounts, Path(work): "/input:ro"}, {}, timeout)
        rows = (Path(work) / "vectors.f32").stat().st_size // (4 * dim)
    if run.ok:
        facts = {"threads": machine.threads, "page_size": machine.page_size, "sve_bits": machine.sve_bits}
        core_program.write_answers(output, run.output, rows, facts, load_only=load_only)
    return run


def _failure(run: Run, output: Path) -> str | None:
    if not run.ok:
        said = f": {_last_line(run.errors)}" if run.errors.strip() else ""
        return f"{run.outcome}: {run.reason}{said}"
    if not (output / "answers.json").exists():
        return "it ended without an error, but wrote no answers"
    return None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "(it printed nothing)"


def _load_deviants(machines: Machines, rows: Sequence[Row], shared: Row, data: Data, deviants: Path) -> None:
    """Where machines built other bytes, let every machine load those too: building and searching are told apart."""
    known = {sha256(_read(shared.folder / f"{name}.constann")).digest() for name in INDEXES}
    for row in rows:
        for name in INDEXES if row.runs else ():
            content = _read(row.folder / f"{name}.constann")
            digest = sha256(content).digest()
            if digest not in known:
                known.add(digest)
                deviants.mkdir(parents=True, exist_ok=True)
                (deviants / f"{name}-{digest.hex()[:12]}.constann").write_bytes(content)
    if deviants.exists():
        say("some machines built other bytes: every machine loads those as well")
        side_by_side(
            machines,
            [row for row in rows if row.runs],
            lambda row: _run_row(machines, row, data, deviants, into="deviants", load_only=True),
        )


def compare(rows: Sequence[Row]) -> None:
    """Note on each row where it differs from what most machines made, and by how much its distances do."""
    ran = [row for row in rows if row.runs]
    if not ran:
        return
    signatures = [_signature(row) for row in ran]
    most_common = Counter(signatures).most_common(1)[0][0]
    reference = ran[signatures.index(most_common)]
    for row in ran:
        _check_facts(row)
        _compare_files(row, reference)
        _measure(row, reference)


def _signature(row: Row) -> tuple[bytes, ...]:
    files = sorted(path for path in row.folder.glob("*") if path.suffix in {".constann", ".npy"})
    return tuple(sha256(path.name.encode() + path.read_bytes()).digest() for path in files)


def _check_facts(row: Row) -> None:
    assert row.answers is not None
    facts = row.answers["facts"]
    expected = {"kernels": row.machine.kernels, "numpy": row.machine.numpy, "threads": row.machine.threads}
    expected |= {name: wanted for name in ("page_size", "sve_bits") if (wanted := getattr(row.machine, name))}
    for what, wanted in expected.items():
        if facts[what] != wanted:
            row.differences.append(f"used {what} {facts[what]}, expected {wanted}")


def _compare_files(row: Row, reference: Row) -> None:
    """Compare bytes, not digests, of index files, ids and distances: built here, and loaded from elsewhere."""
    for name in sorted(_expected_files() | _made_by(row) | _made_by(reference)):
        mine, theirs = _read(row.folder / name), _read(reference.folder / name)
        if not mine:
            row.differences.append(f"{name} is missing")
        elif mine != theirs:
            row.differences.append(f"{name} differs from that of {reference.machine.full_name}")
    maker = row.loaded_from or row.folder
    for name in INDEXES:
        for suffix in (".ids.npy", ".distances.npy"):
            if _read(row.folder / f"loaded-{name}{suffix}") != _read(maker / f"{name}{suffix}"):
                row.differences.append(f"loaded-{name}{suffix} differs from what the index answered where it was built")


def _expected_files() -> set[str]:
    built = {f"{name}{suffix}" for name in INDEXES for suffix in (".constann", ".ids.npy", ".distances.npy")}
    return built | {f"loaded-{name}{suffix}" for name in INDEXES for suffix in (".ids.npy", ".distances.npy")}


def _made_by(row: Row) -> set[str]:
    paths = (path for path in row.folder.rglob("*") if path.suffix in {".constann", ".npy"})
    return {path.relative_to(row.folder).as_posix() for path in paths}


def _measure(row: Row, reference: Row) -> None:
    """Take the measures others use over all distances: largest difference, largest ULP, allclose."""
    for name in INDEXES:
        paths = [folder / f"{name}.distances.npy" for folder in (row.folder, reference.folder)]
        if not all(path.exists() for path in paths):
            continue
        mine, theirs = (np.load(path, allow_pickle=False) for path in paths)
        if mine.shape != theirs.shape:
            row.allclose = False
            continue
        # Equal bits include equal infinities, whose difference would be NaN.
        differing = mine.view(np.int32) != theirs.view(np.int32)
        if differing.any():
            ulps = np.abs(mine.view(np.int32).astype(np.int64) - theirs.view(np.int32).astype(np.int64))
            row.largest_delta = max(row.largest_delta, float(np.abs(mine - theirs)[differing].max()))
            row.largest_ulp = max(row.largest_ulp, int(ulps.max()))
        row.allclose &= bool(np.allclose(mine, theirs, rtol=RTOL, atol=ATOL))


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
