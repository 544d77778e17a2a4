"""The kinds of index as users meet them. The core computes; here an index only learns to be saved and identified."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy.typing as npt

from constann import _core, storage
from constann.errors import FileFormatError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Exact", "Forest", "Graph", "Index", "build", "open_index"]

Metric = Literal["cosine", "euclidean"]


class Index(_core.Index):
    """What all kinds of index share. Make one with `build`, `open`, `Exact` or `Forest`."""

    _parts: storage.HeaderParts | None = None

    def add(self, vectors: npt.ArrayLike, ids: None = None) -> None:
        """Add rows, before `build`. All of them, or none where one is bad.

        Parameters
        ----------
        vectors : array, shape (n, dim)
            float16, float32, float64, int8, uint8, int16 or uint16, any strides.
        ids : None
            Not built yet: rows are numbered in the order of adding, and that number is their id.

        Raises
        ------
        ValueError
            The shape does not fit, the index is built, or a row holds NaN, infinity or a float64 that
            overflows float32 (named by row and column).
        TypeError
            The dtype is not accepted.
        """
        self._add(vectors, ids)

    def build(
        self, threads: int | None = None, seed: int = 0, progress: Callable[[int, int], None] | bool = False
    ) -> None:
        """Build the index; afterwards it can be searched and saved, and takes no more rows.

        Parameters
        ----------
        threads : int, optional
            At most so many threads; None means the CPUs this process may use. The index does not depend on it.
        seed : int
            0 to 2^64 - 1. Another seed gives another index of the same quality.
        progress : bool or callable
            True prints how far it is to standard error; a callable is told (done, total).

        Raises
        ------
        ValueError
            No rows were added, or the index is built already.
        """
        self._build(threads, seed, _print_progress if progress is True else progress or None)

    def save(self, path: storage.Path) -> None:
        """Write the index to a file, atomically: a crash leaves the old file whole, or none.

        Parameters
        ----------
        path : str or path-like
            Where to; what is there is replaced, and processes that have it open keep the old one.

        Raises
        ------
        ValueError
            The index is not built.
        OSError
            The file cannot be written.
        """
        storage.save(self, path)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that defines the index: equal on every machine."""
        return storage.header_parts(self).fingerprint

    def labels(self, ids: npt.ArrayLike) -> NoReturn:
        """Turn ids into the caller's string ids. Not built yet."""
        raise NotImplementedError("string ids are not built yet")

    def __repr__(self) -> str:
        state = f"{len(self)} rows" if self.built else f"{len(self)} rows, not built"
        return f"<constann.{type(self).__name__} {self.metric}, dim {self.dim}, {state}>"


class Exact(Index, _core.Exact):
    """The exact index: compares a query with every row. The reference for recall.

    Parameters
    ----------
    dim : int
        Elements of a vector, 1 to 65,536.
    metric : {"cosine", "euclidean"}
        cosine is 1 - cosine similarity (1 for a zero vector); euclidean is the root of the squared differences' sum.
    """

    def __init__(self, dim: int, metric: Metric) -> None:
        _core.Exact.__init__(self, dim, metric)


class Forest(Index, _core.Forest):
    """Random-projection trees, after Annoy's model (Dasgupta and Freund, STOC 2008; splits by 2-means).

    Parameters
    ----------
    dim : int
        Elements of a vector, 1 to 65,536.
    metric : {"cosine", "euclidean"}
        As for `Exact`.
    trees : int, optional
        More trees find more true neighbours, and make the index larger. Settled and stored when omitted.
    effort : int, optional
        Candidates that a search gathers by default. Settled and stored when omitted.
    """

    def __init__(self, dim: int, metric: Metric, *, trees: int | None = None, effort: int | None = None) -> None:
        _core.Forest.__init__(self, dim, metric, trees, effort)


class Graph(Index):
    """A navigable graph. Not built yet."""

    def __init__(self, dim: int, metric: Metric) -> None:
        raise NotImplementedError("the graph index is not built yet: use Forest or Exact")


_KINDS: dict[str, Callable[[int, Metric], Index]] = {"exact": Exact, "forest": Forest, "graph": Graph}


def build(
    vectors: npt.ArrayLike,
    metric: Metric = "cosine",
    kind: Literal["exact", "forest", "graph"] | None = None,
    *,
    ids: None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | bool = False,
) -> Index:
    """Build an index of `vectors` in one call.

    Parameters
    ----------
    vectors : array, shape (n, dim)
        float16, float32, float64, int8, uint8, int16 or uint16, any strides.
    metric : {"cosine", "euclidean"}
        See `Exact`.
    kind : {"exact", "forest"}
        See `Exact` and `Forest`. There is no default yet.
    ids, threads, seed, progress
        See `Index.add` and `Index.build`.

    Returns
    -------
    Index
        Built, ready to `search` and `save`.

    Raises
    ------
    ValueError, TypeError
        As `Index.add` and `Index.build`; or there is no such kind or metric.
    """
    if kind is None:
        raise TypeError("say which kind of index to build: kind='exact' or kind='forest'")
    if kind not in _KINDS:
        raise ValueError(f"there is no index kind {kind!r}: use 'exact' or 'forest'")
    array = _core.as_array(vectors)
    if array.ndim != 2:
        raise ValueError(f"vectors must have shape (n, dim), not {array.shape}")
    index = _KINDS[kind](array.shape[1], metric)
    index.add(array, ids)
    index.build(threads, seed, progress)
    return index


def open_index(path: storage.Path, verify: bool = False) -> Index:
    """Open an index file by mapping it: at once, and shared with every process that maps it.

    Never change such a file in place; `Index.save` replaces it.

    Parameters
    ----------
    path : str or path-like
        The file.
    verify : bool
        Read and check every byte first. Without it the header is checked, and the rest as it is searched.

    Returns
    -------
    Index
        An `Exact` or a `Forest`, as the file says.

    Raises
    ------
    FileFormatError
        It is no index, is truncated or damaged, or needs another version.
    OSError
        It cannot be opened (FileNotFoundError where it does not exist).
    """
    try:
        return from_buffer(*storage.read(path, verify))
    except FileFormatError as error:
        raise FileFormatError(f"{os.fspath(path)}: {error}") from None


def from_buffer(kind: str, buffer: "ReadableBuffer", parts: storage.HeaderParts) -> Index:
    """Make the index whose file is in `buffer`, which has been checked as far as `parts` goes."""
    index: Exact | Forest
    if kind == "exact":
        index = Exact.__new__(Exact)
        _core.Exact.__init__(index, buffer)
    else:
        index = Forest.__new__(Forest)
        _core.Forest.__init__(index, buffer)
    index._parts = parts
    return index


def _print_progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rbuilding: {done} of {total}", end=end, file=sys.stderr, flush=True)
