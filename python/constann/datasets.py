"""Real data small enough to lie in the package, for first steps and examples. It reads files and changes no number."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Gloss", "gloss"]

_FOLDER = Path(__file__).parent / "real_slice"


class Gloss(NamedTuple):
    """Dictionary entries as sentence embeddings of unit length (all-MiniLM-L6-v2), with their words (WordNet 3.0)."""

    vectors: npt.NDArray[np.float16]
    """Shape (250, 384)."""
    words: list[str]
    """The entry of each vector and its part of speech, as in "powder (noun)"; an entry may be there twice."""
    texts: list[str]
    """What was embedded, as in "powder: a solid substance in the form of tiny loose particles"."""
    queries: npt.NDArray[np.float16]
    """Shape (10, 384): other entries."""
    query_words: list[str]
    query_texts: list[str]


def gloss() -> Gloss:
    """Read the real vectors that the package carries, with their words.

    The texts are entries of WordNet 3.0 (Princeton University); the notice is in `constann/real_slice`.

    Returns
    -------
    Gloss
        250 entries and 10 queries.

    Examples
    --------
    >>> import constann
    >>> from constann.datasets import gloss
    >>> data = gloss()
    >>> index = constann.build(data.vectors, metric="cosine")
    >>> ids, distances = index.search(data.queries[:1], k=3)
    >>> [data.words[row] for row in ids[0]]  # doctest: +SKIP
    """
    words, texts = _labels("gloss-labels.tsv")
    query_words, query_texts = _labels("gloss-query-labels.tsv")
    vectors, queries = (np.load(_FOLDER / f"gloss-{part}.npy", allow_pickle=False) for part in ("vectors", "queries"))
    return Gloss(vectors, words, texts, queries, query_words, query_texts)


def _labels(name: str) -> tuple[list[str], list[str]]:
    lines = (_FOLDER / name).read_text(encoding="utf-8").splitlines()
    words, texts = zip(*(line.split("\t") for line in lines), strict=True)
    return list(words), list(texts)
