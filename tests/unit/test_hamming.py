"""Hamming: packed rows in, differing bits out, dim in bits, and nothing beyond them."""

import numpy as np
import pytest
import reference

import constann


def packed(rows: int, bits: int, seed: int = 0) -> np.ndarray:
    return np.packbits(np.random.default_rng(seed).integers(0, 2, (rows, bits), np.uint8), axis=1)


@pytest.mark.parametrize("bits", [1, 7, 8, 63, 64, 65, 100, 256, 1000])
def test_exact_search_counts_bits(bits: int) -> None:
    rows, queries = packed(300, bits), packed(5, bits, 1)
    index = constann.build(rows, "hamming", kind="exact", dim=bits)
    assert index.dim == bits
    ids, distances = index.search(queries, 20)
    for query, found, far in zip(queries, ids, distances, strict=True):
        expected = reference.nearest("hamming", query, rows, 20)
        np.testing.assert_array_equal(found, expected[0])
        np.testing.assert_array_equal(far, expected[1])


def test_dim_is_eight_times_the_columns_unless_given() -> None:
    assert constann.build(packed(3, 40), "hamming", kind="exact").dim == 40
    assert constann.build(packed(3, 37), "hamming", kind="exact", dim=37).dim == 37


def test_bits_beyond_dim_are_refused_with_their_row() -> None:
    rows = packed(4, 13)
    rows[2, 1] |= 1
    with pytest.raises(ValueError, match="row 2 has bits beyond dim 13: they must be 0"):
        constann.build(rows, "hamming", kind="exact", dim=13)


def test_rows_that_are_not_packed_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"packed rows of uint8, as numpy\.packbits"):
        constann.build(np.ones((3, 8), np.float32), "hamming", kind="exact")
    with pytest.raises(ValueError, match="vectors have dim 3 columns of 8 bits, the index has dim 2 columns"):
        constann.build(packed(3, 24), "hamming", kind="exact", dim=16)


def test_a_forest_finds_near_codes() -> None:
    generator = np.random.default_rng(2)
    rows = packed(5000, 256)
    flipped = np.packbits(generator.random((50, 256)) < 0.08, axis=1)
    index = constann.build(rows, "hamming", kind="forest")
    ids, distances = index.search(rows[:50] ^ flipped, 1)
    assert (ids[:, 0] == np.arange(50)).mean() > 0.95
    assert distances[0, 0] == np.unpackbits(flipped[0]).sum()


def test_equal_rows_are_split_by_count_and_found() -> None:
    index = constann.build(np.full((1000, 4), 0x5A, np.uint8), "hamming", kind="forest")
    ids, distances = index.search(np.full(4, 0x5A, np.uint8), 1000, effort=10**9)
    assert list(ids[0]) == list(range(1000)) and not distances.any()


def test_stored_vectors_come_back_packed() -> None:
    rows = packed(9, 70)
    np.testing.assert_array_equal(constann.build(rows, "hamming", kind="exact", dim=70).vectors([3, 0]), rows[[3, 0]])
