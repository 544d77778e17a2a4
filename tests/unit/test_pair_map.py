"""The map of pairs answers as a dict does, takes updates in memory and over a file, and depends on its pairs alone."""

import ctypes
import gzip
import hashlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import constann
from constann import PairMap, _core

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")
TYPES = (*INTEGERS, "float32")
MANY = 150_000  # more than are kept apart from the table
MODES = ["map", "warm", "copy"]


def limits(dtype: str) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def as_dict(pairs: PairMap) -> dict[tuple[int, int], Any]:
    users, items, values = pairs.pairs()
    return {
        (user, item): value for user, item, value in zip(users.tolist(), items.tolist(), values.tolist(), strict=True)
    }


def reopened(pairs: PairMap) -> PairMap:
    return PairMap.open(pairs.to_bytes(), verify=True)


def many_pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    users = (generator.integers(0, 2_000, count) ** 2 * 1_000).astype(np.uint32)
    return users, generator.integers(0, 500, count), generator.integers(-30, 30, count)


# --- As a dict ------------------------------------------------------------------------------------------------------

IDS = st.sampled_from([0, 1, 2, 3, 70_000, 2**31, 2**32 - 2, 2**32 - 1])
ROUND = st.tuples(
    st.sampled_from(["set", "add", "reopen", "compact"]),
    st.lists(st.tuples(IDS, IDS, st.integers(-20, 20)), min_size=1, max_size=12),
)


@given(st.lists(ROUND, max_size=8))
def test_it_holds_what_a_dict_would(rounds: list[tuple[str, list[tuple[int, int, int]]]]) -> None:
    pairs, expected = PairMap("int32"), dict[tuple[int, int], int]()
    for what, updates in rounds:
        users, items, numbers = zip(*updates, strict=True)
        if what == "reopen":
            pairs = reopened(pairs)
        elif what == "compact":
            pairs.compact()
        else:
            getattr(pairs, what)(users, items, numbers)
            for user, item, number in updates:
                expected[user, item] = number + (expected.get((user, item), 0) if what == "add" else 0)
        assert len(pairs) == len(expected)
        assert pairs.get(users, items, 99).tolist() == [
            expected.get(pair, 99) for pair in zip(users, items, strict=True)
        ]
        for user in set(users):
            own = {item: value for (of, item), value in sorted(expected.items()) if of == user}
            assert pairs.items(user).tolist() == list(own) and pairs.values(user).tolist() == list(own.values())
    assert as_dict(pairs) == expected and list(as_dict(pairs)) == sorted(expected)
    assert pairs.users().tolist() == sorted({user for user, _ in expected})


@pytest.mark.parametrize("over_a_file", [False, True])
def test_many_pairs_in_any_batches_are_those_of_a_dict(over_a_file: bool) -> None:
    users, items, amounts = many_pairs(2 * MANY, 1)
    pairs, expected = PairMap("int32"), dict[tuple[int, int], int]()
    for user, item, amount in zip(users.tolist(), items.tolist(), amounts.tolist(), strict=True):
        expected[user, item] = expected.get((user, item), 0) + amount
    for start in range(0, len(users), 40_000):
        some = slice(start, start + 40_000)
        pairs.add(users[some], items[some], amounts[some])
        if over_a_file and start == 80_000:
            pairs = reopened(pairs)
    assert pairs.items(int(users[0])).tolist() == sorted(item for user, item in expected if user == users[0])
    assert as_dict(pairs) == expected


def test_looking_up_inserts_nothing() -> None:
    pairs = PairMap()
    pairs.set(1, 2, 3)
    assert pairs.get(1, 3) == 0 and pairs.get([1, 5], [9, 2], default=-7).tolist() == [-7, -7]
    assert (1, 2) in pairs and (1, 3) not in pairs
    assert pairs.contains([1, 1], [2, 3]).tolist() == [True, False]
    assert pairs.items(5).tolist() == [] and pairs.values(5).dtype == np.int16
    assert len(pairs) == 1 and pairs.users().tolist() == [1]


