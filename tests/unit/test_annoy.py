"""The drop-in has Annoy's surface, its answers do not depend on threads, and Annoy's traps are errors or work."""

import contextlib
import ctypes
import inspect
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
    with pytest.raises(IsADirectoryError, match="a folder is there"):
        index.on_disk_build(str(tmp_path))


def test_building_on_disk_leaves_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.ann").write_bytes(b"old")
    index = filled()
    index.on_disk_build(str(tmp_path / "a.ann"))
    assert (tmp_path / "a.ann").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.ann"]
    index.build(5)
    assert (tmp_path / "a.ann").read_bytes() == bytes(index._nodes.bytes()) and os.listdir(tmp_path) == ["a.ann"]


KILLED = """
import sys, numpy as np
from constann.annoy import AnnoyIndex
rows = np.random.default_rng(0).standard_normal((3000, 20)).astype("f4").tolist()
print("ready", flush=True)
while True:
    index = AnnoyIndex(20, "euclidean")
    index.on_disk_build(sys.argv[1])
    for item, row in enumerate(rows):
        index.add_item(item, row)
    index.build(4)
"""


@pytest.mark.slow
def test_killed_while_building_on_disk_it_leaves_the_old_file_or_the_whole_new_one(tmp_path: Path) -> None:
    """At 50 moments."""
    path = tmp_path / "a.ann"
    expected = AnnoyIndex(20, "euclidean")
    for item, row in enumerate(np.random.default_rng(0).standard_normal((3000, 20)).astype("f4").tolist()):
        expected.add_item(item, row)
    expected.build(4)
    allowed, seen = {b"old", bytes(expected._nodes.bytes())}, set()
    for moment in np.random.default_rng(8).uniform(0, 0.3, 50):
        path.write_bytes(b"old")
        child = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        threading.Event().wait(moment)
        child.kill()
        child.wait()
        child.stdout.close()
        seen.add(path.read_bytes())
        assert seen <= allowed
    assert seen == allowed


def test_other_threads_may_call_anything_while_it_is_built() -> None:
    """They are refused or answered; nothing crashes."""
    index = filled("euclidean", 12, 3000)
    calls: list[Callable[[], object]] = [
        lambda: index.get_item_vector(5),
        lambda: index.get_distance(5, 6),
        lambda: index.get_nns_by_item(5, 3),
        lambda: index.get_nns_by_vector([1.0] * 12, 3),
        lambda: index.add_item(0, [1.0] * 12),
        lambda: index.build(2),
        index.get_n_items,
        index.get_n_trees,
        index.unbuild,
    ]
    refused: list[str] = []
    done = threading.Event()

    def call_all() -> None:
        while not index._building and not done.is_set():
            threading.Event().wait(1e-4)
        while not done.is_set():
            for call in calls:
                try:
                    call()
                except Exception as error:
                    refused.append(str(error))

    for _ in range(5):
        done.clear()
        thread = threading.Thread(target=call_all)
        thread.start()
        index.build(100, n_jobs=1)
        done.set()
        thread.join()
        with contextlib.suppress(Exception):  # the other thread may have been first
            index.unbuild()
    assert any("being changed by another call" in text for text in refused)
    assert any("can't unbuild an index while it is built" in text for text in refused)


def test_bytes_that_are_being_written_are_not_changed_meanwhile() -> None:
    index = built()
    content = index._nodes.bytes()
    before = bytes(content)
    with pytest.raises(ValueError, match="being read by another call"):
        index.unbuild()
    assert bytes(content) == before
    del content
    index.unbuild()


@pytest.mark.parametrize("suffix", ["ann", "constann"])
@pytest.mark.parametrize("n", [2**31 - 1, 2**62])
def test_more_neighbours_than_items_cost_no_memory(suffix: str, n: int, tmp_path: Path) -> None:
    index = built()
    index.save(str(tmp_path / f"a.{suffix}"))
    assert sorted(index.get_nns_by_item(0, n)) == list(range(300))
    assert sorted(index.get_nns_by_vector([1.0] * 12, n)) == list(range(300))
    assert index.get_nns_by_item(0, 0) == [] == index.get_nns_by_item(0, -5)


