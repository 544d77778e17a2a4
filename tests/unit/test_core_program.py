"""What the core computes without Python takes the form of what the workload writes, to the last byte."""

import json
from pathlib import Path

import numpy as np
import pytest

import constann
from ci import core_program, matrix

PRINTED = "kernels avx2\navailable scalar avx2\nfeatures avx avx2\ncompiler Clang 21\n"


def without_digests(index: constann.Index) -> bytes:
    contents = index._contents()
    offsets, header = index._encode_header([bytes(32)] * len(contents))
    file = bytearray(offsets[-1] + len(contents[-1][1]))
    file[: len(header)] = header
    for offset, (_, content) in zip(offsets, contents, strict=True):
        file[offset : offset + len(content)] = content
    return bytes(file)


@pytest.mark.parametrize("kind", ["exact", "forest", "graph"])
def test_the_digests_that_the_program_leaves_out_are_filled_in(kind: str, vectors: np.ndarray, tmp_path: Path) -> None:
    index = constann.build(vectors[:300], "cosine", kind=kind)
    index.save(tmp_path / "saved.constann")
    made = core_program.with_digests(without_digests(index))
    assert made == (tmp_path / "saved.constann").read_bytes()
    assert core_program.fingerprint(made) == index.fingerprint


def test_its_files_become_those_of_the_workload(vectors: np.ndarray, tmp_path: Path) -> None:
    index = constann.build(vectors[:50], "dot", kind="exact")
    ids, distances = index.search(vectors[:3], 10)
    (tmp_path / "exact-dot.index").write_bytes(without_digests(index))
    for name in ("exact-dot", "loaded-exact-dot"):
        ids.tofile(tmp_path / f"{name}.ids")
        distances.tofile(tmp_path / f"{name}.distances")
    core_program.write_answers(tmp_path, PRINTED, 50, {"threads": 1}, load_only=False)
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers["facts"]["kernels"] == "avx2" and answers["facts"]["cpu_features"] == ["avx", "avx2"]
    assert answers["built"]["exact-dot"]["fingerprint"] == index.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.json",
        "exact-dot.constann",
        "exact-dot.distances.npy",
        "exact-dot.ids.npy",
        "loaded-exact-dot.distances.npy",
        "loaded-exact-dot.ids.npy",
    ]
    np.testing.assert_array_equal(np.load(tmp_path / "exact-dot.ids.npy"), ids)


def test_its_rows_are_those_that_the_workload_takes(vectors: np.ndarray, queries: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", vectors.astype(np.float16))
    np.save(tmp_path / "q.npy", queries)
    assert core_program.write_input(tmp_path / "v.npy", tmp_path / "q.npy", 500, tmp_path) == vectors.shape[1]
    written = np.fromfile(tmp_path / "vectors.f32", "<f4").reshape(-1, vectors.shape[1])
    np.testing.assert_array_equal(written, vectors[::4][:500].astype(np.float16).astype(np.float32))
    assert set(matrix.INDEXES) >= {"exact-dot"}
