"""The drop-in has Annoy's surface, its answers do not depend on threads, and Annoy's traps are errors or work."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import constann
import constann.annoy
from constann.annoy import AnnoyIndex

METRICS = ["angular", "euclidean", "manhattan", "dot", "hamming"]


def filled(metric: str = "angular", f: int = 12, items: int = 300, seed: int = 0) -> AnnoyIndex:
    generator = np.random.default_rng(seed)
    index = AnnoyIndex(f, metric)
    rows = generator.integers(0, 2, (items, f)) if metric == "hamming" else generator.standard_normal((items, f))
    for item, row in enumerate(rows.astype(np.float32).tolist()):
        index.add_item(item, row)
    return index


def built(metric: str = "angular", f: int = 12, items: int = 300, trees: int = 5) -> AnnoyIndex:
    index = filled(metric, f, items)
    index.build(trees)
    return index


def test_the_program_of_annoys_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, save for the import."""
    monkeypatch.chdir(tmp_path)
    f = 40
    t = AnnoyIndex(f, "angular")
    for i in range(1000):
        v = [random.gauss(0, 1) for z in range(f)]
        t.add_item(i, v)
    t.build(10)
    t.save("test.ann")
    u = AnnoyIndex(f, "angular")
    u.load("test.ann")
    found = u.get_nns_by_item(0, 1000)
    assert found[0] == 0 and sorted(found) == list(range(1000))


@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_the_same_before_saving_after_loading_and_from_a_pickle(metric: str, tmp_path: Path) -> None:
    index = built(metric)
    expected = [index.get_nns_by_item(i, 10, include_distances=True) for i in range(20)]
    index.save(str(tmp_path / "a.ann"))
    loaded = AnnoyIndex(12, metric)
    loaded.load(str(tmp_path / "a.ann"), prefault=True)
    for other in (index, loaded, pickle.loads(pickle.dumps(loaded))):
        assert [other.get_nns_by_item(i, 10, include_distances=True) for i in range(20)] == expected
        assert (other.get_n_items(), other.get_n_trees(), other.f) == (300, 5, 12)


