"""The errors that are Constann's own; all else is a plain ValueError, TypeError or OSError."""

from constann._core import FileFormatError

FileFormatError.__module__ = "constann"
FileFormatError.__doc__ = "The bytes are not an index that this version can read, or they are damaged."

__all__ = ["FileFormatError"]
