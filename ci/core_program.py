"""Has the matrix run the core without Python: the conformance program in place of the workload, with the same outcome.

It only says what the program is given and writes down what came out; tests/conformance/conformance.cpp computes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

# As in tests/conformance/workload.py: what is not the same shows as a difference in every row.
_K = 10
_QUERIES = 100
_SEED, _FOREST_EFFORT, _GRAPH_EFFORT = 20_261_123, 1_000, 12


def write_input(vectors: Path, queries: Path, rows: int | None, folder: Path) -> int:
    """Write the rows that the workload would take as raw float32, and return their dim."""
    found = np.load(vectors, mmap_mode="r")
    _evenly(found, rows or len(found)).astype("<f4").tofile(folder / "vectors.f32")
    _evenly(np.load(queries), _QUERIES).astype("<f4").tofile(folder / "queries.f32")
    return int(found.shape[1])


def _evenly(vectors: Any, rows: int) -> Any:
    return vectors[:: max(1, len(vectors) // rows)][:rows]


def arguments(kernels: str, threads: int, dim: int, *, load: bool) -> list[str]:
    """Return the program's arguments, for its input in /input, its output in /output and files to load in /load."""
    words = [kernels, str(threads or 2), str(dim), "/input/vectors.f32", "/input/queries.f32", str(_K), "/output"]
    return [*words, str(_SEED), str(_FOREST_EFFORT), str(_GRAPH_EFFORT), *(["/load"] if load else [])]


def write_answers(output: Path, printed: str, rows: int, facts: dict[str, Any], *, load_only: bool) -> None:
    """Give the program's files the form and the names of the workload's, and write answers.json beside them."""
    said = dict(line.split(" ", 1) for line in printed.splitlines() if " " in line)
    answers: dict[str, Any] = {"rows": rows, "built": {}, "loaded": {}}
    answers["facts"] = {
        **facts,
        "kernels": said["kernels"],
        "kernels_available": said["available"].split(),
        "cpu_features": said["features"].split(),
        "compiler": said["compiler"],
        "planted_faults": "",
        "tuned_for": "",
        "numpy": "",
    }
    for path in sorted(output.glob("*.ids")):
        ids = np.fromfile(path, "<i8").reshape(-1, _K)
        distances = np.fromfile(path.with_suffix(".distances"), "<f4").reshape(-1, _K)
        built = not path.name.startswith("loaded-")
        if not (built and load_only):
            np.save(path.with_suffix(".ids.npy"), ids)
            np.save(path.with_suffix(".distances.npy"), distances)
        if built and not load_only:
            file = with_digests(path.with_suffix(".index").read_bytes())
            path.with_suffix(".constann").write_bytes(file)
            answers["built"][path.stem] = {
                "fingerprint": fingerprint(file),
                "ids": hashlib.sha256(ids.tobytes()).hexdigest(),
                "distances": hashlib.sha256(distances.tobytes()).hexdigest(),
            }
    for path in [*output.glob("*.ids"), *output.glob("*.distances"), *output.glob("*.index")]:
        path.unlink()
    (output / "answers.json").write_text(json.dumps(answers, indent=1))


def with_digests(file: bytes) -> bytes:
    """Fill in the digests that the program leaves out: docs/format.md says where they are."""
    whole = bytearray(file)
    table, end = _table(file)
    for entry in range(table, end, 56):
        offset, length = (int.from_bytes(file[entry + at : entry + at + 8], "little") for at in (8, 16))
        whole[entry + 24 : entry + 56] = hashlib.sha256(file[offset : offset + length]).digest()
    whole[end : end + 32] = hashlib.sha256(whole[:end]).digest()
    return bytes(whole)


def fingerprint(file: bytes) -> str:
    """Return the fingerprint that an index file holds."""
    _, end = _table(file)
    return file[end : end + 32].hex()


def _table(file: bytes) -> tuple[int, int]:
    """Return where the table of sections begins and ends."""
    parameters, sections = (int.from_bytes(file[at : at + 4], "little") for at in (72, 76))
    table = 80 + 16 * parameters
    return table, table + 56 * sections
