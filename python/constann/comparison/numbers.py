"""Bit patterns, ULP distances and relative errors of two arrays. For explanations: no index is computed from them."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bits_of", "histogram", "relative_errors", "same_bits", "ulp_distance"]

Array = npt.NDArray[Any]
_MOST_ULP = (1 << 62) - 1


def same_bits(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Return for each element whether all its bits are equal; texts and bools by their value."""
    if a.dtype.kind != "f":
        return np.asarray(a == b)
    width = f"u{a.dtype.itemsize}"
    return np.asarray(np.ascontiguousarray(a).view(width) == np.ascontiguousarray(b).view(width)).reshape(a.shape)


def _ordered(a: Array) -> npt.NDArray[np.int64]:
    """Return the place of each float in the order of all floats of its width, both zeros at 0."""
    flat = np.ascontiguousarray(a)
    signed = flat.view(f"i{a.dtype.itemsize}").astype(np.int64).reshape(a.shape)
    sign = -(1 << (a.dtype.itemsize * 8 - 1))
    return np.where(signed < 0, sign - signed, signed)


def ulp_distance(a: Array, b: Array) -> npt.NDArray[np.int64]:
    """Count the floats from one to the other for each element; NaN against a number is very far."""
    x, y = _ordered(a), _ordered(b)
    with np.errstate(over="ignore"):
        apart = np.where(
            (x < 0) == (y < 0), np.abs(x - y), np.minimum(np.abs(x), _MOST_ULP) + np.minimum(np.abs(y), _MOST_ULP)
        )
    apart = np.where(apart < 0, _MOST_ULP, apart)
    return np.where(np.isnan(a) != np.isnan(b), _MOST_ULP, apart)


def relative_errors(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """Return |a - b| / max(|a|, |b|); 0 where both are 0."""
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        larger = np.maximum(np.abs(x), np.abs(y))
        return np.where(larger == 0, 0.0, np.abs(x - y) / larger)


def bits_of(value: Any) -> str:
    """Write the bits of one number in hex, the highest first; of text its code points."""
    element = np.asarray(value)
    if element.dtype.kind == "U":
        return " ".join(f"{ord(each):04x}" for each in str(value))
    return "0x" + element.astype(element.dtype.newbyteorder(">")).tobytes().hex()


def histogram(apart: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
    """Count ULP distances by size: 0, 1, 2 to 3, 4 to 7, and so on; long tails are one."""
    steps = [0, 1, 2, 4, 8, 16, 64, 256, 1 << 16, 1 << 62]
    counted = []
    for low, high in zip(steps, [*steps[1:], None], strict=True):
        inside = apart >= low if high is None else (apart >= low) & (apart < high)
        name = (
            str(low)
            if high == low + 1
            else f"{low} or more"
            if high is None or high > 1 << 16
            else f"{low} to {high - 1}"
        )
        if count := int(np.count_nonzero(inside)):
            counted.append((name, count))
    return counted
