"""Loads the libraries that the extension needs, as the system's loader finds them. For a child process: it may die."""

import ctypes
import os
import sys
from collections.abc import Sequence

__all__ = ["load"]


def load(wanted: dict[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Load libraries and say which file each came from.

    Parameters
    ----------
    wanted
        The "names" of the libraries, and the "folders" to look in before the loader looks where it always does.

    Returns
    -------
    dict
        For each name its "file", or the "error" that the loader gave.
    """
    found = {}
    for name in wanted["names"]:
        inside = [os.path.join(folder, name) for folder in wanted["folders"]]
        path = next((each for each in inside if os.path.exists(each)), name)
        try:
            found[name] = {"file": _file_of(ctypes.CDLL(path))}
        except OSError as error:
            found[name] = {"error": str(error)}
    return found


class _LinkMap(ctypes.Structure):
    """The beginning of what glibc and musl know of a loaded library."""

    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]


def _file_of(library: ctypes.CDLL) -> str:
    entry = ctypes.POINTER(_LinkMap)()
    request = ctypes.c_int(2)  # RTLD_DI_LINKMAP
    if sys.platform != "linux":
        return ""
    if ctypes.CDLL(None).dlinfo(ctypes.c_void_p(library._handle), request, ctypes.byref(entry)) != 0:
        return ""
    return os.fsdecode(entry.contents.name or b"")
