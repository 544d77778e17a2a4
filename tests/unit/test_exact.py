"""Exact search is right: within the error bound of its arithmetic, ties by row, overflow and padding as documented."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import constann

METRICS = ["cosine", "euclidean"]
# Three kinds of numbers: ordinary, tiny (denormals arise), huge (sums overflow).
SCALES = [1.0, 1e-22, 1e-40, 1e19, 3e38]


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    dim, count = draw(st.integers(1, 200)), draw(st.integers(1, 40))
    scale = draw(st.sampled_from(SCALES))
    elements = st.floats(-1, 1, width=32)
    drawn = draw(hnp.arrays(np.float32, (count + 1, dim), elements=elements, fill=elements))
    scaled = (drawn.astype(np.float64) * scale).astype(np.float32)
    return scaled[0], scaled[1:]


def exact_in_float64(metric: str, query: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances in float64, and how far float32 arithmetic in the lane order may be from them."""
    # Against the rows as stored: rounding them is part of adding, not of searching.
    q, r = (reference.unit(a) if metric == "cosine" else reference.padded(a) for a in (query, rows))
    q, r = q.astype(np.float64), r.astype(np.float64)
    terms = r * q if metric == "cosine" else (r - q) ** 2
    unit_roundoff, dim = 2.0**-24, query.shape[0]
    underflow = dim * 2.0**-149
    bound = (dim / 16 + 8) * unit_roundoff * np.abs(terms).sum(1) + underflow
    total = np.array([math.fsum(row) for row in terms])
    if metric == "cosine":
        return np.maximum(1 - total, 0), bound + 2 * unit_roundoff
    low, high = np.sqrt(np.maximum(total - bound, 0)), np.sqrt(total + bound)
    distance = np.sqrt(total)
    return distance, np.maximum(high - distance, distance - low) + 2 * unit_roundoff * high + 2.0**-149


@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None, max_examples=300)
@given(case=cases())
def test_distances_lie_within_the_error_bound_and_ids_differ_only_inside_it(
    metric: str, case: tuple[np.ndarray, np.ndarray]
) -> None:
    query, rows = case
    k = len(rows)
    ids, found = (a[0] for a in constann.build(rows, metric, kind="exact", threads=1).search(query, k))
    assert sorted(ids) == list(range(k))
    true, bound = exact_in_float64(metric, query, rows)
    largest = float(np.finfo(np.float32).max)
    for position, (row, distance) in enumerate(zip(ids, found, strict=True)):
        if np.isinf(distance):  # overflow is allowed only where the sum of squares really leaves float32
            assert metric == "euclidean" and (true[row] + bound[row]) ** 2 * (1 + 1e-5) >= largest
        else:
            assert abs(float(distance) - true[row]) <= bound[row]
        if position + 1 < k:
            after = ids[position + 1]
            assert true[row] - bound[row] <= true[after] + bound[after] or np.isinf(found[position + 1])


@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None, max_examples=100)
@given(case=cases(), k=st.integers(1, 50))
def test_ids_and_distance_bits_are_those_of_the_reference(
    metric: str, case: tuple[np.ndarray, np.ndarray], k: int
) -> None:
    query, rows = case
    ids, found = constann.build(rows, metric, kind="exact", threads=1).search(query, k)
    expected_ids, expected = reference.nearest(metric, query, rows, k)
    np.testing.assert_array_equal(ids[0], expected_ids)
    np.testing.assert_array_equal(found[0].view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("metric", METRICS)
def test_ties_come_in_the_order_of_rows_also_at_the_cut(metric: str) -> None:
    rows = np.tile(np.eye(4, 7, dtype=np.float32), (50, 1))
    ids, distances = constann.build(rows, metric, kind="exact").search(rows[0], k=30)
    assert list(ids[0]) == list(range(0, 120, 4))
    assert np.all(distances[0] == 0) and not np.signbit(distances).any()


def test_euclidean_order_is_of_the_distance_returned_not_of_its_square() -> None:
    # Two squares one step apart whose roots are the same float32: the smaller row must come first.
    squares = np.array([1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    a = np.sqrt(np.float64(squares[1]))
    rows = np.array([[a, 0], [1, 0]], np.float32)
    rows[0, 1] = np.float32(3e-4)
    ids, distances = constann.build(rows, "euclidean", kind="exact").search(np.zeros(2, np.float32), 2)
    squared = reference.squared_euclidean(np.zeros(2, np.float32), rows)
    assert squared[0] > squared[1] and distances[0, 0] == distances[0, 1]
    assert list(ids[0]) == [0, 1]


def test_rows_at_infinity_come_before_padding() -> None:
    rows = np.full((3, 5), 3e38, np.float32)
    ids, distances = constann.build(rows, "euclidean", kind="exact").search(-rows[0], 5)
    assert list(ids[0]) == [0, 1, 2, -1, -1]
    assert np.isinf(distances).all()


def test_a_zero_vector_is_at_cosine_distance_one_from_all() -> None:
    rows = np.array([[0, 0], [1e-45, 0], [3, 4]], np.float32)
    index = constann.build(rows, "cosine", kind="exact")
    assert list(index.search(np.zeros(2, np.float32), 3)[1][0]) == [1, 1, 1]
    ids, distances = index.search(np.array([1, 0], np.float32), 3)
    assert list(ids[0]) == [1, 2, 0] and distances[0, 0] == 0 and distances[0, 2] == 1


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_answers_as_its_queries_one_by_one(metric: str, vectors: np.ndarray, queries: np.ndarray) -> None:
    index = constann.build(vectors[:300], metric, kind="exact")
    ids, distances = index.search(queries[:37], 7)
    for i in range(37):
        one_ids, one_distances = index.search(queries[i], 7)
        assert (one_ids[0] == ids[i]).all() and (one_distances[0] == distances[i]).all()
