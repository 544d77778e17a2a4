"""Annoy's Python interface over Constann: change `from annoy import AnnoyIndex` and nothing else.

Names, defaults, return types and exceptions are those of Annoy 1.17.3; docs/from-annoy.md says what differs. Opens what
Annoy 1.15 to 1.17 saved, and saves what Annoy opens. No number is computed here.
"""

import contextlib
import mmap
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Literal, overload

from constann import _core, storage
from constann.errors import FileFormatError
from constann.indexes import Forest, Metric, open_index

__all__ = ["AnnoyIndex", "read", "write"]

_METRICS: dict[str, Metric] = {
    "angular": "cosine",
    "euclidean": "euclidean",
    "manhattan": "manhattan",
    "dot": "dot",
    "hamming": "hamming",
}
_MAGIC = b"CONSTANN"
_DEFAULT_SEED = 0
Neighbours = list[int]
NeighboursAndDistances = tuple[list[int], list[float]]


class AnnoyIndex:
    """An index with Annoy's interface.

    Parameters
    ----------
    f : int
        Elements of a vector.
    metric : {"angular", "euclidean", "manhattan", "hamming", "dot"}
        As in Annoy: angular distances are sqrt(2 - 2 cos), dot returns the product itself.
    """

    def __init__(self, f: int, metric: str | None = None) -> None:
        if metric is None:
            warnings.warn(
                "The default argument for metric will be removed in future version of Annoy. "
                "Please pass metric='angular' explicitly.",
                FutureWarning,
                stacklevel=2,
            )
            metric = "angular"
        if metric not in _METRICS:
            raise ValueError(f"No such metric: {metric!r}; use {', '.join(map(repr, _METRICS))}")
        self._f = f
        self._metric = metric
        self._verbose = False
        self._building = False
        self._reset()

    def _reset(self) -> None:
        self._nodes = _core.AnnoyNodes(_METRICS[self._metric], self._f)
        self._forest: Forest | None = None  # instead of nodes, where a Constann file was loaded
        self._loaded = False
        self._seed = _DEFAULT_SEED
        self._on_disk: str | None = None

    @property
    def f(self) -> int:
        """Elements of a vector."""
        return self._f

    def add_item(self, i: int, vector: Sequence[float]) -> None:
        """Add item `i` (any nonnegative integer), or replace it, before `build`.

        Raises
        ------
        IndexError
            `i` is negative, or the vector has not f elements.
        ValueError
            The vector holds NaN or infinity, or a number too large for float32.
        Exception
            The index was loaded or is built.
        """
        if self._loaded:
            raise Exception("You can't add an item to a loaded index")
        if self._built or self._building:
            raise Exception("You can't add an item to a built index: call unbuild() first")
        self._nodes.add_item(i, vector)

    def build(self, n_trees: int, n_jobs: int = -1) -> Literal[True]:
        """Grow `n_trees` trees; -1 grows until there are twice as many nodes as items.

        The trees are the same whatever `n_jobs`, the number of threads (-1: the CPUs this process may use).
        """
        if self._loaded:
            raise Exception("You can't build a loaded index")
        if self._built or self._building:
            raise Exception("You can't build a built index")
        nodes, path = self._nodes, self._on_disk  # another thread may unload() meanwhile
        self._building = True
        try:
            nodes.build(n_trees, None if n_jobs < 1 else n_jobs, self._seed)
        finally:
            self._building = False
        if self._verbose:
            print(f"built {nodes.trees} trees over {nodes.items} items", file=sys.stderr)
        if path is not None:
            storage.write_atomically(path, [nodes.bytes()])
        return True

    def unbuild(self) -> Literal[True]:
        """Drop the trees, so that items can be added again."""
        if self._loaded:
            raise Exception("You can't unbuild a loaded index")
        if self._building:
            raise Exception("You can't unbuild an index while it is built")
        self._nodes.unbuild()
        return True

    def on_disk_build(self, fn: str) -> Literal[True]:
        """Let `build` put the index into this file, as `save` does: in one step, so that until then the old one stays.

        It is built in memory, unlike in Annoy; for sets larger than that see `constann.Forest` and its `path`.

        Raises
        ------
        OSError
            Nothing can be written there.
        """
        storage.check_place(fn)
        self._on_disk = fn
        return True

    def save(self, fn: str, prefault: bool = False) -> Literal[True]:
        """Write the index: for Annoy, or where the name ends in .constann as Constann's own file. Then load it.

        The file is replaced in one step; a process that has the old one loaded keeps it.

        Raises
        ------
        OSError
            The index is not built, or the file cannot be written.
        """
        if not self._built:
            raise OSError("You can't save an index that hasn't been built")
        if os.fspath(fn).endswith(".constann"):
            self._as_forest().save(fn)
        elif self._forest is not None or self._nodes.packed:  # as Annoy 1.15 wrote hamming, which 1.17 cannot read
            write(self._as_forest(), fn)
        else:
            storage.write_atomically(fn, [self._nodes.bytes()])
        seed, verbose = self._seed, self._verbose
        self.load(fn, prefault)
        self._seed, self._verbose = seed, verbose
        return True

    def load(self, fn: str, prefault: bool = False) -> Literal[True]:
        """Map a file that Annoy or Constann wrote; with `prefault` its pages are read at once.

        Raises
        ------
        OSError
            It cannot be opened, or is no index of this f and metric.
        """
        with open(fn, "rb") as file:
            magic = file.read(len(_MAGIC))
        self._reset()
        try:
            if magic == _MAGIC:
                self._forest = _forest_in(fn, self._f, _METRICS[self._metric])
            else:
                self._nodes = _core.AnnoyNodes(_METRICS[self._metric], self._f, _mapped(fn, prefault))
        except FileFormatError as error:
            raise OSError(f"{os.fspath(fn)}: {error}") from error
        self._loaded = True
        return True

    def unload(self) -> Literal[True]:
        """Forget everything, also what was added."""
        self._reset()
        return True

    @overload
    def get_nns_by_item(
        self, i: int, n: int, search_k: int = -1, include_distances: Literal[False] = False
    ) -> Neighbours: ...
    @overload
    def get_nns_by_item(
        self, i: int, n: int, search_k: int = -1, *, include_distances: Literal[True]
    ) -> NeighboursAndDistances: ...
    @overload
    def get_nns_by_item(
        self, i: int, n: int, search_k: int, include_distances: Literal[True]
    ) -> NeighboursAndDistances: ...
    def get_nns_by_item(self, i: int, n: int, search_k: int = -1, include_distances: bool = False) -> Any:
        """Find the `n` items nearest to item `i`.

        Parameters
        ----------
        search_k : int
            Candidates that the trees offer; -1 is n times the number of trees.
        include_distances : bool
            Return (items, distances) instead of the items.

        Raises
        ------
        IndexError
            There is no such item.
        """
        if self._forest is not None:
            return self._search_forest(self.get_item_vector(i), n, search_k, include_distances)
        return self._nodes.search_by_item(i, n, search_k, include_distances)

    @overload
    def get_nns_by_vector(
        self, vector: Sequence[float], n: int, search_k: int = -1, include_distances: Literal[False] = False
    ) -> Neighbours: ...
    @overload
    def get_nns_by_vector(
        self, vector: Sequence[float], n: int, search_k: int = -1, *, include_distances: Literal[True]
    ) -> NeighboursAndDistances: ...
    @overload
    def get_nns_by_vector(
        self, vector: Sequence[float], n: int, search_k: int, include_distances: Literal[True]
    ) -> NeighboursAndDistances: ...
    def get_nns_by_vector(
        self, vector: Sequence[float], n: int, search_k: int = -1, include_distances: bool = False
    ) -> Any:
        """Find the `n` items nearest to a vector; see `get_nns_by_item`.

        Raises
        ------
        IndexError
            The vector has not f elements.
        ValueError
            It holds NaN or infinity.
        """
        if self._forest is not None:
            return self._search_forest(vector, n, search_k, include_distances)
        return self._nodes.search_by_vector(vector, n, search_k, include_distances)

    def get_item_vector(self, i: int) -> list[float]:
        """Return the vector of item `i` as it was added; of unit length for angular from a Constann file."""
        if self._forest is None:
            return self._nodes.item_vector(i)
        self._check_item(i)
        try:
            stored = self._forest.vectors([i])[0]
        except KeyError:
            raise IndexError(f"Item {i} was never added: it is a hole between others") from None
        if self._metric == "hamming":
            return [float(byte >> (7 - bit) & 1) for byte in stored.tolist() for bit in range(8)][: self._f]
        return _core.annoy_vector(stored)

    def get_distance(self, i: int, j: int) -> float:
        """Return the distance between two items, in Annoy's terms."""
        if self._forest is None:
            return self._nodes.distance(i, j)
        self._check_item(j)
        vector = self.get_item_vector(i)
        found = self._search_forest(vector, 1, -1, True, allowed=[j])
        if not found[0]:
            raise IndexError(f"Item {j} was never added: it is a hole between others")
        distance: float = found[1][0]
        return distance

    def get_n_items(self) -> int:
        """Return the largest item plus one."""
        return self._nodes.items if self._forest is None else max(1 + self._forest._greatest_id, 0)

    def get_n_trees(self) -> int:
        """Return the number of trees."""
        return self._nodes.trees if self._forest is None else self._forest.trees

    def verbose(self, v: bool) -> Literal[True]:
        """Say on standard error what is done, or no longer."""
        self._verbose = bool(v)
        return True

    def set_seed(self, s: int) -> None:
        """Set the seed of the next `build`: 0 to 2^64 - 1; a negative one counts as Annoy counts it."""
        self._seed = s % 2**64 if -(2**63) <= s < 0 else s

    @property
    def _built(self) -> bool:
        return self._forest is not None or self._nodes.trees > 0

    def _check_item(self, i: int) -> None:
        if i < 0:
            raise IndexError("Item index can not be negative")
        if i >= self.get_n_items():
            raise IndexError("Item index larger than the largest item index")

    def _as_forest(self) -> Forest:
        return self._forest if self._forest is not None else Forest._of_annoy(self._nodes)

    def _search_forest(
        self, vector: Sequence[float], n: int, search_k: int, include_distances: bool, allowed: list[int] | None = None
    ) -> Any:
        assert self._forest is not None
        query = _core.AnnoyNodes(_METRICS[self._metric], self._f)
        query.add_item(0, vector)  # the same checks, and the same conversion
        rows = query.stored_vector(0)
        n = min(n, len(self._forest))
        # More than each row from each tree is never offered.
        most = self._forest.trees * len(self._forest)
        effort = min(search_k if search_k >= 0 else n * self._forest.trees, most)
        ids, distances = self._forest.search(rows, max(n, 1), max(effort, 1), allowed=allowed)
        found = [item for item in ids[0].tolist() if item >= 0][: max(n, 0)]
        if not include_distances:
            return found
        return found, _core.annoy_distances(_METRICS[self._metric], distances[0][: len(found)])

    def __getstate__(self) -> dict[str, Any]:
        if not self._built:
            raise ValueError("an index is pickled once it is built: call build() first")
        content = self._nodes.bytes() if self._forest is None else write_bytes(self._forest)
        return {"f": self._f, "metric": self._metric, "seed": self._seed, "nodes": bytes(content)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["f"], state["metric"])  # type: ignore[misc]
        self._nodes = _core.AnnoyNodes(_METRICS[self._metric], self._f, state["nodes"])
        self._seed, self._loaded = state["seed"], True

    def __repr__(self) -> str:
        size = f"{self.get_n_items()} items, {self.get_n_trees()} trees"
        return f"<constann.annoy.AnnoyIndex {self._metric}, f {self._f}, {size}>"


