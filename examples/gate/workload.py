"""What the gate runs on every machine: named arrays, made by the extension from inputs that are the same everywhere."""

import numpy as np
import sums


def answers() -> dict[str, np.ndarray]:
    """Return the stages in their order; the gate names the first on which two machines differ."""
    steps = np.arange(1, 4097, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = ((steps >> np.uint64(40)).astype(np.float32) / np.float32(2**24)).reshape(64, 64)
    products = [[sums.inner_product(a, b) for b in numbers] for a in numbers]
    return {"input": numbers, "products": np.array(products, np.float32)}
