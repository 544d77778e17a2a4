"""Constann: approximate nearest neighbours, the same ones on every machine.

This file only gathers the public names; what they do stands in the modules they come from.
"""

from typing import Any

from constann import kernels
from constann.errors import FileFormatError
from constann.indexes import Exact, Forest, Graph, Index, build
from constann.indexes import open_index as open

__all__ = ["Exact", "FileFormatError", "Forest", "Graph", "Index", "__version__", "build", "kernels", "open"]


def __getattr__(name: str) -> Any:
    # Read when asked for: finding a package's metadata takes longer than importing this one.
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("constann")
    raise AttributeError(f"module 'constann' has no attribute {name!r}")
