"""The forest finds true neighbours, keeps the shape of Annoy's trees, and survives rows that no plane can part."""

import numpy as np
import pytest

import constann

METRICS = ["cosine", "euclidean", "manhattan", "dot"]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)]))


def sections(index: constann.Forest) -> dict[str, np.ndarray]:
    types = {
        "split_offsets": np.float32,
        "split_planes": np.float32,
        "rows": np.float32,
        "leaf_bounds": np.uint64,
    }
    return {name: np.frombuffer(content, types.get(name, np.uint32)) for name, content in index._contents()}


@pytest.mark.parametrize("metric", METRICS)
def test_recall_grows_with_effort_to_all_of_it(metric: str, vectors: np.ndarray, queries: np.ndarray) -> None:
    true, _ = constann.build(vectors, metric, kind="exact").search(queries, 10)
    forest = constann.build(vectors, metric, kind="forest")
    found = [recall(forest.search(queries, 10, effort=effort)[0], true) for effort in (300, 1000, 3000, 60_000)]
    assert found == sorted(found)
    assert found[0] > 0.3 and found[2] > 0.9 and found[3] >= 0.999


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_the_exact_index(metric: str, vectors: np.ndarray, queries: np.ndarray) -> None:
    exact_ids, exact = constann.build(vectors, metric, kind="exact").search(queries, len(vectors))
    ids, distances = constann.build(vectors, metric, kind="forest").search(queries, 10)
    for query in range(len(queries)):
        by_row = dict(zip(exact_ids[query], exact[query], strict=True))
        assert [by_row[row] for row in ids[query]] == list(distances[query])


@pytest.mark.parametrize("metric", METRICS)
def test_trees_can_be_written_as_annoys_nodes(metric: str, vectors: np.ndarray) -> None:
    """Every row once in each tree, leaves of at most K = dim + 2 rows, splits of more, children after parents."""
    index = constann.Forest(8, metric, trees=5, code_bits=0)
    index.add(vectors[:, :8])
    index.build()
    parts = sections(index)
    children, bounds = parts["split_children"].reshape(-1, 2), parts["leaf_bounds"]
    leaf_bit = np.uint32(0x80000000)

    def rows_below(node: np.uint32) -> list[int]:
        if node & leaf_bit:
            leaf = int(node & ~leaf_bit)
            rows = parts["leaf_rows"][int(bounds[leaf]) : int(bounds[leaf + 1])]
            assert 1 <= len(rows) <= index.leaf_capacity == (11 if metric == "dot" else 10)
            return list(rows)
        for child in children[node]:
            assert child & leaf_bit or child > node
        rows = [row for child in children[node] for row in rows_below(child)]
        assert len(rows) > index.leaf_capacity
        return rows

    assert len(parts["tree_roots"]) == 5
    for root in parts["tree_roots"]:
        assert sorted(rows_below(root)) == list(range(len(vectors)))
    assert (parts["split_offsets"] == 0).all() == (metric in ("cosine", "dot"))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 17, 100])
def test_few_rows_are_all_found(metric: str, count: int, vectors: np.ndarray) -> None:
    index = constann.build(vectors[:count, :5], metric, kind="forest")
    ids, distances = index.search(vectors[:3, :5], k=count + 2)
    assert all(sorted(row[:count]) == list(range(count)) for row in ids)
    assert (ids[:, count:] == -1).all() and np.isinf(distances[:, count:]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_are_split_by_count_and_found(metric: str) -> None:
    rows = np.tile(np.array([[1, 2, 3]], np.float32), (1000, 1))
    index = constann.build(rows, metric, kind="forest")
    ids, distances = index.search(rows[0], k=1000, effort=10**9)
    assert list(ids[0]) == list(range(1000))
    assert len(set(distances[0])) == 1 and (metric == "dot" or distances.max() < 1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-42, 3e38])