def test_one_number_stands_for_all() -> None:
    pairs = PairMap()
    pairs.add(7, np.array([[1, 2], [3, 4]]))
    pairs.set([7, 8], 1, [5, 6])
    assert pairs.get(7, np.array([[1, 2], [3, 9]])).tolist() == [[5, 1], [1, 0]]
    assert pairs.get([7, 8], 1).tolist() == [5, 6]
    assert isinstance(pairs.get(7, 1), int) and pairs.get(np.int64(8), np.uint8(1)) == 6


def test_the_values_of_one_pair_are_applied_as_they_are_given() -> None:
    pairs = PairMap()
    pairs.set([1, 2, 1, 1], [1, 1, 1, 1], [9, 8, 7, 6])
    pairs.add([1, 2, 1], 1, [1, 1, 1])
    assert as_dict(pairs) == {(1, 1): 8, (2, 1): 9}


@pytest.mark.parametrize("dtype", TYPES)
def test_each_type_holds_its_numbers_and_keeps_them_in_a_file(dtype: str) -> None:
    numbers = [*limits(dtype), 5] if dtype in INTEGERS else [1.5, -(2.0**-149), 3.4028234663852886e38]
    pairs = PairMap(dtype)
    pairs.set([4, 5, 6], 1, numbers)
    again = reopened(pairs)
    assert again.dtype == np.dtype(dtype) == pairs.dtype
    assert again.get([4, 5, 6], 1).tolist() == numbers == pairs.get([4, 5, 6], 1).tolist()


def test_a_float_is_never_minus_zero() -> None:
    pairs = PairMap("float32")
    pairs.set([1, 2], 1, [-0.0, -1e-60])
    assert str(pairs.get(1, 1)) == str(pairs.get(2, 1)) == "0.0"


def test_floats_are_rounded_once_for_each_addition() -> None:
    pairs, expected = PairMap("float32"), np.float32(0)
    for number in (0.1, 16_777_216.0, 1.0, 1.0, -0.3):
        expected = np.float32(expected + np.float32(number))
    pairs.add([3] * 5, [3] * 5, [0.1, 16_777_216.0, 1.0, 1.0, -0.3])
    assert pairs.get(3, 3) == float(expected)


def test_what_a_user_has_seen_is_excluded_from_a_search() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8))
    index = constann.build(rows, kind="exact", ids=np.arange(50) * 3)
    seen = PairMap()
    seen.add(9, index.search(rows[0], 5)[0][0])
    found, _ = index.search(rows[0], 5, exclude=seen.items(9))
    assert found[0].tolist() == index.search(rows[0], 10)[0][0, 5:].tolist()


# --- Arrays as they lie in memory -----------------------------------------------------------------------------------

NUMBERS = [1, 0, 120, 7, 7, 2, 50, 99]
IN_MEMORY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda array: array,
    "every second": lambda array: np.repeat(array, 2)[::2],
    "backwards": lambda array: array[::-1].copy()[::-1],
    "a column": lambda array: np.stack([array, array + 1], 1)[:, 0],
    "unaligned": lambda array: np.frombuffer(b"x" + array.tobytes(), array.dtype, offset=1),
    "transposed": lambda array: array.reshape(2, 4).T.copy().T,
    "in the other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
}


@pytest.mark.parametrize("lies", IN_MEMORY)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_are_read_as_they_lie(dtype: str, lies: str) -> None:
    array = IN_MEMORY[lies](np.array(NUMBERS, dtype))
    pairs, expected = PairMap(), PairMap()
    pairs.set(array, array, array)
    pairs.add(array, 3, array)
    pairs.add(1, array)
    expected.set(NUMBERS, NUMBERS, NUMBERS)
    expected.add(NUMBERS, [3] * 8, NUMBERS)
    expected.add([1] * 8, NUMBERS, [1] * 8)
    assert as_dict(pairs) == as_dict(expected)
    assert pairs.get(array, array).ravel().tolist() == expected.get(NUMBERS, NUMBERS).tolist()
    assert pairs.get(array, array).shape == pairs.contains(array, 3).shape == array.shape


@pytest.mark.parametrize("lies", IN_MEMORY)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "longdouble", "i2", "u8"])
def test_a_map_of_floats_reads_any_numbers_as_they_lie(dtype: str, lies: str) -> None:
    numbers = np.array(NUMBERS, dtype) / np.array(1 if dtype[0] in "iu" else 3, dtype)
    array = IN_MEMORY[lies](numbers.astype(dtype))
    pairs = PairMap("float32")
    pairs.set(np.arange(8).reshape(array.shape), 1, array)
    assert pairs.get(range(8), 1).tolist() == array.astype("f8").astype("f4").ravel().tolist()


