"""Build, search, save and open an index: the five lines of the README, with vectors of its own making."""

import tempfile
from pathlib import Path

import numpy as np

import constann

vectors = np.random.default_rng(0).standard_normal((10_000, 64))
index = constann.build(vectors, metric="cosine", kind="forest")
ids, distances = index.search(vectors[:3], k=5)
print(ids, distances, sep="\n")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "catalogue.constann"
    index.save(path)
    same = constann.open(path)
    assert same.fingerprint == index.fingerprint
    print(same, same.fingerprint)
