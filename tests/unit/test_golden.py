"""The known answers belong to this revision, and those of the exact index are the reference's, not constann's own."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import reference

from constann import _core

KNOWN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "carried-data.json").read_text())


def test_the_known_answers_are_of_this_revision() -> None:
    assert KNOWN["arithmetic_revision"] == _core.arithmetic_revision
    assert KNOWN["builder_revision"] == _core.builder_revision


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_known_exact_answers_are_those_of_the_reference(
    metric: str, vectors: np.ndarray, queries: np.ndarray
) -> None:
    found = [reference.nearest(metric, query, vectors, 10) for query in queries]
    ids, distances = (np.stack(each) for each in zip(*found, strict=True))
    expected = KNOWN["answers"][f"exact-{metric}"]
    assert hashlib.sha256(ids.tobytes()).hexdigest() == expected["ids"]
    assert hashlib.sha256(distances.tobytes()).hexdigest() == expected["distances"]