@given(st.lists(st.tuples(IDS, IDS, st.integers(-20, 20)), min_size=1, max_size=30), st.sampled_from(["set", "add"]))
def test_numpys_integers_are_pythons(updates: list[tuple[int, int, int]], what: str) -> None:
    one, other = PairMap(), PairMap()
    getattr(one, what)(*np.array(updates).T)
    for update in updates:
        getattr(other, what)(*update)
    assert one.to_bytes() == other.to_bytes()


# --- Batches that are taken in shares -------------------------------------------------------------------------------

LARGE = 1_700_000  # more than a share of a batch, and than is looked at together


def large_batch(users: int, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(9)
    return (
        generator.integers(0, users, LARGE, np.uint32),
        generator.integers(0, items, LARGE, np.uint32) * np.uint32(4_000_000),
        generator.integers(-3, 4, LARGE, np.int8),
    )


@pytest.mark.parametrize(("users", "items"), [(3_000, 1_000), (300, 1)])
def test_a_large_batch_is_as_its_parts_one_after_another(users: int, items: int) -> None:
    batch = large_batch(users, items)
    whole, parts = dict[str, PairMap](), dict[str, PairMap]()
    for what in ("add", "set"):
        whole[what], parts[what] = PairMap("float32"), PairMap("float32")
        getattr(whole[what], what)(*batch)
        for start in range(0, LARGE, 500_000):
            getattr(parts[what], what)(*(array[start : start + 500_000] for array in batch))
        assert whole[what].to_bytes() == parts[what].to_bytes()
    sums = np.zeros((users, items), np.int64)
    np.add.at(sums, (batch[0], batch[1] // 4_000_000), batch[2])
    known_users, known_items, values = whole["add"].pairs()
    assert (values == sums[known_users, known_items // 4_000_000]).all()
    assert len(values) == len(np.unique(np.array(batch[0], np.uint64) << np.uint64(32) | batch[1]))


@pytest.mark.parametrize("what", ["set", "add"])
def test_a_large_batch_with_one_bad_number_changes_nothing_and_names_it(what: str) -> None:
    users, items, _ = large_batch(3_000, 1_000)
    pairs = PairMap("int8")
    pairs.set(users[:10], items[:10], 1)
    before = pairs.to_bytes()
    amounts = np.zeros(LARGE, np.int16)
    amounts[[1_200_000, 1_600_000]] = 128
    name = "the value of" if what == "set" else "the sum for"
    with pytest.raises(
        ValueError, match=rf"element 1200000: {name} \({users[1_200_000]}, {items[1_200_000]}\) does not"
    ):
        getattr(pairs, what)(users, items, amounts)
    assert pairs.to_bytes() == before


def test_a_sum_that_only_all_shares_together_overflow_changes_nothing() -> None:
    pairs = PairMap("int32")
    pairs.set(5, 5, 2**31 - LARGE)
    with pytest.raises(ValueError, match=rf"element {LARGE - 1}: the sum for \(5, 5\) does not fit"):
        pairs.add(np.full(LARGE, 5, np.uint32), 5)
    assert as_dict(pairs) == {(5, 5): 2**31 - LARGE}
    pairs.add(np.full(LARGE - 1, 5, np.uint32), 5)
    assert as_dict(pairs) == {(5, 5): 2**31 - 1}


# --- The same on every way there --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_the_bytes_depend_on_the_pairs_alone(dtype: str) -> None:
    users, items, _ = many_pairs(MANY, 2)
    values = (users // 1_000 + items) % 100
    whole = PairMap(dtype)
    whole.set(users, items, values)
    order = np.random.default_rng(3).permutation(MANY)
    shuffled = PairMap(dtype)
    for some in np.array_split(order, 7):
        shuffled.set(users[some], items[some], 1)
        shuffled.set(users[some], items[some], values[some])
    half = PairMap(dtype)
    half.set(users[: MANY // 2], items[: MANY // 2], 0)
    over_a_file = reopened(half)
    over_a_file.set(users, items, values)
    assert whole.to_bytes() == shuffled.to_bytes() == over_a_file.to_bytes()
    assert whole.fingerprint == shuffled.fingerprint == reopened(whole).fingerprint
    over_a_file.add(1, 1)
    assert over_a_file.fingerprint != whole.fingerprint


def test_the_file_is_laid_out_as_its_page_says() -> None:
    pairs = PairMap()
    pairs.set([9, 2, 9], [1, 8, 0], [-2, 3, 4])
    content = pairs.to_bytes()
    length, kind, sections = _core.inspect(content)
    assert kind == "pairs" and length == 80 + 2 * 16 + 4 * 56
    assert struct.unpack_from("<10I", content, 8) == (0, 0, 0, 0, 4, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<QQQII", content, 48) == (3, 0, len(content), 2, 4)
    assert struct.unpack_from("<IIQIIQ", content, 80) == (16, 0, 3, 17, 0, 2)
    parts = {name: content[offset : offset + size] for name, offset, size, _ in sections}
    assert parts == {
        "pair_users": struct.pack("<2I", 2, 9),
        "pair_starts": struct.pack("<3I", 0, 1, 3),
        "pair_items": struct.pack("<3I", 8, 0, 1),
        "pair_values": struct.pack("<3h", 3, 4, -2),
    }
    assert pairs.fingerprint == "d09e33be5be4fc0d0107e6ec9e3826b8c5d3941ce2ffe5de9f33b14f39801d95"


@pytest.mark.parametrize("setting", ["flushing", "rounding_up", "unmasked"])
def test_floating_point_settings_of_others_change_nothing(setting: str, mode: ctypes.CDLL) -> None:
    small = np.array([1e-45, 1e-45, 0.1], np.float32)

    def filled() -> PairMap:
        pairs = PairMap("float32")
        pairs.add([1, 1, 2], [1, 1, 1], small)
        pairs.add(2, 1, 0.2)
        pairs.set(3, 1, 1e-42)
        return pairs

    expected, before, spoilt = filled().to_bytes(), mode.get_mode(), getattr(mode, setting)()
    try:
        mode.set_mode(spoilt)
        pairs = filled()
        kept = mode.get_mode()
    finally:
        mode.set_mode(before)
    assert kept == spoilt and pairs.to_bytes() == expected


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("beyond", [-1, 1])
def test_a_number_out_of_range_is_named_and_nothing_changes(dtype: str, beyond: int) -> None:
    edge = limits(dtype)[beyond > 0]
    pairs = PairMap(dtype)
    pairs.set([1, 2], 1, [edge, 3])
    before = pairs.to_bytes()
    with pytest.raises(ValueError, match=rf"element 1: the value of \(5, 1\) does not fit: a map of {dtype} holds"):
        pairs.set([2, 5, 6], 1, [0, edge + beyond, 2**63 - 1])
    with pytest.raises(ValueError, match=r"element 2: the sum for \(1, 1\) does not fit.*use a map of a wider dtype"):
        pairs.add([2, 9, 1, 1], 1, [-beyond, 1, beyond, beyond])
    with pytest.raises(ValueError, match=r"element 0: the sum for \(1, 1\)"):
        pairs.add(1, 1, beyond)
    assert pairs.to_bytes() == before


def test_numbers_beyond_every_type_are_refused() -> None:
    pairs = PairMap("int32")
    for number in (2**63, 2**64 - 5, -(2**63), 10**30):
        with pytest.raises((ValueError, TypeError)):
            pairs.set(1, 1, number)
    with pytest.raises(ValueError, match="does not fit"):
        pairs.set([1, 2], 1, np.array([1, 2**64 - 5], np.uint64))
    assert len(pairs) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e39])
def test_a_float_that_is_not_finite_is_refused(bad: float) -> None:
    pairs = PairMap("float32")
    with pytest.raises(
        ValueError, match=r"element 1: the value of \(2, 0\) does not fit: a map of float32 holds finite"
    ):
        pairs.set([1, 2], 0, [1, bad])
    pairs.set(1, 1, 3e38)
    with pytest.raises(ValueError, match="the sum for"):
        pairs.add(1, 1, 3e38)
    assert as_dict(pairs) == {(1, 1): float(np.float32(3e38))}


@pytest.mark.parametrize("bad", [-1, 2**32, 2**70])
def test_a_user_or_item_out_of_range_is_named(bad: int) -> None:
    pairs = PairMap()
    with pytest.raises(ValueError, match=rf"element 0: user {bad} is not 0 to 4294967295"):
        pairs.get(bad, 1)
    if bad < 2**63:
        with pytest.raises(ValueError, match=rf"element 1: item {bad} is not 0 to 4294967295"):
            pairs.set(1, [1, bad], 1)
    assert len(pairs) == 0


@pytest.mark.parametrize("bad", [1.0, True, "one", [1.5], None])
def test_users_and_items_are_integers(bad: object) -> None:
    pairs = PairMap()
    for call in (pairs.get, pairs.contains, pairs.add):
        with pytest.raises(TypeError):
            call(bad, 1)  # type: ignore[arg-type, operator]
        with pytest.raises(TypeError):
            call(1, bad)  # type: ignore[arg-type, operator]
    with pytest.raises(TypeError, match="values must be integers, not float64"):
        pairs.set(1, 1, 1.0)


def test_shapes_must_be_those_of_each_other() -> None:
    pairs = PairMap()
    with pytest.raises(ValueError, match=r"items have shape \(2,\), which is not that of the others"):
        pairs.get([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="values have shape"):
        pairs.set([1, 2, 3], 1, [1, 2])
    with pytest.raises(ValueError, match="items are given for one user at a time"):
        pairs.items([1, 2])  # type: ignore[arg-type]
    pairs.set([], [], [])
    assert pairs.get([], 1).tolist() == [] and len(pairs) == 0


def test_an_unknown_dtype_lists_those_there_are() -> None:
    with pytest.raises(
        ValueError, match="there is no map of float64: use int8, uint8, int16, uint16, int32 or float32"
    ):
        PairMap("float64")
    with pytest.raises(ValueError, match="default 40000 does not fit a map of int16"):
        PairMap().get(1, 1, 40_000)


def test_a_map_whose_init_failed_says_so() -> None:
    unfinished = PairMap.__new__(PairMap)
    for call in (lambda: unfinished.get(1, 1), lambda: unfinished.add(1, 1), unfinished.to_bytes):
        with pytest.raises(TypeError, match="was not initialised"):
            call()


# --- Files ----------------------------------------------------------------------------------------------------------


def small() -> PairMap:
    pairs = PairMap()
    pairs.set([9, 2, 9, 300], [1, 8, 0, 2**32 - 1], [-2, 3, 4, 5])
    return pairs


@pytest.mark.parametrize("memory", MODES)
def test_an_opened_map_takes_updates_beside_its_file(memory: str, tmp_path: Path) -> None:
    path = tmp_path / "seen"
    small().save(path)
    content = path.read_bytes()
    opened = PairMap.open(path, verify=True, memory=memory)  # type: ignore[arg-type]
    opened.add([9, 9], [1, 7], 10)
    assert opened.get(9, [0, 1, 7]).tolist() == [4, 8, 10] and opened.items(9).tolist() == [0, 1, 7]
    assert len(opened) == 5 and path.read_bytes() == content
    opened.save(path)
    assert as_dict(constann.open(path, verify=True)) == as_dict(opened)  # type: ignore[arg-type]


def test_an_opened_map_without_updates_is_saved_as_it_is(tmp_path: Path) -> None:
    small().save(tmp_path / "one")
    opened = PairMap.open(tmp_path / "one")
    opened.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == opened.to_bytes()
    assert opened.fingerprint == small().fingerprint
    assert repr(opened) == "<constann.PairMap int16, 4 pairs>"


def test_an_empty_map_has_a_file_too() -> None:
    assert len(reopened(PairMap())) == 0 and as_dict(reopened(PairMap())) == {}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_the_same_map(protocol: int) -> None:
    assert as_dict(pickle.loads(pickle.dumps(small(), protocol))) == as_dict(small())


def test_a_full_disk_leaves_the_old_file_and_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = small()
    pairs.save(tmp_path / "seen")
    content = (tmp_path / "seen").read_bytes()
    pairs.add(1, 1)

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        pairs.save(tmp_path / "seen")
    assert (tmp_path / "seen").read_bytes() == content and list(tmp_path.iterdir()) == [tmp_path / "seen"]
    pairs.add(1, 1)
    assert pairs.get(1, 1) == 2


def test_updates_are_refused_while_another_thread_saves() -> None:
    pairs, refused = small(), []

    class Slow(io.BytesIO):
        def write(self, content: Any) -> int:
            def update() -> None:
                assert pairs.get(9, 0) == 4
                with pytest.raises(ValueError, match="the map is being read by another call: wait until it is done"):
                    pairs.add(9, 0)
                refused.append(True)

            thread = threading.Thread(target=update)
            thread.start()
            thread.join()
            return super().write(content)

    out = Slow()
    pairs.save(out)
    assert refused and as_dict(PairMap.open(out.getvalue())) == as_dict(small())
    pairs.add(9, 0)


def test_an_index_is_no_map_and_a_map_no_index() -> None:
    index = constann.build(np.eye(3), kind="exact")
    with pytest.raises(constann.FileFormatError, match=r"the file holds an index: open it with constann.open\(\)"):
        PairMap.open(index.to_bytes())
    with pytest.raises(constann.FileFormatError, match="the file holds a map of pairs"):
        _core.Exact(small().to_bytes())


def look_at(content: bytes) -> None:
    opened = PairMap.open(content)
    for call in (
        lambda: opened.get([0, 2, 9, 300, 2**32 - 1], [8, 8, 1, 2**32 - 1, 0]),
        lambda: [opened.items(user) for user in (0, 2, 9, 300)],
        opened.users,
        opened.pairs,
        lambda: opened.add([2, 9, 5], 8),
        opened.pairs,
        opened.to_bytes,
    ):
        attempt(call)


def attempt(call: Callable[[], object]) -> None:
    try:
        call()
    except (constann.FileFormatError, ValueError) as error:
        assert str(error)


def resealed(content: bytearray) -> bytes:
    """With the header's own digest as it must be, as who means harm would leave it."""
    length = 80 + 16 * struct.unpack_from("<I", content, 72)[0] + 56 * struct.unpack_from("<I", content, 76)[0]
    if length + 32 <= len(content):
        content[length : length + 32] = hashlib.sha256(content[:length]).digest()
    return bytes(content)


def test_every_damaged_byte_is_found_and_none_does_harm() -> None:
    content = small().to_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x81
        with pytest.raises(constann.FileFormatError):
            PairMap.open(bytes(damaged), verify=True)
        for each in (bytes(damaged), resealed(damaged)):
            attempt(lambda each=each: look_at(each))  # type: ignore[misc]
    for length in range(len(content)):
        with pytest.raises(constann.FileFormatError):
            PairMap.open(content[:length])


def test_hostile_files_end_in_answers_or_errors() -> None:
    chance = random.Random(5)
    content = small().to_bytes()
    for _ in range(3_000):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(0, len(damaged) - 8, 4)
            number = chance.choice([0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1, 2**32 - 2, chance.randrange(2**32)])
            damaged[place : place + 4] = struct.pack("<I", number)
        sealed = resealed(damaged)
        attempt(lambda sealed=sealed: look_at(sealed))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "numbers", "complaint"),
    [
        ("pair_starts", (0, 7, 2, 4), "a user's pairs lie outside it"),
        ("pair_starts", (0, 1, 1, 4), "its users' pairs do not follow each other"),
        ("pair_users", (9, 2, 300), "its users are not in order"),
        ("pair_items", (8, 1, 0, 2**32 - 1), "a user's items are not in order"),
    ],
)
def test_a_damaged_map_is_not_made_into_another(section: str, numbers: tuple[int, ...], complaint: str) -> None:
    content = bytearray(small().to_bytes())
    offsets = {name: offset for name, offset, _, _ in _core.inspect(bytes(content))[2]}
    struct.pack_into(f"<{len(numbers)}I", content, offsets[section], *numbers)
    opened = PairMap.open(bytes(content))
    opened.set(7, 7, 7)
    with pytest.raises(constann.FileFormatError, match=f"the map is damaged: {complaint}"):
        opened.to_bytes()
    assert opened.get(7, 7) == 7


# --- CSV ------------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "log.csv"
    path.write_text(text)
    return path


def test_lines_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "time,user,item\n1,5,9\n2,5,9\n3,4294967295,0\n")
    assert as_dict(PairMap.from_csv(path)) == {(5, 9): 2, (2**32 - 1, 0): 1}


@pytest.mark.parametrize(("repeated", "value"), [("add", 5), ("last", 3)])
def test_values_are_added_or_the_last_one_holds(repeated: Any, value: int, tmp_path: Path) -> None:
    path = written(tmp_path, "n;who;what\n2;5;9\n3;5;9\n-4;6;9\n")
    pairs = PairMap.from_csv(path, "who", "what", "n", repeated=repeated, delimiter=";")
    assert as_dict(pairs) == {(5, 9): value, (6, 9): -4}


def test_floats_packed_files_and_open_files_are_read(tmp_path: Path) -> None:
    content = b"user,item,score\n1,2,0.1\n3,4,-1e-3\n"
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(content))
    told: list[int] = []
    for source in (tmp_path / "log.csv.gz", io.BytesIO(content)):
        pairs = PairMap.from_csv(source, value="score", dtype="float32", progress=told.append)
        assert pairs.get([1, 3], [2, 4]).tolist() == [np.float32(0.1), np.float32(-1e-3)]
    assert told == [3, 3]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("4294967296,1,1", "line 4: user 4294967296 is not 0 to 4294967295"),
        ("1,-2,1", "line 4: item -2 is not 0 to 4294967295"),
        ("1,1,32768", r"line 4: the value of \(1, 1\) does not fit: a map of int16 holds -32768 to 32767"),
        ("1,1,99999999999999999999", "line 4: CSV conversion error to int64: invalid value '99999999999999999999'"),
        ("1,x,1", "line 4: CSV conversion error to int64: invalid value 'x'"),
        ("1,,1", "line 4: item is empty"),
        ("1,1", "line 4: Expected 3 columns, got 2"),
        ("", "line 4: "),
    ],
)
def test_a_bad_field_names_its_line(line: str, complaint: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"user,item,value\n1,1,1\n2,2,2\n{line}\n3,3,3\n")
    with pytest.raises(ValueError, match=complaint) as error:
        PairMap.from_csv(path, value="value", repeated="last")
    assert str(error.value).startswith(str(path))


def test_a_bad_field_names_its_line_far_down(tmp_path: Path) -> None:
    lines = [f"{number},7,1" for number in range(3_000_000)]  # more than a block
    lines[2_900_000] = "1,7,70000"
    path = written(tmp_path, "user,item,value\n" + "\n".join(lines))
    with pytest.raises(ValueError, match=r"line 2900002: the sum for \(1, 7\) does not fit"):
        PairMap.from_csv(path, value="value")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "user,thing\n1,1\n")
    with pytest.raises(ValueError, match=r"no such column.*'item'"):
        PairMap.from_csv(path)
    with pytest.raises(ValueError, match="repeated must be 'add' or 'last'"):
        PairMap.from_csv(path, repeated="first")  # type: ignore[arg-type]


def test_pyarrow_is_only_imported_for_csv() -> None:
    code = "import sys, constann; constann.PairMap().add(1, 1); print('pyarrow' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# --- Memory ---------------------------------------------------------------------------------------------------------

GROWING = """
import resource, sys
import numpy as np
from constann import PairMap, _core
pairs = PairMap()
pairs.add(1, 1)
generator = np.random.default_rng(0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(60):
    pairs.add(generator.integers(0, 20_000, 100_000), generator.integers(0, 2**32, 100_000, np.uint32))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
unit = 1 if sys.platform == "darwin" else 1024
print(peak * unit / len(pairs))
"""


def test_pairs_take_few_bytes_also_while_they_come() -> None:
    run = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 12  # 6 and 8 for each 300, the batch, and what came lately


def test_nbytes_is_what_the_parts_take() -> None:
    users, items, _ = many_pairs(MANY, 4)
    pairs = PairMap()
    pairs.add(users, items)
    pairs.compact()
    assert pairs.nbytes == 6 * len(pairs) + 8 * len(pairs.users()) + 4
