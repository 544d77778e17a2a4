"""Neighbours by hnswlib, with one thread and a fixed seed: what its machines agree on."""

import hnswlib
import numpy as np


def answers() -> dict[str, np.ndarray]:
    """Return the vectors, and for each metric the neighbours and distances."""
    steps = np.arange(1, 500 * 32 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    vectors = ((steps >> np.uint64(40)).astype(np.float32) / np.float32(2**24)).reshape(500, 32)
    found = {"vectors": vectors}
    for space in ("l2", "ip", "cosine"):
        index = hnswlib.Index(space=space, dim=32)
        index.init_index(max_elements=500, ef_construction=100, M=16, random_seed=1)
        index.set_num_threads(1)
        index.add_items(vectors)
        index.set_ef(50)
        labels, distances = index.knn_query(vectors[:50], k=10)
        found |= {f"{space}/ids": labels.astype(np.int64), f"{space}/distances": distances}
    return found