@pytest.mark.parametrize("metric", METRICS)
def test_the_file_does_not_depend_on_n_jobs(metric: str, tmp_path: Path) -> None:
    files = set()
    for jobs in (1, 2, 5, -1):
        index = filled(metric)
        index.build(6, n_jobs=jobs)
        index.save(str(tmp_path / "a.ann"))
        files.add((tmp_path / "a.ann").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_annoys(metric: str) -> None:
    index = built(metric)
    one, other = (np.array(index.get_item_vector(i)) for i in (3, 4))
    expected = {
        "angular": np.sqrt(2 - 2 * (one @ other) / np.sqrt((one @ one) * (other @ other))),
        "euclidean": np.sqrt(((one - other) ** 2).sum()),
        "manhattan": np.abs(one - other).sum(),
        "dot": one @ other,
        "hamming": (one != other).sum(),
    }[metric]
    assert index.get_distance(3, 4) == pytest.approx(expected, rel=1e-5)
    ids, distances = index.get_nns_by_item(3, 300, search_k=10**6, include_distances=True)
    assert distances[ids.index(4)] == index.get_distance(3, 4)
    assert distances == sorted(distances, reverse=metric == "dot")


def test_a_constann_file_opens_as_well(tmp_path: Path) -> None:
    for metric in METRICS:
        index = built(metric)
        nodes = index.get_nns_by_item(5, 10, search_k=10**6)
        distance = index.get_distance(5, 6)
        index.save(str(tmp_path / "a.constann"))
        assert isinstance(constann.open(tmp_path / "a.constann", verify=True), constann.Forest)
        assert index.get_nns_by_item(5, 10, search_k=10**6) == nodes
        assert index.get_distance(5, 6) == pytest.approx(distance, rel=1e-5)
        index.save(str(tmp_path / "back.ann"))
        assert index.get_nns_by_item(5, 10, search_k=10**6) == nodes


def test_return_types_are_annoys() -> None:
    index = built()
    assert index.get_nns_by_item(0, 3, -1, False).__class__ is list
    pair = index.get_nns_by_vector([1.0] * 12, 3, search_k=100, include_distances=True)
    assert isinstance(pair, tuple) and type(pair[0][0]) is int and type(pair[1][0]) is float
    assert type(index.get_item_vector(0)) is list and type(index.get_distance(0, 1)) is float
    assert index.build.__name__ and index.verbose(True) is True and index.verbose(False) is True
    assert index.unload() is True and index.get_n_items() == 0
    assert index.get_nns_by_vector(np.ones(12), 3) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.get_nns_by_item(-1, 1), IndexError, "can not be negative"),
        (lambda i: i.get_nns_by_item(300, 1), IndexError, "larger than the largest item"),
        (lambda i: i.get_item_vector(300), IndexError, "larger than the largest item"),
        (lambda i: i.get_distance(0, 300), IndexError, "larger than the largest item"),
        (lambda i: i.get_nns_by_vector([1.0], 1), IndexError, r"wrong length \(expected 12, got 1\)"),
        (lambda i: i.get_nns_by_vector(["a"] * 12, 1), TypeError, "must be real number"),
        (lambda i: i.get_nns_by_vector(5, 1), TypeError, "has no len"),
        (lambda i: i.get_nns_by_vector([float("nan")] * 12, 1), ValueError, "element 0 of the vector is NaN"),
        (lambda i: i.add_item(5, [0.0] * 12), Exception, "can't add an item to a built index"),
        (lambda i: i.build(3), Exception, "can't build a built index"),
        (lambda i: i.load("nowhere.ann"), OSError, "No such file"),
        (lambda i: i.save("/nowhere/a.ann"), OSError, "No such file"),
        (lambda i: AnnoyIndex(3, "cosinus"), ValueError, "No such metric"),
        (lambda i: AnnoyIndex(3, "angular").save("x.ann"), OSError, "hasn't been built"),
        (lambda i: AnnoyIndex(3, "angular").add_item(-1, [0, 0, 0]), IndexError, "can not be negative"),
        (
            lambda i: AnnoyIndex(3, "angular").add_item(0, [0, 1e39, 0]),
            ValueError,
            "element 1 .* too large for float32",
        ),
        (lambda i: pickle.dumps(AnnoyIndex(3, "dot")), ValueError, r"call build\(\) first"),
    ],
)
def test_errors_are_of_annoys_types(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(built())  # type: ignore[operator]


def test_a_missing_metric_warns_as_annoy_does() -> None:
    with pytest.warns(FutureWarning, match="default argument for metric"):
        assert AnnoyIndex(3).f == 3


def test_a_loaded_index_takes_no_items(tmp_path: Path) -> None:
    index = built()
    index.save(str(tmp_path / "a.ann"))
    for attempt in (lambda: index.add_item(0, [0.0] * 12), lambda: index.build(1), index.unbuild):
        with pytest.raises(Exception, match="loaded index"):
            attempt()


def test_unbuild_lets_items_be_added_again() -> None:
    index = built(items=50)
    index.unbuild()
    index.add_item(50, [1.0] * 12)
    index.build(3)
    assert sorted(index.get_nns_by_item(50, 100, search_k=1000)) == list(range(51))


def test_holes_are_no_items(tmp_path: Path) -> None:
    for count in (2, 40):
        index = AnnoyIndex(3, "euclidean")
        for item in range(count):
            index.add_item(item * 10, [item, 0, 1])
        index.build(4)
        index.save(str(tmp_path / "a.ann"))
        assert index.get_n_items() == (count - 1) * 10 + 1 and index.get_n_trees() == 4
        assert index.get_nns_by_item(10, count, search_k=10**6) == sorted(
            (item * 10 for item in range(count)), key=lambda item: (abs(item - 10), item)
        )
        with pytest.raises(IndexError, match="Item 3 was never added"):
            index.get_nns_by_item(3, 1)
        with pytest.raises(IndexError, match="Item 3 was never added"):
            index.get_item_vector(3)


def test_roots_of_tiny_files_are_all_found(tmp_path: Path) -> None:
    for items in (1, 2, 3):
        index = built(f=4, items=items, trees=9)
        index.save(str(tmp_path / "a.ann"))
        assert (index.get_n_items(), index.get_n_trees()) == (items, 9)
        assert sorted(index.get_nns_by_item(0, 10)) == list(range(items))


def test_n_trees_of_minus_one_builds_up_to_twice_the_items() -> None:
    index = built(f=5, items=500, trees=-1)
    nodes = len(index._nodes.bytes()) // (12 + 5 * 4) - index.get_n_trees()
    assert 1000 <= nodes < 1000 + 500


def test_seeds_beyond_31_bits_count() -> None:
    files = set()
    for seed in (1, 2**31 + 1, 2**32 + 1, 2**64 - 1):
        index = filled()
        index.set_seed(seed)
        index.build(3)
        files.add(bytes(index._nodes.bytes()))
    assert len(files) == 4


def test_building_on_disk_leaves_the_same_file(tmp_path: Path) -> None:
    index = AnnoyIndex(12, "angular")
    index.on_disk_build(str(tmp_path / "disk.ann"))
    other = filled()
    for item in range(300):
        index.add_item(item, other.get_item_vector(item))
    index.build(5)
    built().save(str(tmp_path / "memory.ann"))
    assert (tmp_path / "disk.ann").read_bytes() == (tmp_path / "memory.ann").read_bytes()
    with pytest.raises(OSError, match="No such file"):
        index.on_disk_build("/nowhere/a.ann")


def test_saving_over_a_loaded_file_leaves_the_loaded_one_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ann")
    built(items=300).save(path)
    reader = AnnoyIndex(12, "angular")
    reader.load(path)
    before = reader.get_nns_by_item(0, 20)
    built(items=20).save(path)
    assert reader.get_nns_by_item(0, 20) == before


def test_a_file_of_another_f_or_metric_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ann")
    built("angular", 12).save(path)
    for f, metric in ((13, "angular"), (11, "angular"), (12, "euclidean"), (12, "hamming"), (3, "angular")):
        with pytest.raises(OSError, match=r"a\.ann: "):
            AnnoyIndex(f, metric).load(path)
    built("angular", 12).save(str(tmp_path / "a.constann"))
    with pytest.raises(OSError, match="it has f 12 and metric cosine"):
        AnnoyIndex(13, "angular").load(str(tmp_path / "a.constann"))


def test_string_and_negative_ids_are_no_items(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 4))
    with pytest.raises(ValueError, match="ids are strings"):
        constann.annoy.write(constann.build(rows, kind="forest", ids=["a", "b", "c"]), tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="id -4 cannot be an item of Annoy"):
        constann.annoy.write(constann.build(rows, kind="forest", ids=[1, -4, 2]), tmp_path / "a")  # type: ignore[arg-type]


DAMAGEABLE = {metric: bytes(built(metric, 5, 60, 3)._nodes.bytes()) for metric in METRICS}


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_files_end_in_answers_or_errors(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Flips, cuts at any place or at nodes, and splices."""
    metric = data.draw(st.sampled_from(METRICS))
    content = bytearray(DAMAGEABLE[metric])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    size = {"angular": 32, "hamming": 24}.get(metric, 36)
    cut = data.draw(st.sampled_from([len(content), data.draw(st.integers(0, len(content) // size)) * size]))
    path = tmp_path_factory.mktemp("damaged") / "a.ann"
    path.write_bytes(content[:cut])
    index = AnnoyIndex(5, metric)
    try:
        index.load(str(path))
        for query in ([0.5, -1, 2, 0, 1], [0.0] * 5):
            index.get_nns_by_vector(query, 10, search_k=10**6)
        index.get_nns_by_item(0, 5)
        index.save(str(path.with_suffix(".constann")))
    except (OSError, IndexError, ValueError):
        pass
