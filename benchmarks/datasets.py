"""The sets that measurements run on, and their true neighbours; nothing here measures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

CARRIED = Path(__file__).resolve().parents[1] / "tests" / "conformance" / "data"
NEIGHBOURS = 10


class Dataset(NamedTuple):
    """Rows, queries and the true neighbours of these."""

    name: str
    rows: np.ndarray
    queries: np.ndarray
    true: np.ndarray
    metric: str = "cosine"


def true_neighbours(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    unit, asked = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, queries))
    blocks = [asked[start : start + 100] @ unit.T for start in range(0, len(asked), 100)]
    return np.concatenate([np.argpartition(-block, NEIGHBOURS, axis=1)[:, :NEIGHBOURS] for block in blocks])


def gloss(folder: Path) -> Dataset:
    """Real sentence embeddings, 384 elements: the carried 2,000, or all of a folder."""
    rows, queries = (np.load(folder / f"gloss-{what}.npy").astype(np.float32) for what in ("vectors", "queries"))
    return Dataset("gloss", rows, queries, true_neighbours(rows, queries))


def clustered(count: int = 200_000, dim: int = 96, clusters: int = 2_000, spread: float = 1.0) -> Dataset:
    """By rule: normal centres, and around each normal rows of the same spread; 1,000 queries drawn likewise."""
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((clusters, dim)).astype(np.float32)

    def draw(number: int) -> np.ndarray:
        noise = generator.standard_normal((number, dim))
        return (centres[generator.integers(0, clusters, number)] + spread * noise).astype(np.float32)

    rows, queries = draw(count), draw(1000)
    return Dataset("clustered", rows, queries, true_neighbours(rows, queries))


def integers(count: int = 200_000, dim: int = 128, clusters: int = 2_000) -> Dataset:
    """By rule: whole numbers from 0 to 218, most of them small, as SIFT's are; by euclidean distance."""
    generator = np.random.default_rng(2)
    centres = generator.gamma(0.7, 40, (clusters, dim)).astype(np.float32)

    def draw(number: int) -> np.ndarray:
        around = centres[generator.integers(0, clusters, number)] * generator.gamma(4, 0.25, (number, dim))
        noise = generator.normal(0, 12, (number, dim))
        return np.clip(np.rint(around + noise), 0, 218).astype(np.float32)

    rows, queries = draw(count), draw(1000)
    lengths = (rows**2).sum(1)
    blocks = [lengths - 2 * queries[start : start + 100] @ rows.T for start in range(0, len(queries), 100)]
    true = np.concatenate([np.argpartition(block, NEIGHBOURS, axis=1)[:, :NEIGHBOURS] for block in blocks])
    return Dataset("integers", rows, queries, true, "euclidean")


def recall(found: list[list[int]], true: np.ndarray) -> float:
    return float(np.mean([len({*each} & {*expected}) / NEIGHBOURS for each, expected in zip(found, true, strict=True)]))