@pytest.mark.parametrize("ids", [None, [7, 900, 3], [5, 6, 12]])
def test_the_number_of_items_of_a_constann_file_is_its_greatest_id_plus_one(
    ids: list[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without looking at all ids, for each query."""
    constann.build(np.eye(3), kind="forest", ids=ids).save(tmp_path / "a.constann")
    index = AnnoyIndex(3, "angular")
    index.load(str(tmp_path / "a.constann"))
    monkeypatch.setattr(constann.Forest, "ids", property(lambda self: pytest.fail("all ids were listed")))
    assert index.get_n_items() == (3 if ids is None else max(ids) + 1)
    assert index.get_nns_by_item(ids[0] if ids else 0, 1) == [ids[0] if ids else 0]


HARD_NUMBERS = {"denormal": 1e-41, "near the least": 3e-20, "inexact": 0.1}


@pytest.mark.parametrize("which", ["flushing", "rounding_up", "unmasked"])
@pytest.mark.parametrize("suffix", ["ann", "constann"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", HARD_NUMBERS.values(), ids=HARD_NUMBERS)
def test_the_process_cannot_change_the_drop_ins_arithmetic(
    metric: str, suffix: str, which: str, scale: float, mode: ctypes.CDLL, tmp_path: Path
) -> None:
    rows = np.random.default_rng(1).standard_normal((60, 7)) * scale
    single = rows.astype(np.float32)

    def answers() -> list[object]:
        index = AnnoyIndex(7, metric)
        for item, row in enumerate(rows):
            index.add_item(item, single[item] if item % 2 else row)  # numpy's scalars too
        index.build(3)
        everything: list[object] = [bytes(index._nodes.bytes())]
        index.save(str(tmp_path / f"a.{suffix}"))
        everything += [[x.hex() for x in index.get_item_vector(item)] for item in range(60)]
        everything += [index.get_distance(1, item).hex() for item in range(60)]
        for ids, far in (
            index.get_nns_by_item(1, 60, include_distances=True),
            index.get_nns_by_vector(list(single[2]), 60, include_distances=True),
        ):
            everything += [ids, [x.hex() for x in far]]
        index.save(str(tmp_path / "again.ann"))
        return [*everything, (tmp_path / "again.ann").read_bytes()]

    expected = answers()
    before = mode.get_mode()
    mode.set_mode(getattr(mode, which)())
    try:
        found = answers()
    finally:
        mode.set_mode(before)
    assert found == expected


class StopError(Exception):
    pass


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """What Ctrl-C does, so long after the beginning."""

    def stop(*_: object) -> None:
        raise StopError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("way", ["to a forest", "from a forest"])
def test_turning_an_index_into_another_kind_can_be_interrupted_and_lets_threads_run(way: str) -> None:
    index = AnnoyIndex(4, "euclidean")
    for item, row in enumerate(np.random.default_rng(0).standard_normal((20_000, 4)).tolist()):
        index.add_item(item, row)
    index.build(20)
    forest = index._as_forest()
    turn = index._as_forest if way == "to a forest" else lambda: constann.annoy.write_bytes(forest)
    begin = time.perf_counter()
    whole = bytes(index._as_forest().to_bytes()) if way == "to a forest" else bytes(constann.annoy.write_bytes(forest))
    took = time.perf_counter() - begin
    ticks, turned = [0], threading.Event()

    def tick() -> None:
        while not turned.wait(took / 1000):
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()
    turn()
    turned.set()
    thread.join()
    assert ticks[0] >= 5
    with pytest.raises(StopError), stopped_after(took / 20):
        turn()
    again = bytes(turn().to_bytes()) if way == "to a forest" else bytes(constann.annoy.write_bytes(forest))
    assert again == whole


SURFACE = {
    "__init__": "(self, f, metric=None)",
    "add_item": "(self, i, vector)",
    "build": "(self, n_trees, n_jobs=-1)",
    "get_distance": "(self, i, j)",
    "get_item_vector": "(self, i)",
    "get_n_items": "(self)",
    "get_n_trees": "(self)",
    "get_nns_by_item": "(self, i, n, search_k=-1, include_distances=False)",
    "get_nns_by_vector": "(self, vector, n, search_k=-1, include_distances=False)",
    "load": "(self, fn, prefault=False)",
    "on_disk_build": "(self, fn)",
    "save": "(self, fn, prefault=False)",
    "set_seed": "(self, s)",
    "unbuild": "(self)",
    "unload": "(self)",
    "verbose": "(self, v)",
}


def bare(signature: inspect.Signature) -> str:
    """Names and defaults, without types."""
    kept = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(kept))


def test_the_surface_is_annoys_whole() -> None:
    """Every name, in the order of its arguments, their keyword names and defaults; nothing else is public."""
    public = {name for name in vars(AnnoyIndex) if not name.startswith("_")}
    assert public == {*SURFACE, "f"} - {"__init__"}
    for name, signature in SURFACE.items():
        assert bare(inspect.signature(getattr(AnnoyIndex, name))) == signature, name
    assert built().f == 12
    for name in SURFACE.keys() - {"__init__"}:
        assert getattr(AnnoyIndex, name).__doc__ is not None, name


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
