"""Finds the vectors and queries that a gate runs on, and says which they are. Reads no number of them."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

CARRIED_DATA = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "data"


class DataError(ValueError):
    """There is no such data; the text says what was looked for and where."""


@dataclass(frozen=True)
class DataSet:
    """A folder's vectors and queries, by name and digest."""

    vectors: Path
    queries: Path

    @property
    def carried(self) -> bool:
        """Whether this is the slice that the project carries, for which there are known answers."""
        return self.vectors.parent == CARRIED_DATA

    def description(self) -> list[str]:
        """One line for each file: its name and SHA-256."""
        paths = (self.vectors, self.queries)
        return [f"{path.name}  SHA-256 {sha256(path.read_bytes()).hexdigest()}" for path in paths]


def find_data(folder: Path) -> DataSet:
    """Find the one `*vectors.npy` and the one `*queries.npy` of a folder."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found = []
    for ending in ("vectors.npy", "queries.npy"):
        paths = sorted(folder.glob(f"*{ending}"))
        if len(paths) != 1:
            raise DataError(f"{folder} must hold exactly one *{ending}, but it holds {len(paths)}")
        found.append(paths[0].resolve())
    return DataSet(*found)