def test_tiny_and_huge_rows_can_be_indexed(metric: str, scale: float, vectors: np.ndarray) -> None:
    rows = np.clip(vectors[:500, :20].astype(np.float64) * scale, -3.4e38, 3.4e38).astype(np.float32)
    ids, _ = constann.build(rows, metric, kind="forest").search(rows[:5], k=500, effort=10**9)
    assert all(sorted(row) == list(range(500)) for row in ids)


def test_another_seed_gives_another_index_and_is_kept(vectors: np.ndarray) -> None:
    one, two = (constann.build(vectors, kind="forest", seed=seed) for seed in (0, 2**64 - 1))
    assert one.fingerprint != two.fingerprint
    assert two.seed == 2**64 - 1


def test_defaults_are_settled_when_the_index_is_made() -> None:
    forest = constann.Forest(10, "cosine")
    assert (forest.trees, forest.leaf_capacity) == (32, 12)
    assert forest.effort == 32 * 100
    large = constann.Forest(384, "cosine", trees=10)
    assert (large.leaf_capacity, large.effort) == (256, 10 * 256)


def test_as_many_rows_are_found_as_are_asked_for(vectors: np.ndarray) -> None:
    """However small the effort, and although the trees offer the same rows again and again."""
    index = constann.build(vectors[:, :6], kind="forest")
    for k in (1, 50, 1999, 2000):
        ids, _ = index.search(vectors[:3, :6], k=k, effort=1)
        assert all(len(set(row)) == k and row.min() >= 0 for row in ids)


def test_codes_are_chosen_where_they_serve_and_change_hardly_an_answer(
    vectors: np.ndarray, queries: np.ndarray
) -> None:
    for metric in METRICS:
        index = constann.build(vectors, metric, kind="forest")
        assert isinstance(index, constann.Forest) and index.code_bits == 7
        plain = constann.Forest(384, metric, code_bits=0)
        plain.add(vectors)
        plain.build()
        assert plain.code_bits == 0
        with_codes, without = (each.search(queries, 10, effort=1500)[0] for each in (index, plain))
        true = constann.build(vectors, metric, kind="exact").search(queries, 10)[0]
        assert recall(with_codes, true) > recall(without, true) - 0.01


def test_codes_that_cannot_tell_rows_apart_are_left_out() -> None:
    """Tight clusters far from each other: within one, all rows have the same codes."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((20, 16)) * 1000
    rows = (centres[np.arange(4000) % 20] + generator.standard_normal((4000, 16)) * 1e-3).astype(np.float32)
    index = constann.build(rows, "euclidean", kind="forest")
    assert isinstance(index, constann.Forest) and index.code_bits == 0
    assert recall(index.search(rows[:50], 10)[0], constann.build(rows, "euclidean", "exact").search(rows[:50])[0]) > 0.9


def test_a_few_huge_rows_do_not_ruin_the_codes_of_the_others(vectors: np.ndarray, queries: np.ndarray) -> None:
    rows = vectors.copy()
    rows[[7, 1000]] *= 1000
    index = constann.build(rows, "euclidean", kind="forest")
    true = constann.build(rows, "euclidean", kind="exact").search(queries, 10)[0]
    assert isinstance(index, constann.Forest) and index.code_bits == 7
    assert recall(index.search(queries, 10)[0], true) > 0.95


def test_code_bits_are_0_or_7_and_not_for_hamming() -> None:
    with pytest.raises(ValueError, match="code_bits must be 0 or 7, not 8"):
        constann.Forest(3, "cosine", code_bits=8)
    with pytest.raises(ValueError, match="hamming compares bits already"):
        constann.Forest(64, "hamming", code_bits=7)


def test_writing_down_codes_heeds_a_stop() -> None:
    """After the last tree."""
    index = constann.Forest(16, "euclidean", trees=2)
    index.add(np.random.default_rng(0).standard_normal((3000, 16)))
    told: list[int] = []

    def stop(done: int, total: int) -> None:
        told.append(done)
        if told.count(total) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.build(progress=stop)
    assert not index.built and told[-2:] == [2, 2]
    index.build()
    assert index.code_bits == 7
