"""Opens an index, or builds it where there is none, and prints in one line of JSON what must be equal everywhere."""

import json
import sys
from pathlib import Path

import numpy as np

import constann

path = Path(sys.argv[1])
vectors = (np.arange(1_000 * 32, dtype=np.uint32) * 2_654_435_761 >> 24).astype(np.uint8).reshape(-1, 32)
if not path.exists():
    constann.build(vectors, metric="cosine", kind="forest").save(path)
index = constann.open(path, verify=True)
again = constann.build(vectors, metric="cosine", kind="forest")
if again.fingerprint != index.fingerprint:
    sys.exit(f"{path} is {index.fingerprint}, but the same vectors give {again.fingerprint} on this machine")
ids, distances = index.search(vectors[:3], k=5)
print(
    json.dumps(
        {
            "fingerprint": index.fingerprint,
            "ids": ids.tolist(),
            "distances": distances.tobytes().hex(),
            "kernels": constann.kernels.current(),
        }
    )
)
