"""The graph finds true neighbours, on hard sets too, leaves no row unreachable, and says what it does not offer."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import constann

METRICS = ["cosine", "euclidean", "dot"]
NO_NODE = 0xFFFFFFFF


def recall(index: constann.Index, queries: np.ndarray, k: int = 10, **options: object) -> float:
    """Any row counts that lies no farther than the k-th true one."""
    exact = constann.Exact(index.dim, index.metric)  # type: ignore[arg-type]
    exact.add(index.vectors(index.ids))
    exact.build()
    last = exact.search(queries, k)[1][:, -1:]
    return float((index.search(queries, k, **options)[1] <= last).mean())  # type: ignore[arg-type]


def clusters(count: int, of: int, dim: int = 32, spread: float = 0.3, seed: int = 1) -> np.ndarray:
    """Rows around the same centres, whatever the seed."""
    centres = np.random.default_rng(0).standard_normal((of, dim))
    generator = np.random.default_rng(seed)
    return (centres[np.arange(count) % of] + spread * generator.standard_normal((count, dim))).astype(np.float32)


def sections(index: constann.Index) -> dict[str, np.ndarray]:
    return {name: np.frombuffer(content, np.uint8) for name, content in index._contents()}


def reached(links: np.ndarray, start: int = 0) -> int:
    """How many nodes a walk from `start` can come to."""
    seen = np.zeros(len(links), bool)
    seen[start] = True
    front = np.array([start])
    while len(front):
        targets = np.unique(links[front])
        front = targets[(targets != NO_NODE)]
        front = front[~seen[front]]
        seen[front] = True
    return int(seen.sum())


def assert_sound(index: constann.Graph) -> None:
    """Every level is one part: from node 0 to all, and from all to node 0. Every row belongs to one node."""
    parts = sections(index)
    levels = [parts["links"].view(np.uint32).reshape(-1, 32)]
    size, at = index.nodes // 32, len(parts["upper_links"]) // 64
    while size >= 64:
        levels.append(parts["upper_links"].view(np.uint32).reshape(-1, 16)[at - size : at])
        at, size = at - size, size // 32
    assert at == 0
    for links in levels:
        assert reached(links) == len(links)
        back = np.full((len(links), len(links)), NO_NODE, np.uint32) if len(links) <= 3000 else None
        if back is not None:
            source, place = np.nonzero(links != NO_NODE)
            back[links[source, place], source] = source
            assert reached(back) == len(links)
    assert sorted(parts["node_rows"].view(np.uint32)) == list(range(len(index)))


def graph(rows: np.ndarray, metric: str = "euclidean", **options: int) -> constann.Graph:
    index = constann.Graph(rows.shape[1], metric, **options)  # type: ignore[arg-type]
    index.add(rows)
    index.build()
    return index


@pytest.mark.parametrize("metric", METRICS)
def test_recall_grows_with_effort_to_all_of_it(metric: str, vectors: np.ndarray, queries: np.ndarray) -> None:
    index = constann.build(vectors, metric)
    assert isinstance(index, constann.Graph)
    found = [recall(index, queries, effort=effort) for effort in (10, 30, 100, 2000)]
    assert found == sorted(found)
    assert found[0] > 0.8 and found[2] > 0.97 and found[3] == 1
    assert recall(index, queries) > 0.93
    assert_sound(index)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_the_exact_index(metric: str, vectors: np.ndarray, queries: np.ndarray) -> None:
    exact_ids, exact = constann.build(vectors, metric, kind="exact").search(queries, len(vectors))
    ids, distances = constann.build(vectors, metric).search(queries, 10)
    for query in range(len(queries)):
        by_row = dict(zip(exact_ids[query], exact[query], strict=True))
        assert [by_row[row] for row in ids[query]] == list(distances[query])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 17, 100, 1000])
def test_few_rows_are_all_found(metric: str, count: int, vectors: np.ndarray) -> None:
    index = constann.build(vectors[:count, :5], metric)
    ids, distances = index.search(vectors[:3, :5], k=count + 2)
    assert all(sorted(row[:count]) == list(range(count)) for row in ids)
    assert (ids[:, count:] == -1).all() and np.isinf(distances[:, count:]).all()


@pytest.mark.parametrize("code_bits", [0, 4, 7])
@pytest.mark.parametrize("metric", METRICS)
def test_each_width_of_codes_finds_the_neighbours(metric: str, code_bits: int) -> None:
    rows = clusters(6000, 200, dim=24)
    index = graph(rows, metric, code_bits=code_bits)
    assert index.code_bits == code_bits
    assert recall(index, clusters(100, 200, dim=24, seed=2), effort=64) > 0.95
    opened = constann.open(index.to_bytes(), verify=True)
    assert isinstance(opened, constann.Graph) and opened.to_bytes() == index.to_bytes()
    assert_sound(opened)


@pytest.mark.parametrize("metric", METRICS)
def test_a_large_effort_finds_what_codes_put_behind_others(metric: str) -> None:
    """Far from the rows the order of codes says little: untreated, 2 to 3 of 100 were never found."""
    index = graph(clusters(6000, 200, dim=24), metric, code_bits=4)
    queries = np.random.default_rng(13).standard_normal((100, 24)).astype(np.float32)
    assert recall(index, queries, effort=400) > 0.99


def test_rows_of_few_values_become_one_node_each(queries: np.ndarray) -> None:
    """500 distinct rows, 40 times each: untreated, most of them are never reached."""
    distinct = clusters(500, 50)
    rows = np.tile(distinct, (40, 1))
    index = graph(rows)
    assert index.nodes == 500 and len(index) == 20_000
    assert recall(index, distinct[:100], 10) == 1
    ids, _ = index.search(distinct[7], 40)
    assert list(ids[0]) == list(range(7, 20_000, 500))
    ids, _ = index.search(distinct[7], 10, exclude=np.arange(0, 10_000))
    assert list(ids[0]) == list(range(10_007, 15_000, 500))


@pytest.mark.parametrize("metric", METRICS)
def test_many_rows_of_fewer_values_than_neighbours_are_all_told_apart(metric: str) -> None:
    """Three nodes, which are walked: not one neighbour is missing, and of equal rows the first come first."""
    values = np.random.default_rng(11).standard_normal((3, 12)).astype(np.float32)
    rows = values[np.random.default_rng(12).integers(0, 3, 2000)]
    index, exact = graph(rows, metric), constann.build(rows, metric, kind="exact")
    assert index.nodes == 3
    for k in (1, 10, 900, 2000):
        for found, expected in zip(index.search(values, k), exact.search(values, k), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_all_rows_equal_and_zero_rows() -> None:
    for metric in METRICS:
        index = graph(np.full((3000, 7), 0.25, np.float32), metric)
        ids, distances = index.search(np.ones(7), 5)
        assert list(ids[0]) == [0, 1, 2, 3, 4] and len(set(distances[0])) == 1
    rows = clusters(5000, 100)
    rows[::3] = 0
    for metric in METRICS:
        assert recall(graph(rows, metric), clusters(50, 100, seed=3)) > 0.95
    assert (constann.build(np.zeros((50, 3)), "cosine").search(np.ones(3), 5)[1] == 1).all()


@pytest.mark.parametrize("factor", [30, 100])
def test_one_huge_dimension_does_not_hide_the_others(factor: int) -> None:
    rows, queries = clusters(6000, 300), clusters(100, 300, seed=4)
    rows[:, 5] *= factor
    queries[:, 5] *= factor
    index = graph(rows)
    assert recall(index, queries, effort=100) > 0.95


def test_two_huge_rows_do_not_ruin_the_codes_of_the_others() -> None:
    rows = clusters(6000, 300)
    rows[[7, 1000]] *= 1000
    index = graph(rows)
    assert index.code_bits != 0
    assert recall(index, clusters(100, 300, seed=4), effort=64) > 0.95


def test_clusters_far_apart_are_all_entered() -> None:
    generator = np.random.default_rng(5)
    centres = generator.standard_normal((100, 24)) * 100
    rows = (centres[generator.integers(0, 100, 10_000)] + generator.standard_normal((10_000, 24))).astype(np.float32)
    queries = (centres[np.arange(100)] + generator.standard_normal((100, 24))).astype(np.float32)
    for ordered in (rows, rows[np.argsort(rows[:, 0])]):
        index = graph(ordered)
        assert_sound(index)
        assert recall(index, queries, effort=100) > 0.9


def test_sorted_rows_are_found() -> None:
    rows = clusters(6000, 60)
    rows = rows[np.lexsort(rows.T)]
    assert recall(graph(rows), clusters(100, 60, seed=6), effort=64) > 0.95


def test_rows_of_very_different_lengths_are_found_by_dot() -> None:
    """Most short rows are reached from nowhere, and links to them must not take the places of the others."""
    generator = np.random.default_rng(10)
    rows = generator.standard_normal((8000, 32)) * np.exp(generator.standard_normal((8000, 1)))
    index = graph(rows.astype(np.float32), "dot")
    queries = generator.standard_normal((100, 32)).astype(np.float32)
    assert recall(index, queries, effort=20) > 0.95
    assert_sound(index)


@pytest.mark.parametrize("metric", METRICS)
def test_recall_is_kept_when_few_rows_are_allowed(metric: str) -> None:
    rows, queries = clusters(8000, 300, dim=20), clusters(60, 300, dim=20, seed=7)
    index = graph(rows, metric)
    exact = constann.build(rows, metric, kind="exact")
    generator = np.random.default_rng(8)
    for share in (0.9, 0.5, 0.1, 0.01, 0.0005):
        allowed = generator.random(8000) < share
        k = min(10, int(allowed.sum()))
        last = exact.search(queries, k, allowed=allowed)[1][:, -1:]
        ids, distances = index.search(queries, k, allowed=allowed, effort=48)
        assert allowed[ids].all() and (distances <= last).mean() > 0.93
    # Rows that are allowed only far from the query.
    nearest = exact.search(queries[:1], 6000)[0][0]
    expected = exact.search(queries[:1], 10, exclude=nearest)
    got = index.search(queries[:1], 10, exclude=nearest)
    np.testing.assert_array_equal(got[0], expected[0])


def test_as_many_rows_are_found_as_are_asked_for() -> None:
    rows = clusters(3000, 60, dim=6)
    index = graph(rows)
    for k in (1, 50, 2999, 3000):
        ids, _ = index.search(rows[:3], k=k, effort=1)
        assert all(len(set(row)) == k and row.min() >= 0 for row in ids)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-42, 1e-20, 3e38])
def test_tiny_and_huge_rows_can_be_indexed(metric: str, scale: float, vectors: np.ndarray) -> None:
    rows = np.clip(vectors[:700, :20].astype(np.float64) * 10 * scale, -3.4e38, 3.4e38).astype(np.float32)
    index = constann.build(rows, metric)
    ids, _ = index.search(rows[:5], k=700)
    assert all(sorted(row) == list(range(700)) for row in ids)
    assert index.search(rows[:5], k=3, effort=5)[0].min() >= 0


def test_tune_counts_and_changes_nothing() -> None:
    index = graph(clusters(8000, 300))
    queries = clusters(200, 300, seed=9)
    before = index.to_bytes()
    efforts = [index.tune(queries, recall=share) for share in (0.5, 0.9, 1.0)]
    assert efforts == sorted(efforts) and efforts[0] < efforts[2]
    assert recall(index, queries, effort=efforts[1]) >= 0.9
    assert index.to_bytes() == before
    assert index.tune(queries, 0.9, threads=1) == efforts[1] == constann.open(before).tune(queries, 0.9)  # type: ignore[attr-defined]
    assert recall(index, queries, effort=efforts[2]) == 1
    for bad in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="recall must be above 0 and at most 1"):
            index.tune(queries, recall=bad)
    with pytest.raises(ValueError, match="queries hold no rows"):
        index.tune(queries[:0])


def least_effort(index: constann.Graph, queries: np.ndarray, share: float) -> int:
    """What tune answers, by its rule and counts alone: doubled until enough is found, then halved in between."""
    too_little, enough = 0, 1
    while recall(index, queries, effort=enough) < share:
        too_little, enough = enough, 2 * enough
    while enough - too_little > max(enough // 32, 1):
        middle = (too_little + enough) // 2
        if recall(index, queries, effort=middle) >= share:
            enough = middle
        else:
            too_little = middle
    return enough


@pytest.mark.parametrize("metric", METRICS)
def test_tune_is_decided_by_counts_alone(metric: str) -> None:
    index = graph(clusters(5000, 200, dim=16), metric)
    queries = clusters(100, 200, dim=16, seed=9)
    before = index.to_bytes(), index.effort, index.search(queries, 10)[0].tobytes()
    efforts = {index.tune(queries, 0.95, threads=threads) for threads in (1, 2, 5)}
    try:
        for implementation in constann.kernels.available():
            constann.kernels.use(implementation.name)
            efforts.add(index.tune(queries, 0.95))
    finally:
        constann.kernels.use(None)
    assert efforts == {least_effort(index, queries, 0.95)}
    assert (index.to_bytes(), index.effort, index.search(queries, 10)[0].tobytes()) == before


def test_what_a_graph_does_not_offer_is_named() -> None:
    for metric in ("manhattan", "hamming"):
        with pytest.raises(ValueError, match=f"not {metric}: use kind='forest' or kind='exact'"):
            constann.Graph(8, metric)
    with pytest.raises(ValueError, match="code_bits must be 0, 4 or 7, not 5"):
        constann.Graph(3, "cosine", code_bits=5)
    with pytest.raises(ValueError, match="effort must be"):
        constann.Graph(3, "cosine", effort=0)


def test_a_graph_is_what_build_makes_by_default(tmp_path: Path, vectors: np.ndarray) -> None:
    index = constann.build(vectors[:50])
    assert type(index) is constann.Graph
    index.save(tmp_path / "index")
    assert type(constann.open(tmp_path / "index")) is constann.Graph


def test_another_seed_gives_another_index_and_the_default_effort_is_stored(vectors: np.ndarray) -> None:
    one, two = (constann.build(vectors, seed=seed) for seed in (0, 2**64 - 1))
    assert one.fingerprint != two.fingerprint and two.seed == 2**64 - 1
    assert isinstance(one, constann.Graph) and one.effort >= 16
    given = graph(vectors, effort=77)
    assert given.effort == 77 == constann.open(given.to_bytes()).effort  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None)
@given(
    rows=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 300), st.integers(1, 9)),
        elements=st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e30, -3e38, 1e-45]),
    ),
    metric=st.sampled_from(METRICS),
    threads=st.integers(1, 3),
)
def test_any_rows_make_a_sound_index_whatever_the_threads(rows: np.ndarray, metric: str, threads: int) -> None:
    index = constann.build(rows, metric, threads=threads)
    assert isinstance(index, constann.Graph)
    assert_sound(index)
    assert index.fingerprint == constann.build(rows, metric, threads=1).fingerprint
    k = min(3, len(rows))
    ids, distances = index.search(rows[:4], k)
    assert all(len(set(row)) == k and row.min() >= 0 for row in ids)
    assert (distances[:, 1:] >= distances[:, :-1]).all()