def _mapped(fn: str, prefault: bool) -> mmap.mmap | bytes:
    with open(fn, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise FileFormatError("the file is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if prefault:
        with contextlib.suppress(AttributeError, OSError):  # only where the system knows it: it changes no answer
            mapped.madvise(mmap.MADV_WILLNEED)
    return mapped


def _forest_in(fn: str, f: int, metric: Metric) -> Forest:
    index = open_index(fn)
    if not isinstance(index, Forest):
        raise FileFormatError("it holds no forest: open it with constann.open()")
    if (index.dim, index.metric) != (f, metric):
        raise FileFormatError(f"it has f {index.dim} and metric {index.metric}, not {f} and {metric}")
    if index._id_kind == _STRING_IDS:
        raise FileFormatError("its ids are strings, which are no items of Annoy: open it with constann.open()")
    return index


_STRING_IDS = 2


def read(path: storage.Path, dim: int, metric: str) -> Forest:
    """Turn a file that Annoy wrote into a forest: the same trees, compared by integers first.

    Parameters
    ----------
    path : str or path-like
    dim : int
        Annoy's f; its files do not say.
    metric : str
        Annoy's metric, or Constann's name for it.

    Returns
    -------
    Forest
        Its ids are the items where some numbers are missing, otherwise rows are the items.

    Raises
    ------
    FileFormatError
        It is no Annoy index of this dim and metric, or is damaged.
    """
    name = _METRICS.get(metric, metric)
    try:
        return Forest._of_annoy(_core.AnnoyNodes(name, dim, _mapped(os.fspath(path), False)))
    except FileFormatError as error:
        raise FileFormatError(f"{os.fspath(path)}: {error}") from None


def write_bytes(index: Forest) -> memoryview:
    """Return the bytes of the file that `write` writes."""
    if not index.built:
        raise ValueError("the index is not built: call build() first")
    if index._id_kind == _STRING_IDS:
        raise ValueError("its ids are strings, which cannot be items of Annoy")
    return _core.AnnoyNodes.from_forest(index).bytes()


def write(index: Forest, path: storage.Path) -> None:
    """Write a forest as a file that Annoy 1.17 opens; int64 ids become items, cosine vectors have unit length.

    Raises
    ------
    ValueError
        An id is negative, too large or a string.
    OSError
        The file cannot be written.
    """
    storage.write_atomically(path, [write_bytes(index)])
