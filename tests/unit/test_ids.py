"""Ids of the caller's own: any int64 or strings, returned by searches, looked up, stored and filtered by."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import constann

ROWS = np.random.default_rng(5).standard_normal((60, 4)).astype(np.float32)
KINDS = ["exact", "forest", "graph"]
int64s = st.integers(-(2**63), 2**63 - 1)


def reopened(index: constann.Index, folder: Path) -> constann.Index:
    index.save(folder / "index")
    return constann.open(folder / "index", verify=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_returns_the_callers_numbers(kind: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(10**6)[:60] - 500_000
    plain = constann.build(ROWS, kind=kind).search(ROWS, 5)
    index = constann.build(ROWS, kind=kind, ids=numbers)
    for each in (index, reopened(index, tmp_path)):
        ids, distances = each.search(ROWS, 5)
        np.testing.assert_array_equal(ids, numbers[plain[0]])
        np.testing.assert_array_equal(distances, plain[1])
        np.testing.assert_array_equal(each.ids, numbers)
        assert each.fingerprint == index.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_returns_rows_that_labels_turns_into_strings(kind: str, tmp_path: Path) -> None:
    labels = [f"Wort {i % 7} — ☂ {i}" for i in range(60)]
    index = constann.build(ROWS, kind=kind, ids=labels)
    for each in (index, reopened(index, tmp_path)):
        ids, _ = each.search(ROWS[:3], 62)
        found = each.labels(ids)
        assert found.shape == (3, 62) and found[0, 0] == labels[0] and found[0, 60] is None
        assert sorted(found[0, :60]) == sorted(labels)
        assert each.ids == labels
        assert each.labels(5) == labels[5]


@pytest.mark.parametrize("ids", [[5, 3, 4], ["b", "c", "a"]])
def test_ids_are_looked_up_after_building(ids: list[int] | list[str]) -> None:
    index = constann.Exact(4, "cosine")
    index.add(ROWS[:3], ids)
    for look_up in (index.rows_of, index.vectors):
        with pytest.raises(ValueError, match=r"not built: ids can be looked up after build\(\)"):
            look_up(ids)
    index.build()
    assert index.rows_of(ids).tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=50)
@given(st.lists(int64s, min_size=1, max_size=60, unique=True))
def test_any_int64s_are_found_again(numbers: list[int]) -> None:
    index = constann.build(ROWS[: len(numbers)], kind="exact", ids=np.array(numbers, np.int64))
    assert index.rows_of(numbers).tolist() == list(range(len(numbers)))
    assert index.search(ROWS[0], 1)[0][0, 0] == numbers[0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=60, unique=True))
def test_any_strings_are_found_again(labels: list[str]) -> None:
    try:
        "".join(labels).encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="UTF-8 cannot express"):
            constann.build(ROWS[: len(labels)], kind="exact", ids=labels)
        return
    index = constann.build(ROWS[: len(labels)], kind="exact", ids=labels)
    assert index.rows_of(labels).tolist() == list(range(len(labels)))
    assert index.ids == labels


def test_the_same_id_twice_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="rows 1 and 3 have the same id 7: ids must differ"):
        constann.build(ROWS[:4], kind="exact", ids=[5, 7, 6, 7])
    with pytest.raises(ValueError, match="rows 0 and 2 have the same id 'a'"):
        constann.build(ROWS[:3], kind="exact", ids=["a", "b", "a"])


def test_ids_are_all_of_one_kind() -> None:
    index = constann.Exact(4, "cosine")
    index.add(ROWS[:2], ids=[1, 2])
    for wrong in (None, ["a", "b"]):
        with pytest.raises(ValueError, match="these differ from those added before"):
            index.add(ROWS[2:4], ids=wrong)
    index.add(ROWS[2:4], ids=[9, 8])
    index.build()
    assert list(index.ids) == [1, 2, 9, 8]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1], ValueError, "there are 1 ids for 2 vectors"),
        ([1.5, 2.5], TypeError, "ids must be integers or strings, not float64"),
        ([True, False], TypeError, "ids must be integers or strings, not bool"),
        ([[1], [2]], ValueError, r"ids must have shape \(n,\)"),
        (["a", 1], TypeError, "ids must be all integers or all strings"),
        ("ab", TypeError, "a sequence, not one string"),
        (np.array([1, 2**63], np.uint64), ValueError, "9223372036854775808 is beyond int64"),
    ],
)
def test_wrong_ids_are_refused(ids: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        constann.build(ROWS[:2], kind="exact", ids=ids)  # type: ignore[arg-type]


def test_an_unknown_id_is_a_key_error_that_names_it() -> None:
    index = constann.build(ROWS[:2], kind="exact", ids=[4, 9])
    with pytest.raises(KeyError, match="no row has the id 5"):
        index.rows_of([4, 5])
    with pytest.raises(KeyError, match="no row has the id 'x'"):
        constann.build(ROWS[:1], kind="exact", ids=["a"]).vectors(["x"])
    with pytest.raises(KeyError, match="no row has the id 2"):
        constann.build(ROWS[:2], kind="exact").rows_of([2])


def test_an_index_without_strings_has_no_labels() -> None:
    with pytest.raises(ValueError, match="this index has no string ids"):
        constann.build(ROWS, kind="exact").labels([1])
    with pytest.raises(IndexError, match="there is no row 60"):
        constann.build(ROWS, kind="exact", ids=[str(i) for i in range(60)]).labels([60])


def test_vectors_are_looked_up_by_id() -> None:
    index = constann.build(ROWS, "euclidean", kind="forest", ids=np.arange(60)[::-1])
    np.testing.assert_array_equal(index.vectors([59, 0]), ROWS[[0, 59]])


def test_ids_in_rising_order_need_no_order_of_their_own(tmp_path: Path) -> None:
    sizes = []
    for ids in (np.arange(60) * 10, np.arange(60)[::-1] * 10):
        constann.build(ROWS, kind="exact", ids=ids).save(tmp_path / "index")
        sizes.append((tmp_path / "index").stat().st_size)
    assert sizes[0] < sizes[1]
