"""Building an index in its file, for sets larger than memory: rows lie in the file from the moment they are added.

The file has another name until it is whole. No number is computed here.
"""

import contextlib
import mmap
import os
import weakref
from typing import TYPE_CHECKING, BinaryIO

from constann import storage

if TYPE_CHECKING:
    from constann.indexes import Index

__all__ = ["DiskBuilding"]

# Where rows begin in a file with codes, the longest header there is; where it is shorter they are moved at the end.
_ROWS_BEGIN = 1088
_LEAST_ROOM = 1 << 20


class DiskBuilding:
    """The unfinished file of one index that is being built in it.

    Parameters
    ----------
    path : str or path-like
        What the file is called once it is whole.

    Raises
    ------
    OSError
        It cannot be made there, or a folder is there.
    """

    def __init__(self, path: storage.Path) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        storage.check_place(self.path)
        self.unfinished = storage.unfinished_name(self.path)
        self._file = open(self.unfinished, "x+b")  # noqa: SIM115 - it lives as long as this
        self._length = 0
        self._abandon = weakref.finalize(self, _abandon, self._file, self.unfinished, os.getpid())

    def make_room(self, index: "Index", rows: int) -> None:
        """Let the index's rows lie in the file, with room for so many more.

        Raises
        ------
        OSError
            The disk is full.
        """
        needed = _ROWS_BEGIN + (len(index) + rows) * index._stride
        if needed <= self._length:
            return
        length = max(needed, self._length + self._length // 4, _LEAST_ROOM)
        try:
            self._reserve(length)
        except OSError:
            if length == needed:
                raise
            length = needed
            self._reserve(length)
        self._length = length
        index._place_rows(mmap.mmap(self._file.fileno(), length), _ROWS_BEGIN)

    def _reserve(self, length: int) -> None:
        """Take the room from the disk now: a page of a map that it has no room for would end the process."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, length)
        else:
            self._file.truncate(length)

    def finish(self, index: "Index") -> None:
        """Write what was built beside the rows, give the file its name, and let the index use it.

        Raises
        ------
        OSError
            The disk is full, or nothing can be put at the path any more. The index answers nevertheless, from the
            file that lost its name, and can be saved elsewhere.
        """
        try:
            self._write(index)
        except OSError as error:
            reason = f"{error.strerror}: the index is built and can be searched, but is not there: save() it elsewhere"
            raise OSError(error.errno, reason, self.path) from error
        finally:
            index._publish()
            self._abandon()

    def _write(self, index: "Index") -> None:
        parts = storage.settled_parts(index)
        end = parts.offsets[-1] + len(index._contents()[-1][1])
        self._reserve(max(end, self._length))
        whole = mmap.mmap(self._file.fileno(), 0)
        index._become_file(whole, _ROWS_BEGIN, parts.encoded + parts.digest)
        whole.flush()
        self._file.truncate(end)
        os.fsync(self._file.fileno())
        os.replace(self.unfinished, self.path)
        self._abandon.detach()
        storage.sync_folder(os.path.dirname(self.path))
        with contextlib.suppress(OSError):  # it answers as well through the map that it was written with
            index._reopen(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        self._file.close()


def _abandon(file: BinaryIO, path: str, process: int) -> None:
    file.close()
    if os.getpid() == process:  # a forked child has no part in it
        with contextlib.suppress(OSError):
            os.unlink(path)
