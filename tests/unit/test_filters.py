"""`allowed` and `exclude`: nothing else is returned, nothing allowed is missed, the same on every path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import constann

GENERATOR = np.random.default_rng(11)
ROWS = GENERATOR.standard_normal((3000, 12)).astype(np.float32)
QUERIES = GENERATOR.standard_normal((20, 12)).astype(np.float32)
EXACT = constann.build(ROWS, "euclidean", kind="exact")
FOREST = constann.build(ROWS, "euclidean", kind="forest")


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in zip(found, true, strict=True)]))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-5, 3010), max_size=400), st.lists(st.integers(-5, 3010), max_size=400))
def test_exact_search_returns_the_nearest_of_what_is_left(allowed: list[int], exclude: list[int]) -> None:
    all_ids, all_distances = EXACT.search(QUERIES[0], 3000)
    left = [row for row in all_ids[0] if row in set(allowed) and row not in set(exclude)]
    ids, distances = EXACT.search(QUERIES[0], 10, allowed=allowed, exclude=exclude)
    expected = (left + [-1] * 10)[:10]
    assert ids[0].tolist() == expected
    by_row = dict(zip(all_ids[0], all_distances[0], strict=True))
    assert distances[0].tolist() == [by_row.get(row, np.inf) for row in expected]


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02, 0.001])
def test_recall_is_kept_when_few_rows_are_allowed(share: float) -> None:
    mask = np.random.default_rng(1).random(3000) < share
    true = EXACT.search(QUERIES, 10, allowed=mask)[0]
    found = FOREST.search(QUERIES, 10, allowed=mask)[0]
    assert mask[found[found >= 0]].all()
    assert recall(found, true) >= recall(FOREST.search(QUERIES, 10)[0], EXACT.search(QUERIES, 10)[0]) - 0.02


@pytest.mark.parametrize(
    ("metric", "code_bits"), [("euclidean", 0), ("euclidean", 7), ("cosine", 7), ("hamming", None)]
)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_walk_that_leaves_rows_out_finds_as_much_among_the_others(
    metric: str, code_bits: int | None, share: float
) -> None:
    """So little effort that the trees are walked: with more than the allowed rows, all of these would be scored."""
    count, effort = 20_000, 1_000
    generator = np.random.default_rng(5)
    centres = generator.standard_normal((200, 16))
    points = (centres[generator.integers(0, 200, count + 50)] + generator.standard_normal((count + 50, 16))).astype(
        np.float32
    )
    if metric == "hamming":
        points = np.packbits(points @ generator.standard_normal((16, 128)).astype(np.float32) > 0, axis=1)
    rows, queries = points[:count], points[count:]
    dim = 128 if metric == "hamming" else 16
    forest = constann.Forest(dim, metric, trees=20, code_bits=code_bits)  # type: ignore[arg-type]
    forest.add(rows)
    forest.build(seed=1)
    exact = constann.build(rows, metric, kind="exact")  # type: ignore[arg-type]
    mask = generator.random(count) < share
    assert mask.sum() > 2 * effort
    whole = recall(forest.search(queries, 10, effort)[0], exact.search(queries, 10)[0])
    found, distances = forest.search(queries, 10, effort, allowed=mask)
    assert (found >= 0).all() and mask[found].all()
    assert 0.5 < whole < 0.999, "neither hopeless nor a scan"
    assert recall(found, exact.search(queries, 10, allowed=mask)[0]) >= whole - 0.02
    without, far = forest.search(queries, 10, effort, exclude=np.flatnonzero(~mask))
    assert (without == found).all() and (far == distances).all()


def test_masks_and_ids_say_the_same() -> None:
    mask = np.random.default_rng(2).random(3000) < 0.3
    for index in (EXACT, FOREST, constann.build(ROWS, "euclidean")):
        by_mask, by_ids = (
            index.search(QUERIES, 10, allowed=mask),
            index.search(QUERIES, 10, allowed=np.flatnonzero(mask)),
        )
        without = index.search(QUERIES, 10, exclude=~mask)
        for other in (by_ids, without):
            np.testing.assert_array_equal(by_mask[0], other[0])
            np.testing.assert_array_equal(by_mask[1], other[1])


def test_filters_speak_the_callers_ids() -> None:
    labels = [f"row {i}" for i in range(3000)]
    index = constann.build(ROWS, "euclidean", kind="forest", ids=labels)
    ids, _ = index.search(QUERIES[:2], 4, allowed=["row 5", "row 70", "unknown"])
    assert {*index.labels(ids)[0]} == {"row 5", "row 70", None}
    numbered = constann.build(ROWS, "euclidean", kind="forest", ids=np.arange(3000) * 3)
    assert set(numbered.search(QUERIES[0], 2, allowed=[3, 6, 7])[0][0]) == {3, 6}


def test_nothing_allowed_gives_padding() -> None:
    for index in (EXACT, FOREST):
        for allowed in ([], np.zeros(3000, bool)):
            ids, distances = index.search(QUERIES[0], 3, allowed=allowed)
            assert (ids == -1).all() and np.isinf(distances).all()
        assert (index.search(QUERIES[0], 3, exclude=np.ones(3000, bool))[0] == -1).all()


def test_wrong_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="a row mask has 5 elements for 3000 rows"):
        EXACT.search(QUERIES[0], allowed=np.ones(5, bool))
    with pytest.raises(TypeError, match="allowed must be integers or strings, not float64"):
        EXACT.search(QUERIES[0], allowed=[1.5])
    with pytest.raises(ValueError, match="this index has no string ids"):
        EXACT.search(QUERIES[0], exclude=["a"])
