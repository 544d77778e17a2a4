"""Vectors are read from files as they are, and what is no such file is said."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constann import vector_files
from constann.vector_files import VectorFileError


def write_records(path: Path, rows: np.ndarray) -> bytes:
    content = b"".join(np.int32(len(row)).tobytes() + row.tobytes() for row in rows)
    path.write_bytes(content)
    return content


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 20), dim=st.integers(1, 30), suffix=st.sampled_from([".fvecs", ".bvecs", ".npy", ".npz"]))
def test_rows_come_back(rows: int, dim: int, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("vectors") / f"a{suffix}"
    array = np.random.default_rng(rows).integers(0, 255, (rows, dim)).astype("u1" if suffix == ".bvecs" else "f4")
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez(path, array)
    else:
        write_records(path, array)
    found = vector_files.read(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_damaged_records_end_in_rows_or_an_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("vectors") / "a.fvecs"
    content = bytearray(write_records(path, np.ones((5, 3), np.float32)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert vector_files.read(path).ndim == 2
    except VectorFileError as error:
        assert str(path) in str(error)


def test_errors_name_the_record(tmp_path: Path) -> None:
    path = tmp_path / "a.fvecs"
    content = write_records(path, np.ones((4, 3), np.float32))
    path.write_bytes(content[:-1])
    with pytest.raises(VectorFileError, match="ends inside record 3: it is truncated"):
        vector_files.read(path)
    path.write_bytes(content[:32] + np.int32(7).tobytes() + content[36:])
    with pytest.raises(VectorFileError, match="record 2 has dim 7, those before it have 3"):
        vector_files.read(path)
    path.write_bytes(np.int32(2**30).tobytes() * 4)
    with pytest.raises(VectorFileError, match="record 0 says it has 1073741824 elements"):
        vector_files.read(path)


def test_arrays_that_are_no_vectors_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.ones((2, 2), ">f4"))
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.savez(tmp_path / "two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    (tmp_path / "text.npy").write_text("hello")
    for name, message in (
        ("big.npy", "big-endian"),
        ("flat.npy", r"shape \(n, dim\), this array has \(3,\)"),
        ("two.npz", "holds a, b: say which with --array"),
        ("text.npy", r"text\.npy: "),
    ):
        with pytest.raises(VectorFileError, match=message):
            vector_files.read(tmp_path / name)
    assert vector_files.read(tmp_path / "two.npz", "b").shape == (2, 2)
    with pytest.raises(VectorFileError, match="has no array 'c'"):
        vector_files.read(tmp_path / "two.npz", "c")


def test_ids_beyond_32_bits_are_no_ivecs(tmp_path: Path) -> None:
    with pytest.raises(VectorFileError, match="does not fit into the 32 bits"):
        vector_files.write_ivecs(tmp_path / "a.ivecs", np.array([[2**31]]))
