"""Graphs have the bytes and give the answers that the reference, which knows nothing of constann, says of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference_codes
import reference_file
import reference_graph
import reference_links
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import constann

METRICS = list(reference_graph.METRICS)
EFFORTS = (None, 1, 7, 40, 10**9)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return generator(seed).standard_normal((rows, dim)).astype(np.float32)


def duplicates() -> np.ndarray:
    return np.tile(normal(40, 5), (8, 1))


def zero_rows() -> np.ndarray:
    rows = normal(200, 9)
    rows[::3] = 0
    rows[1] = -0.0
    return rows


def outlier_dimension() -> np.ndarray:
    rows = normal(300, 24)
    rows[:, 5] *= 20
    return rows


def far_clusters() -> np.ndarray:
    """Too far apart for links to lead from one to the next, unless these are mended."""
    centres = normal(12, 8, seed=1) * 1000
    return centres[np.arange(250) % 12] + normal(250, 8)


def huge_rows() -> np.ndarray:
    rows = normal(120, 16)
    rows[[3, 50]] *= 1e38
    return rows


SETS: dict[str, Callable[[], np.ndarray]] = {
    "ordinary": lambda: normal(300, 20),
    "duplicates": duplicates,
    "zero rows": zero_rows,
    "outlier dimension": outlier_dimension,
    "far clusters": far_clusters,
    "huge rows": huge_rows,
    "sorted": lambda: np.sort(normal(200, 3), axis=0),
}


def both(rows: np.ndarray, metric: str, seed: int = 0, **options: Any) -> tuple[constann.Graph, reference_graph.Graph]:
    index = constann.Graph(rows.shape[1], metric, **options)  # type: ignore[arg-type]
    index.add(rows)
    index.build(threads=2, seed=seed)
    return index, reference_graph.build(metric, rows, seed, **options)


def assert_same_answers(
    index: constann.Index, graph: reference_graph.Graph, queries: np.ndarray, allowed: np.ndarray | None = None
) -> None:
    for effort in EFFORTS:
        for k in (1, 10, 30):
            ids, distances = index.search(queries, k, effort=effort, allowed=allowed)
            expected = graph.search(queries, k, effort, allowed)
            np.testing.assert_array_equal(ids, expected[0])
            assert distances.tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("code_bits", [None, 0, 4, 7])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", SETS)
def test_bytes_and_answers_are_those_of_the_reference(name: str, metric: str, code_bits: int | None) -> None:
    rows = SETS[name]()
    index, graph = both(rows, metric, seed=3, code_bits=code_bits)
    assert index.to_bytes() == graph.file()
    assert_same_answers(index, graph, rows[:4] * np.float32(0.9))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 17, 63, 64, 65])
def test_few_rows_are_those_of_the_reference(metric: str, count: int) -> None:
    index, graph = both(normal(count, 6, seed=count), metric, seed=2**64 - 1)
    assert index.to_bytes() == graph.file()
    assert_same_answers(index, graph, normal(3, 6, seed=1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129])
def test_every_width_of_rows_is_that_of_the_reference(dim: int, metric: str) -> None:
    for code_bits in (4, 7):
        index, graph = both(normal(60, dim, seed=dim), metric, code_bits=code_bits)
        assert index.to_bytes() == graph.file()
        assert_same_answers(index, graph, normal(2, dim, seed=1))


@pytest.mark.parametrize("metric", METRICS)
def test_filtered_answers_are_those_of_the_reference(metric: str) -> None:
    for rows in (normal(400, 12), duplicates()):
        index, graph = both(rows, metric)
        for share in (0.95, 0.5, 0.1, 0.01, 0):
            allowed = generator(4).random(len(rows)) < share
            assert_same_answers(index, graph, rows[:3] + np.float32(0.1), allowed)
        few = generator(5).choice(len(rows), 100, replace=False)
        ids, _ = index.search(rows[:3], 8, effort=5, exclude=few)
        np.testing.assert_array_equal(ids, graph.search(rows[:3], 8, 5, ~np.isin(np.arange(len(rows)), few))[0])


@pytest.mark.parametrize("metric", METRICS)
def test_ids_are_written_and_returned(metric: str) -> None:
    rows = normal(90, 6)
    numbers, names = [7 * row - 50 for row in range(90)], [f"row {89 - row}" for row in range(90)]
    graph = reference_graph.build(metric, rows, 0)
    for ids in (numbers, names):
        index = constann.build(rows, metric, ids=ids)
        assert index.to_bytes() == graph.file(ids)
    expected = np.array(numbers)[graph.search(rows[:5], 4, 3)[0]]
    np.testing.assert_array_equal(constann.build(rows, metric, ids=numbers).search(rows[:5], 4, effort=3)[0], expected)


@pytest.mark.parametrize(("parameters", "sections"), [([(15, 0)], []), ([], [(36, b"1234")])])
def test_what_is_reserved_for_changes_after_a_build_is_refused_by_this_version(
    parameters: list[tuple[int, int]], sections: list[tuple[int, bytes]]
) -> None:
    graph = reference_graph.build("cosine", normal(20, 5), 0)
    contents = [(reference_file.ROWS, graph.rows.tobytes()), *graph.sections(), *sections]
    file = reference_file.index_file("graph", "cosine", 5, 20, 0, graph.parameters() + parameters, contents)
    with pytest.raises(constann.FileFormatError, match=r"its (parameters|sections) are not those of its kind"):
        constann.open(file)


@pytest.mark.parametrize("metric", METRICS)
def test_upper_levels_are_those_of_the_reference(metric: str) -> None:
    rows = normal(2200, 10)
    index, graph = both(rows, metric)
    assert len(graph.links.upper) == 1 and len(graph.links.upper[0]) == 2200 // reference_links.UPPER_SHARE
    assert index.to_bytes() == graph.file()
    assert_same_answers(index, graph, normal(5, 10, seed=1))


@pytest.mark.parametrize("rule", ["UPPER_POOL", "distances_cover"])
def test_another_rule_of_upper_levels_makes_other_bytes(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are those of the reference, by the test before."""
    rows = normal(2200, 10)
    index = constann.Graph(10, "euclidean", effort=10)
    index.add(rows)
    index.build(threads=1)
    if rule == "distances_cover":
        plain = reference_graph.distances_cover
        monkeypatch.setattr(reference_graph, rule, lambda between, distance, upper: plain(between, distance, False))
    else:
        monkeypatch.setattr(reference_links, rule, getattr(reference_links, rule) // 16)
    assert index.to_bytes() != reference_graph.build("euclidean", rows, 0, effort=10).file()


def test_as_many_first_nodes_are_looked_at_as_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    index, graph = both(normal(2200, 60), "euclidean", effort=10)
    queries = normal(150, 60, seed=5)
    for effort, bound, other in ((10, "LEAST_FIRST", 2), (20, "MOST_FIRST", 16), (30, "MOST_FIRST", 16)):
        ids, _ = index.search(queries, 10, effort=effort)
        np.testing.assert_array_equal(ids, graph.search(queries, 10, effort)[0])
        with monkeypatch.context() as patched:
            patched.setattr(reference_links, bound, other)
            assert (graph.search(queries, 10, effort)[0] != ids).any(), "control: other first nodes answer otherwise"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_as_many_rows_are_compared_exactly_as_by_the_reference(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For queries far from the rows, of which the codes' order says less than the trial found."""
    rows = (normal(40, 24, seed=7)[np.arange(1300) % 40] + 0.3 * normal(1300, 24)).astype(np.float32)
    index, graph = both(rows, metric, code_bits=4)
    queries, effort = normal(20, 24, seed=1), 160
    assert graph.form.rerank < effort // reference_graph.RERANKED
    ids = index.search(queries, 10, effort=effort)[0]
    np.testing.assert_array_equal(ids, graph.search(queries, 10, effort)[0])
    monkeypatch.setattr(reference_graph, "RERANKED", effort)
    assert (ids != graph.search(queries, 10, effort)[0]).any()


@settings(max_examples=40, deadline=None)
@given(
    rows=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 70), st.integers(1, 9)),
        elements=st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e30, -3e38, 3e38, 1e-45]),
    ),
    metric=st.sampled_from(METRICS),
    code_bits=st.sampled_from([None, 0, 4, 7]),
    seed=st.integers(0, 2**64 - 1),
    k=st.integers(1, 9),
    effort=st.integers(1, 12),
)
def test_any_rows_make_what_the_reference_makes(
    rows: np.ndarray, metric: str, code_bits: int | None, seed: int, k: int, effort: int
) -> None:
    index, graph = both(rows, metric, seed, code_bits=code_bits)
    assert index.to_bytes() == graph.file()
    ids, distances = index.search(rows[:3], k, effort=effort)
    expected = graph.search(rows[:3], k, effort)
    np.testing.assert_array_equal(ids, expected[0])
    assert distances.tobytes() == expected[1].tobytes()


