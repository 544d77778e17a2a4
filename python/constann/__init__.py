"""Constann: approximate nearest neighbours, the same ones on every machine.

This file only gathers the public names; what they do stands in the modules they come from. It must import neither numpy
nor the extension: each name is found when it is first used, so that `constann doctor` starts where those two cannot.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from constann import kernels
    from constann.errors import FileFormatError
    from constann.indexes import Exact, Forest, Graph, Index, build
    from constann.indexes import open_index as open
    from constann.pairs import PairMap
    from constann.recorder import recording

    __version__: str

__all__ = [
    "Exact",
    "FileFormatError",
    "Forest",
    "Graph",
    "Index",
    "PairMap",
    "__version__",
    "build",
    "kernels",
    "open",
    "recording",
]

# Where each name stands: its module, and what it is called there.
_PLACES = {
    "Exact": ("constann.indexes", "Exact"),
    "FileFormatError": ("constann.errors", "FileFormatError"),
    "Forest": ("constann.indexes", "Forest"),
    "Graph": ("constann.indexes", "Graph"),
    "Index": ("constann.indexes", "Index"),
    "PairMap": ("constann.pairs", "PairMap"),
    "build": ("constann.indexes", "build"),
    "open": ("constann.indexes", "open_index"),
    "recording": ("constann.recorder", "recording"),
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        module, attribute = _PLACES[name]
        value = getattr(import_module(module), attribute)
    elif name == "kernels":
        value = import_module("constann.kernels")
    elif name == "__version__":
        value = import_module("importlib.metadata").version("constann")
    else:
        raise AttributeError(f"module 'constann' has no attribute {name!r}")
    globals()[name] = value  # so that Python asks once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
