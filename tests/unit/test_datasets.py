"""The data that the package carries are those of the tests, with the words that belong to them."""

from pathlib import Path

import numpy as np

import constann
from constann.datasets import gloss

DATA = Path(__file__).resolve().parents[1] / "conformance" / "data"


def words_of(rows: np.ndarray, part: str, labels: str) -> list[str]:
    """The lines of the larger slice that have these vectors."""
    lines = dict(
        zip((row.tobytes() for row in np.load(DATA / part)), (DATA / labels).read_text().splitlines(), strict=True)
    )
    return [lines[row.tobytes()] for row in rows]


def test_each_vector_has_its_own_words() -> None:
    data = gloss()
    assert data.vectors.shape == (250, 384) and data.queries.shape == (10, 384)
    for rows, words, texts, part, labels in (
        (data.vectors, data.words, data.texts, "gloss-vectors.npy", "gloss-labels.tsv"),
        (data.queries, data.query_words, data.query_texts, "gloss-queries.npy", "gloss-query-labels.tsv"),
    ):
        given = [f"{word}\t{text}" for word, text in zip(words, texts, strict=True)]
        assert given == words_of(rows, part, labels)


def test_it_can_be_indexed_as_it_is() -> None:
    data = gloss()
    ids, _ = constann.build(data.vectors, metric="cosine").search(data.vectors, k=1)
    assert ids[:, 0].tolist() == list(range(250))
