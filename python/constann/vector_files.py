"""Vectors from files: .npy, .npz, .fvecs, .bvecs; mapped where they can be, never converted."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from constann import storage

__all__ = ["VectorFileError", "read", "read_ids", "write_ivecs"]

Array = npt.NDArray[Any]


class VectorFileError(ValueError):
    """The file holds no vectors that can be read; the text says why."""


def read(path: str | os.PathLike[str], member: str | None = None) -> Array:
    """Open the vectors of a file without reading them all.

    Parameters
    ----------
    path : str or path-like
        .npy, .npz, .fvecs (float32) or .bvecs (uint8).
    member : str, optional
        Which array of an .npz file; needed where it holds several.

    Returns
    -------
    array, shape (n, dim)

    Raises
    ------
    VectorFileError
        The file is truncated, of another form or another kind.
    OSError
        It cannot be opened.
    """
    path = Path(path)
    readers = {".npy": _npy, ".npz": _npz, ".fvecs": _records, ".bvecs": _records}
    if path.suffix not in readers:
        raise VectorFileError(f"{path}: vectors come as {', '.join(readers)}, not {path.suffix or 'without an ending'}")
    array: Array = _npz(path, member) if path.suffix == ".npz" else readers[path.suffix](path)
    if array.dtype.byteorder == ">":
        raise VectorFileError(f"{path}: its numbers are big-endian: save them little-endian, .astype('<f4')")
    if array.ndim != 2:
        raise VectorFileError(f"{path}: vectors have shape (n, dim), this array has {array.shape}")
    return array


def _npy(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise VectorFileError(f"{path}: {error}") from None
    return array


def _npz(path: Path, member: str | None = None) -> Array:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            if member is None and len(names) != 1:
                raise VectorFileError(f"{path} holds {', '.join(names) or 'nothing'}: say which with --array")
            if member is not None and member not in names:
                raise VectorFileError(f"{path} has no array {member!r}; it holds {', '.join(names)}")
            array: Array = archive[member or names[0]]
    except VectorFileError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise VectorFileError(f"{path}: {error}") from None
    return array


def _records(path: Path) -> Array:
    """Open records of a 32-bit dim and so many elements, all of the same dim."""
    element = np.dtype("<f4" if path.suffix == ".fvecs" else "u1")
    size = path.stat().st_size
    if size < 4:
        raise VectorFileError(f"{path}: it is too short to hold a vector")
    raw = np.memmap(path, np.uint8, mode="r")
    dim = int(raw[:4].view("<i4")[0])
    length = 4 + dim * element.itemsize
    if dim < 1 or size < length:
        raise VectorFileError(
            f"{path}: record 0 says it has {dim} elements: this is no {path.suffix} file, or it is cut"
        )
    if size % length != 0:
        raise VectorFileError(
            f"{path}: it ends inside record {size // length}: it is truncated, or its vectors differ in dim"
        )
    records = raw.reshape(-1, length)
    dims = records[:, :4].view("<i4")[:, 0]
    if (dims != dim).any():
        odd = int((dims != dim).argmax())
        raise VectorFileError(f"{path}: record {odd} has dim {dims[odd]}, those before it have {dim}")
    return records[:, 4:].view(element) if element.itemsize == 1 else _floats(records)


def _floats(records: Array) -> Array:
    count, length = records.shape
    return np.ndarray((count, (length - 4) // 4), "<f4", records, 4, (length, 4))


def write_ivecs(path: str | os.PathLike[str], rows: npt.NDArray[np.int64]) -> None:
    """Write ids as 32-bit records, in one step.

    Raises
    ------
    VectorFileError
        An id does not fit into 32 bits.
    """
    if rows.size and (rows.min() < -(2**31) or rows.max() >= 2**31):
        raise VectorFileError("an id does not fit into the 32 bits of .ivecs: use .npz or .tsv")
    records = np.empty((len(rows), rows.shape[1] + 1), "<i4")
    records[:, 0], records[:, 1:] = rows.shape[1], rows
    storage.write_atomically(path, [records.tobytes()])


def read_ids(path: str | os.PathLike[str]) -> Array | list[str]:
    """Read ids: integers from .npy, otherwise one string from each line.

    Raises
    ------
    VectorFileError
        It is no such array, or no UTF-8 text.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return _npy(path)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise VectorFileError(f"{path}: {error}") from None
