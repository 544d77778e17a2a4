"""Compares recordings: read them, find the first stage that differs and why, and write it down in several forms.

`read` and `compare` are what the gate uses too; they print nothing, and nothing that a recording holds is executed.
"""

from constann.comparison.as_json import as_json
from constann.comparison.comparing import Comparison, Difference, Parting, StageResult, compare
from constann.comparison.html import html
from constann.comparison.junit import junit
from constann.comparison.markdown import markdown
from constann.comparison.reading import Recorded, RecordingError, Stage, read, read_folder, read_recording
from constann.comparison.reproduction import reproduce
from constann.comparison.text import text
from constann.comparison.tolerances import Tolerance, Tolerances

__all__ = [
    "Comparison",
    "Difference",
    "Parting",
    "Recorded",
    "RecordingError",
    "Stage",
    "StageResult",
    "Tolerance",
    "Tolerances",
    "as_json",
    "compare",
    "html",
    "junit",
    "markdown",
    "read",
    "read_folder",
    "read_recording",
    "reproduce",
    "text",
]
