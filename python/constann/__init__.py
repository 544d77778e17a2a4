"""Constann: approximate nearest neighbours, the same ones on every machine.

This file only gathers the public names; what they do stands in the modules they come from.
"""

from constann import kernels
from constann.errors import FileFormatError
from constann.indexes import Exact, Forest, Graph, Index, build
from constann.indexes import open_index as open

__version__ = "0.1.0"

__all__ = ["Exact", "FileFormatError", "Forest", "Graph", "Index", "__version__", "build", "kernels", "open"]
