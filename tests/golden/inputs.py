"""The inputs of the known answers, by rule: README.md says the rule in words, this file in code.

Every number is made from integers and is exact, so no rounding can differ between machines. Never import constann here.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Draws = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

GOLDEN_RATIO = 0x9E3779B97F4A7C15
SIGN = np.uint32(0x80000000)


def mixed(z: Draws) -> Draws:
    """The finishing steps of SplitMix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draws(seed: int, count: int) -> Draws:
    """The first numbers that SplitMix64 gives from this seed."""
    steps = np.arange(1, count + 1, dtype=np.uint64)
    return mixed(np.uint64(seed) + steps * np.uint64(GOLDEN_RATIO))


def below(u: Draws, bound: int) -> Draws:
    """Integers from 0 to bound - 1, of the upper half of each draw."""
    return ((u >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)


def from_parts(sign: Draws, exponent: Draws, fraction: Draws) -> Floats:
    """The float32 of these fields."""
    return ((sign << np.uint64(31)) | (exponent << np.uint64(23)) | fraction).astype(np.uint32).view(np.float32)


def sign_of(u: Draws) -> Draws:
    return (u >> np.uint64(23)) & np.uint64(1)


def fraction_of(u: Draws) -> Draws:
    return u & np.uint64(0x7FFFFF)


def with_exponents(first: int, count: int) -> Callable[[Draws], Floats]:
    """Floats of random sign and fraction whose exponent field is one of `count` from `first`."""
    return lambda u: from_parts(sign_of(u), np.uint64(first) + below(u, count), fraction_of(u))


def ordinary(u: Draws) -> Floats:
    return ((u >> np.uint64(40)).astype(np.int64) - 2**23).astype(np.float32) * np.float32(2.0**-23)


def ties(u: Draws) -> Floats:
    return (below(u, 5).astype(np.int64) - 2).astype(np.float32)


def zeros(u: Draws) -> Floats:
    signed_zero = from_parts(sign_of(u), np.zeros_like(u), np.zeros_like(u))
    return np.where(u & np.uint64(1), signed_zero, ordinary(u))


def near(u: Draws) -> Floats:
    rows = ordinary(u)
    low_bits = (u[1:] & np.uint64(15)).astype(np.uint32)
    rows[1:] = (rows[:1].view(np.uint32) ^ low_bits).view(np.float32)
    return rows


def cancelling(u: Draws) -> Floats:
    columns = np.arange(u.shape[1])
    turned = np.array([(column // 8).bit_count() & 1 for column in columns], np.uint32) * SIGN
    rows = np.ascontiguousarray(ordinary(u)[:, columns % 8]).view(np.uint32)
    rows[1:] ^= turned ^ (u[1:] & np.uint64(1)).astype(np.uint32)
    return rows.view(np.float32)


def duplicates(u: Draws) -> Floats:
    return ordinary(u[np.arange(len(u)) % 5])


def zero_rows(u: Draws) -> Floats:
    rows = ordinary(u)
    rows[1::3] = 0
    return rows


def outliers(u: Draws) -> Floats:
    rows = ordinary(u)
    rows[:, -1:] *= np.float32(2.0**8)
    rows[1:2] = ordinary(u[1:2]) * np.float32(2.0**127)
    return rows


NUMBERS: dict[str, Callable[[Draws], Floats]] = {
    "ordinary": ordinary,
    "ties": ties,
    "zeros": zeros,
    "denormal": with_exponents(0, 1),
    "small": with_exponents(44, 21),
    "huge": with_exponents(253, 2),
    "mixed": with_exponents(115, 25),
    "any": with_exponents(0, 255),
    "near": near,
    "cancelling": cancelling,
    "duplicates": duplicates,
    "zero_rows": zero_rows,
    "outliers": outliers,
}


def matrix(numbers: str, seed: int, rows: int, columns: int) -> Floats:
    """Rows of float32: element (i, j) comes from draw i * columns + j."""
    return NUMBERS[numbers](draws(seed, rows * columns).reshape(rows, columns))


def random_bytes(u: Draws) -> npt.NDArray[np.uint8]:
    return (u >> np.uint64(56)).astype(np.uint8)


def few_bits(u: Draws) -> npt.NDArray[np.uint8]:
    return np.array([0x00, 0x01, 0x80, 0xFF], np.uint8)[below(u, 4).astype(np.intp)]


def opposite(u: Draws) -> npt.NDArray[np.uint8]:
    rows = np.zeros(u.shape, np.uint8)
    rows[0] = 0xFF
    return rows


def duplicate_bytes(u: Draws) -> npt.NDArray[np.uint8]:
    return random_bytes(u[np.arange(len(u)) % 5])


BYTES: dict[str, Callable[[Draws], npt.NDArray[np.uint8]]] = {
    "bytes": random_bytes,
    "few_bits": few_bits,
    "opposite": opposite,
    "duplicates": duplicate_bytes,
}


def packed(numbers: str, seed: int, rows: int, bits: int) -> npt.NDArray[np.uint8]:
    """Packed rows of `bits` bits in the order of numpy.packbits: byte (i, j) comes from draw i * columns + j."""
    columns = -(-bits // 8)
    made = BYTES[numbers](draws(seed, rows * columns).reshape(rows, columns))
    made[:, -1] &= np.uint8(0xFF << (-bits % 8) & 0xFF)  # bits beyond the last are 0
    return made


def rows_of(metric: str, numbers: str, seed: int, rows: int, dim: int) -> npt.NDArray[np.generic]:
    """Rows as this metric takes them: packed bits for hamming, float32 for the others."""
    return (packed if metric == "hamming" else matrix)(numbers, seed, rows, dim)