# What is changed in the reference must show, or the tests above would prove nothing of it.
RULES: list[tuple[Any, str, Any, str, str]] = [
    (reference_links, "LINKS", 31, "ordinary", "euclidean"),
    (reference_links, "ROOM", 41, "ordinary", "dot"),
    (reference_links, "POOL", 71, "ordinary", "euclidean"),
    (reference_links, "LARGEST_BATCH", 30, "ordinary", "euclidean"),
    (reference_links.Joiner, "join", lambda self: None, "sorted", "dot"),
    (reference_links, "FILLED", 17, "ordinary", "dot"),
    (reference_graph, "NEARER", 8, "ordinary", "euclidean"),
    (reference_graph, "TRIAL_STREAM", 1, "ordinary", "dot"),
    (reference_graph, "TRIAL_QUERIES", 16, "ordinary", "euclidean"),
    (reference_graph, "LOST_AT_MOST", 20, "ordinary", "euclidean"),
    (reference_graph, "FOUND", 900, "outlier dimension", "cosine"),
    (reference_graph, "ORDER_STREAM", 0, "ordinary", "euclidean"),
    (reference_graph, "ROTATION_STREAM", 0, "outlier dimension", "euclidean"),
    (reference_codes, "CLIPPED_SHARE", 100, "ordinary", "euclidean"),
]


@pytest.mark.parametrize(("of", "rule", "other", "name", "metric"), RULES, ids=[each[1] for each in RULES])
def test_another_rule_makes_other_bytes(
    of: Any, rule: str, other: Any, name: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = SETS[name]()
    index, graph = both(rows, metric, seed=3)
    assert index.to_bytes() == graph.file()
    monkeypatch.setattr(of, rule, other)
    assert index.to_bytes() != reference_graph.build(metric, rows, 3).file()
