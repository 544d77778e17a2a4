"""The map of pairs as users meet it: made, loaded from CSV, saved and opened. The core looks up and changes values."""

from __future__ import annotations  # numpy.typing is for the annotations alone

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, SupportsIndex

import numpy as np

from constann import _core, storage

if TYPE_CHECKING:
    import numpy.typing as npt
    from _typeshed import ReadableBuffer

__all__ = ["PairMap"]


class PairMap(_core.PairMap):
    """A compact map from (user, item) to a small number, which takes updates while it serves.

    A user and an item are numbers from 0 to 4294967295. A pair takes 4 bytes and its value, a user 8 bytes more. What
    the map answers, and its file, do not depend on the machine or the order in which pairs came. Calls hold the
    interpreter's lock: several threads may use one map.

    Parameters
    ----------
    dtype : {"int16", "int8", "uint8", "uint16", "int32", "float32"}
        Of the values.

    Examples
    --------
    >>> seen = PairMap()
    >>> seen.add([7, 7, 9], [100, 200, 100])
    >>> seen.add(7, 200)
    >>> seen.get(7, [100, 200, 300]).tolist()
    [1, 2, 0]
    >>> seen.items(7).tolist()
    [100, 200]
    """

    _parts: storage.HeaderParts | None = None
    _parts_of = 0  # the number of changes that they were computed after
    built = True

    def __init__(self, dtype: npt.DTypeLike = "int16") -> None:
        _core.PairMap.__init__(self, np.dtype(dtype).name)

    @classmethod
    def from_csv(
        cls,
        source: storage.Path | BinaryIO,
        user: str = "user",
        item: str = "item",
        value: str | None = None,
        *,
        dtype: npt.DTypeLike = "int16",
        repeated: Literal["add", "last"] = "add",
        delimiter: str = ",",
        progress: Callable[[int], None] | None = None,
    ) -> PairMap:
        """Load a map from a CSV file with a line of names, in bounded memory; needs pyarrow (extra `csv`).

        Parameters
        ----------
        source : str, path-like or binary file object
            The file; pyarrow unpacks .gz, .bz2 and .zst by their names.
        user, item : str
            Names of the columns of users and items.
        value : str, optional
            Name of the column of values. Without it each line counts 1: the map says how often a pair occurs.
        dtype
            As for `PairMap`.
        repeated : {"add", "last"}
            What becomes of a pair that occurs again: its values are added up, or the last one holds.
        delimiter : str
            Between the fields of a line.
        progress : callable, optional
            Is told the number of lines read so far.

        Returns
        -------
        PairMap

        Raises
        ------
        ValueError
            A column is missing; or a field is empty, no number, or out of range, and its line is named. The line of
            names is line 1; where quoted fields span lines, records are counted.
        ModuleNotFoundError
            There is no pyarrow.
        """
        from constann.csv_pairs import read_blocks  # noqa: PLC0415 - needs pyarrow

        if repeated not in ("add", "last"):
            raise ValueError(f"repeated must be 'add' or 'last', not {repeated!r}")
        pairs = cls(dtype)
        with storage.naming(source, ValueError):
            for line, users, items, numbers in read_blocks(
                source, (user, item, value), delimiter, floats=pairs.dtype.kind == "f"
            ):
                pairs._load(repeated == "add", users, items, numbers, line)
                if progress is not None:
                    progress(line + len(users) - 1)
        pairs.compact()
        return pairs

    @classmethod
    def open(
        cls,
        source: storage.Source,
        verify: bool = False,
        memory: Literal["map", "warm", "copy", "lock"] = "map",
    ) -> PairMap:
        """Open a saved map: a file by mapping it, at once and shared with every process that maps it.

        It takes updates: they are kept in memory beside the file, which stays as it is until `save` replaces it.

        Parameters
        ----------
        source, verify, memory
            As for `constann.open`.

        Raises
        ------
        FileFormatError, OSError, ValueError
            As `constann.open`.
        """
        with storage.naming(source):
            _, buffer, parts = storage.read(source, verify, memory)
            return cls._of_buffer(buffer, parts)

    @classmethod
    def _of_buffer(cls, buffer: ReadableBuffer, parts: storage.HeaderParts) -> PairMap:
        pairs = cls.__new__(cls)
        _core.PairMap.__init__(pairs, buffer)
        pairs._parts = parts
        return pairs

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return np.dtype(self._dtype)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that defines the map: equal on every machine."""
        held = self._hold()
        try:
            return self._current_parts().fingerprint
        finally:
            held.let_go()

    def save(self, path: storage.Path | BinaryIO) -> None:
        """Write the map to a file, atomically: a crash leaves the old file whole, or none.

        Meanwhile other threads may read the map; their updates are refused.

        Parameters
        ----------
        path : str, path-like or binary file object
            As for `Index.save`.

        Raises
        ------
        OSError
            The file cannot be written.
        FileFormatError
            The map was opened from a damaged file, and has updates.
        """
        held = self._hold()
        try:
            self._current_parts()
            storage.save(self, path)
        finally:
            held.let_go()

    def to_bytes(self) -> bytes:
        """Return the bytes that `save` writes; `PairMap.open` takes them."""
        held = self._hold()
        try:
            self._current_parts()
            return bytes(storage.to_bytes(self))
        finally:
            held.let_go()

    def _current_parts(self) -> storage.HeaderParts:
        if self._parts_of != self._changes:
            self._parts, self._parts_of = None, self._changes
        return storage.header_parts(self)

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return bool(self.contains(*pair))

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return type(self).open, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"<constann.PairMap {self.dtype}, {len(self)} pairs>"
