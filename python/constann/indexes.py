"""The kinds of index as users meet them. The core computes; here an index only learns to be saved and identified."""

from __future__ import annotations  # numpy.typing is for the annotations alone

import operator
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, SupportsIndex, get_args

import numpy as np

# kernels is imported for what it does: no index is built or searched before CONSTANN_KERNELS was obeyed.
from constann import _core, kernels, storage  # noqa: F401
from constann.disk_building import DiskBuilding
from constann.pairs import PairMap

if TYPE_CHECKING:
    import numpy.typing as npt
    from _typeshed import ReadableBuffer

    Ids = npt.ArrayLike | Sequence[str]

__all__ = ["Exact", "Forest", "Graph", "Index", "build", "open_index"]

Metric = Literal["cosine", "euclidean", "manhattan", "dot", "hamming"]
Kind = Literal["exact", "forest", "graph"]

# pybind11 looks for numpy's functions at the first array, which takes longer than a search: so here, not there.
_core.as_array(np.empty(0, np.float32))

_STRINGS = 2  # the kind of ids, as in the file


class Index(_core.Index):
    """What all kinds of index share. Make one with `build`, `open`, `Graph`, `Exact` or `Forest`."""

    _parts: storage.HeaderParts | None = None
    _disk: DiskBuilding | None = None

    def add(self, vectors: npt.ArrayLike, ids: Ids | None = None) -> None:
        """Add rows, before `build`. All of them, or none where one is bad.

        Parameters
        ----------
        vectors : array, shape (n, dim)
            float16, float32, float64, int8, uint8, int16 or uint16, any strides. For hamming uint8, with eight
            bits in each column, as numpy.packbits makes them.
        ids : array of int64, or sequence of str, shape (n,), optional
            What a search returns for these rows, instead of their numbers in the order of adding. All rows have
            ids, or none; no two the same. Strings are looked up with `labels`.

        Raises
        ------
        ValueError
            The shape does not fit, the index is built, or a row holds NaN, infinity or a float64 that
            overflows float32 (named by row and column), or bits beyond dim.
        TypeError
            The dtype is not accepted.
        """
        if self._disk is not None and not self.built:
            array = _core.as_array(vectors)
            if array.ndim == 2:
                self._disk.make_room(self, len(array))
            vectors = array
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
            No rows were added, two have the same id, or the index is built already.
        OSError
            For an index with a `path`: it is built and can be searched, but its file cannot be put there.
        """
        try:
            self._build(threads, seed, _progress_printer() if progress is True else progress or None)
        except KeyboardInterrupt:  # which may come when all is done but the file
            self._finish_file()
            raise
        self._finish_file()

    def _finish_file(self) -> None:
        if self._disk is not None and self._settling:
            try:
                self._disk.finish(self)
            finally:
                self._disk = None

    def save(self, path: storage.Path | BinaryIO) -> None:
        """Write the index to a file, atomically: a crash leaves the old file whole, or none.

        Parameters
        ----------
        path : str, path-like or binary file object
            Where to; what is there is replaced, and processes that have it open keep the old one. Into an open
            file it is written as it comes.

        Raises
        ------
        ValueError
            The index is not built.
        OSError
            The file cannot be written.
        """
        storage.save(self, path)

    def to_bytes(self) -> bytes:
        """Return the bytes that `save` writes; `constann.open` takes them.

        Raises
        ------
        ValueError
            The index is not built.
        """
        return bytes(storage.to_bytes(self))

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        # The file's bytes, beside the pickle where the caller takes such buffers (PEP 574).
        whole = storage.to_bytes(self)
        if operator.index(protocol) >= 5:
            return open_index, (pickle.PickleBuffer(whole),)
        return open_index, (bytes(whole),)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that defines the index: equal on every machine."""
        return storage.header_parts(self).fingerprint

    @property
    def ids(self) -> npt.NDArray[np.int64] | list[str]:
        """The ids of all rows, in the order of adding; row numbers where none were given."""
        return self._labels(self._ids()) if self._id_kind == _STRINGS else self._ids()

    def labels(self, ids: npt.ArrayLike) -> Any:
        """Turn what a search returned into the caller's string ids.

        Parameters
        ----------
        ids : int64 array of any shape
            As `search` returns them.

        Returns
        -------
        object array of the same shape
            The strings, and None for -1.

        Raises
        ------
        ValueError
            The index was built without string ids.
        IndexError
            There is no such row.
        """
        rows = np.ascontiguousarray(np.asarray(ids), np.int64)
        labels = np.empty(rows.size, object)
        labels[:] = self._labels(rows)
        return labels.reshape(np.shape(ids))

    def rows_of(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Look up the numbers of the rows that have these ids.

        Parameters
        ----------
        ids : array of int64, or sequence of str, shape (m,)

        Returns
        -------
        int64 array, shape (m,)

        Raises
        ------
        KeyError
            No row has one of the ids, which is named.
        ValueError
            They are strings, and the index has none; or it has ids and is not built, which puts them in order.
        """
        return self._rows_with(ids)

    def vectors(self, ids: Ids) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
        """Return the stored vectors of these ids.

        Parameters
        ----------
        ids : array of int64, or sequence of str, shape (m,)

        Returns
        -------
        float32 array, shape (m, dim)
            Of unit length for cosine. For hamming uint8, shape (m, bytes), packed.

        Raises
        ------
        KeyError, ValueError
            As `rows_of`.
        """
        return self._stored_rows(self._rows_with(ids))

    def __repr__(self) -> str:
        state = f"{len(self)} rows" if self.built else f"{len(self)} rows, not built"
        return f"<constann.{type(self).__name__} {self.metric}, dim {self.dim}, {state}>"


class Exact(Index, _core.Exact):
    """The exact index: compares a query with every row. The reference for recall.

    Parameters
    ----------
    dim : int
        Elements of a vector, 1 to 65,536; for hamming its bits.
    metric : {"cosine", "euclidean", "manhattan", "dot", "hamming"}
        cosine is 1 - cosine similarity (1 for a zero vector); euclidean is the root of the squared differences' sum,
        manhattan the sum of absolute differences; dot is 0 - inner product, so that the largest product comes first;
        hamming counts the differing bits of packed uint8 rows.
    path : str or path-like, optional
        Build in this file instead of in memory, for sets larger than that: rows lie in it from `add` on, and `build`
        leaves the same bytes there as `save` would. Until then what is at `path` stays as it is.
    """

    def __init__(self, dim: int, metric: Metric, *, path: storage.Path | None = None) -> None:
        _core.Exact.__init__(self, dim, metric)
        self._disk = None if path is None else DiskBuilding(path)


class Forest(Index, _core.Forest):
    """Random-projection trees, after Annoy's model (Dasgupta and Freund, STOC 2008; splits by 2-means).

    Parameters
    ----------
    dim : int
        Elements of a vector, 1 to 65,536.
    metric : {"cosine", "euclidean", "manhattan", "dot", "hamming"}
        As for `Exact`.
    trees : int, optional
        More trees find more true neighbours, and make the index larger. Settled and stored when omitted.
    effort : int, optional
        Candidates that a search gathers by default. Settled and stored when omitted.
    code_bits : {0, 7}, optional
        7: a search compares candidates by small integers first and the best of them exactly; 0: all of them
        exactly. Settled by trying, and stored, when omitted.
    path : str or path-like, optional
        As for `Exact`.
    """

    def __init__(
        self,
        dim: int,
        metric: Metric,
        *,
        trees: int | None = None,
        effort: int | None = None,
        code_bits: int | None = None,
        path: storage.Path | None = None,
    ) -> None:
        _core.Forest.__init__(self, dim, metric, trees, effort, code_bits)
        self._disk = None if path is None else DiskBuilding(path)

    @classmethod
    def _of_annoy(cls, nodes: _core.AnnoyNodes) -> Forest:
        index = cls.__new__(cls)
        _core.Forest.__init__(index, nodes=nodes)
        return index


class Graph(Index, _core.Graph):
    """A navigable graph: the fastest search (after HNSW and Vamana; batches as in ParlayANN).

    Parameters
    ----------
    dim : int
        Elements of a vector, 1 to 65,536.
    metric : {"cosine", "euclidean", "dot"}
        As for `Exact`.
    effort : int, optional
        Nodes that a search keeps in view by default. Settled by trying, and stored, when omitted; see `tune`.
    code_bits : {0, 4, 7}, optional
        4 or 7: a search walks by small integers, where these can tell rows apart, and compares the best of what it
        met exactly; 0: all of it exactly. Settled by trying, and stored, when omitted.
    path : str or path-like, optional
        As for `Exact`.
    """

    def __init__(
        self,
        dim: int,
        metric: Metric,
        *,
        effort: int | None = None,
        code_bits: int | None = None,
        path: storage.Path | None = None,
    ) -> None:
        _core.Graph.__init__(self, dim, metric, effort, code_bits)
        self._disk = None if path is None else DiskBuilding(path)

    def tune(self, queries: npt.ArrayLike, recall: float = 0.95, k: int = 10, threads: int | None = None) -> int:
        """Find the least effort that finds this share of the true neighbours of `queries`.

        Decided by counts against all rows, never by time: the same on every machine. The index stays as it is; give
        the effort to `search`, or to `Graph` when building anew.

        Parameters
        ----------
        queries : array, shape (q, dim)
            Like those to come. Some hundreds give a recall that holds for others, too.
        recall : float
            Above 0, at most 1. A row counts that lies no farther than the k-th true neighbour.
        k : int
            Neighbours wanted.
        threads : int, optional
            As for `search`.

        Returns
        -------
        int
            The effort.

        Raises
        ------
        ValueError
            There are no queries, recall is out of range, or as `search`.
        """
        return self._tune(queries, recall, k, threads)


class KindFacts(NamedTuple):
    """What there is to know of a kind of index."""

    index_type: type[Exact] | type[Forest] | type[Graph]
    metrics: tuple[Metric, ...]
    """What it can compare by."""


KINDS: dict[Kind, KindFacts] = {
    "exact": KindFacts(Exact, get_args(Metric)),
    "forest": KindFacts(Forest, get_args(Metric)),
    "graph": KindFacts(Graph, ("cosine", "euclidean", "dot")),
}


def build(
    vectors: npt.ArrayLike,
    metric: Metric = "cosine",
    kind: Kind = "graph",
    *,
    ids: Ids | None = None,
    dim: int | None = None,
    path: storage.Path | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | bool = False,
) -> Index:
    """Build an index of `vectors` in one call.

    Parameters
    ----------
    vectors : array, shape (n, dim)
        float16, float32, float64, int8, uint8, int16 or uint16, any strides; for hamming packed uint8.
    metric : {"cosine", "euclidean", "manhattan", "dot", "hamming"}
        See `Exact`.
    kind : {"graph", "exact", "forest"}
        See `Graph`, `Exact` and `Forest`. A graph takes cosine, euclidean and dot.
    dim : int, optional
        Only needed for hamming, where it is in bits: 8 for each column unless given.
    path : str or path-like, optional
        Build in this file; see `Exact`.
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
    if kind not in KINDS:
        raise ValueError(f"there is no index kind {kind!r}: use 'graph', 'forest' or 'exact'")
    array = _core.as_array(vectors)
    if array.ndim != 2:
        raise ValueError(f"vectors must have shape (n, dim), not {array.shape}")
    if dim is None:
        dim = array.shape[1] * 8 if metric == "hamming" else array.shape[1]
    index = KINDS[kind].index_type(dim, metric, path=path)
    index.add(array, ids)
    index.build(threads, seed, progress)
    return index


def open_index(
    source: storage.Source, verify: bool = False, memory: Literal["map", "warm", "copy", "lock"] = "map"
) -> Index:
    """Open an index: a file by mapping it, at once and shared with every process that maps it.

    Never change such a file in place; `Index.save` replaces it. docs/memory.md says which mode serves when.

    Parameters
    ----------
    source : str, path-like, bytes-like or binary file object
        The file; or its bytes, which are searched where they lie; or an open file, which is read to its end.
    verify : bool
        Read and check every byte first. Without it the header is checked, and the rest as it is searched.
    memory : {"map", "warm", "copy", "lock"}
        For a path. map: pages are read as searches need them. warm: all are read now, so that the first searches are
        fast. copy: a copy of this process's own, which no change of the file reaches. lock: mapped, and kept in
        memory whatever else needs it.

    Returns
    -------
    Index
        An `Exact`, a `Forest` or a `Graph`, as the file says. Of a map of pairs the `PairMap`, though it is no index:
        `PairMap.open` says so to type checkers.

    Raises
    ------
    FileFormatError
        It is no index, is truncated or damaged, or needs another version.
    OSError
        It cannot be opened (FileNotFoundError where it does not exist), or may not be locked in memory.
    ValueError
        There is no such memory mode.
    """
    with storage.naming(source):
        kind, buffer, parts = storage.read(source, verify, memory)
        if kind == "pairs":
            return PairMap._of_buffer(buffer, parts)  # type: ignore[return-value]
        return from_buffer(kind, buffer, parts)  # type: ignore[arg-type]


def from_buffer(kind: Kind, buffer: ReadableBuffer, parts: storage.HeaderParts) -> Index:
    """Make the index whose file is in `buffer`, which has been checked as far as `parts` goes."""
    index_type = KINDS[kind].index_type
    index: Index = index_type.__new__(index_type)
    super(Index, index).__init__(buffer)  # type: ignore[call-arg]  # of the core's class, which stands behind Index
    index._parts = parts
    return index


def _progress_printer() -> Callable[[int, int], None]:
    ended = False

    def tell(done: int, total: int) -> None:
        nonlocal ended
        if not ended:
            ended = done == total
            print(f"\rbuilding: {done} of {total}", end="\n" if ended else "", file=sys.stderr, flush=True)

    return tell
