"""Neighbours from other libraries as `Recording.neighbours` takes them: ids (q, k) and distances (q, k), nearest first.

Each takes an index that the caller has built, so none of the libraries is imported here. Where a query gets fewer than
k neighbours, its row ends with id -1 and +inf. Distances are each library's own, of its own dtype.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["neighbours"]

Array = npt.NDArray[Any]
Found = tuple[npt.NDArray[np.int64], Array]


def neighbours(index: Any, queries: Array, k: int) -> Found:
    """Search an index of annoy, hnswlib, faiss, usearch, voyager or Constann.

    Parameters
    ----------
    index
        Built; threads, effort and the like are set on it by the caller.
    queries : array, shape (q, dim)
        As the library takes them.
    k : int
        Neighbours of each.

    Returns
    -------
    ids : int64 array, shape (q, k)
    distances : array, shape (q, k)

    Raises
    ------
    TypeError
        It is no index of these libraries.

    Examples
    --------
    >>> with constann.recording("a.rec") as rec:
    ...     rec.neighbours("faiss", *adapters.neighbours(index, queries, 10))
    """
    libraries = {each.__module__.partition(".")[0] for each in type(index).__mro__}
    for library, search in _LIBRARIES.items():
        if library in libraries:
            return search(index, queries, k)
    raise TypeError(f"{type(index).__name__} is no index of {', '.join(_LIBRARIES)}")


def _padded(ids: Any, distances: Any, k: int, dtype: str = "<f4") -> Found:
    """Make arrays of lists of unequal lengths."""
    all_ids, all_distances = np.full((len(ids), k), -1, np.int64), np.full((len(ids), k), np.inf, dtype)
    for query, (named, apart) in enumerate(zip(ids, distances, strict=True)):
        all_ids[query, : len(named)], all_distances[query, : len(apart)] = named, apart
    return all_ids, all_distances


def _annoy(index: Any, queries: Array, k: int) -> Found:
    # Python floats, as Annoy gives its float32.
    found = [index.get_nns_by_vector(query, k, include_distances=True) for query in queries.tolist()]
    return _padded([ids for ids, _ in found], [distances for _, distances in found], k)


def _hnswlib(index: Any, queries: Array, k: int) -> Found:
    ids, distances = index.knn_query(queries, k)
    return ids.astype(np.int64), distances


def _faiss(index: Any, queries: Array, k: int) -> Found:
    distances, ids = index.search(queries, k)
    return ids, np.where(ids == -1, distances.dtype.type(np.inf), distances)  # its own padding is the largest float


def _usearch(index: Any, queries: Array, k: int) -> Found:
    found = index.search(queries, k)
    # Of one query it returns a single row, of several a row for each and how many are valid.
    keys, apart = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
    counts = getattr(found, "counts", [keys.shape[1]] * len(keys))
    ids = [row[:count].astype(np.int64) for row, count in zip(keys, counts, strict=True)]
    return _padded(ids, [row[:count] for row, count in zip(apart, counts, strict=True)], k)


def _voyager(index: Any, queries: Array, k: int) -> Found:
    ids, distances = index.query(queries, k)
    return ids.astype(np.int64), distances


def _constann(index: Any, queries: Array, k: int) -> Found:
    ids, distances = index.search(queries, k)
    return ids, distances


_LIBRARIES: dict[str, Callable[[Any, Array, int], Found]] = {
    "annoy": _annoy,
    "faiss": _faiss,
    "hnswlib": _hnswlib,
    "usearch": _usearch,
    "voyager": _voyager,
    "constann": _constann,
}
