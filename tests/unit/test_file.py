"""The index file: what is saved is opened again; what is damaged, foreign or cut is refused or searched in safety."""

import gc
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import constann
from constann import _core, storage
from constann.indexes import from_buffer

KINDS = ["exact", "forest", "graph"]


@pytest.fixture(scope="module", params=KINDS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("small") / f"{request.param}.constann"
    constann.build(vectors[:60, :7], "euclidean", kind=request.param).save(path)
    return path


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_opened_index_answers_as_the_built_one(
    kind: str, metric: str, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    built = constann.build(vectors, metric, kind=kind, seed=5)
    built.save(tmp_path / "index")
    opened = constann.open(str(tmp_path / "index"), verify=True)
    assert type(opened) is type(built) and isinstance(opened, constann.Index)
    assert (opened.fingerprint, len(opened), opened.dim) == (built.fingerprint, 2000, 384)
    assert (opened.metric, opened.seed, opened.built) == (metric, 5, True)
    for a, b in zip(built.search(queries, 10), opened.search(queries, 10), strict=True):
        np.testing.assert_array_equal(a, b)
    opened.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "index").read_bytes()


def test_the_fingerprint_is_the_sha256_of_the_header(small: Path) -> None:
    content = small.read_bytes()
    length, _, _ = _core.inspect(content)
    assert constann.open(small).fingerprint == hashlib.sha256(content[:length]).hexdigest()
    assert content[length : length + 32].hex() == constann.open(small).fingerprint


def test_every_flipped_byte_is_found_by_verify(small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    damaged = tmp_path / "damaged"
    # Every byte of header and padding; of the long sections, every seventh.
    for at in sorted({*range(1024), *range(0, len(content), 7), len(content) - 1}):
        flipped = bytearray(content)
        flipped[at] ^= 0x10
        damaged.write_bytes(flipped)
        with pytest.raises(constann.FileFormatError):
            constann.open(damaged, verify=True)


def test_a_cut_or_lengthened_file_is_refused_without_verify(small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    changed = tmp_path / "changed"
    for length in [0, 1, 7, 8, 40, 79, 80, 200, len(content) // 2, len(content) - 1]:
        changed.write_bytes(content[:length])
        with pytest.raises(constann.FileFormatError, match=r"truncated|empty"):
            constann.open(changed)
    changed.write_bytes(content + b"\0")
    with pytest.raises(constann.FileFormatError, match="added to"):
        constann.open(changed)


def test_what_is_no_index_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        constann.open(tmp_path / "missing")
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(constann.FileFormatError, match=r"text: this is not a Constann index"):
        constann.open(tmp_path / "text")
    with pytest.raises(OSError):
        constann.open(tmp_path)


def sealed(content: bytearray) -> bytes:
    """The file with its header's digest made right again, as a hostile writer would."""
    length = 80 + 16 * int.from_bytes(content[72:76], "little") + 56 * int.from_bytes(content[76:80], "little")
    content[length : length + 32] = hashlib.sha256(content[:length]).digest()
    return bytes(content)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_hostile_file_gives_an_answer_or_a_clear_error(data: st.DataObject) -> None:
    content = bytearray(HOSTILE[data.draw(st.sampled_from(KINDS))])
    for _ in range(data.draw(st.integers(1, 4))):
        width = data.draw(st.sampled_from([1, 4, 8]))
        at = data.draw(st.integers(0, min(len(content) - width, 2000)) | st.integers(0, len(content) - width))
        value = data.draw(st.sampled_from([0, 1, 2, 2**31, 2**32 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1))
        content[at : at + width] = value.to_bytes(8, "little")[:width]
    file = sealed(content)
    try:
        length, kind, _ = _core.inspect(file)
        index = from_buffer(kind, file, storage.HeaderParts(file[:length], b"", []))
        effort = data.draw(st.sampled_from([None, 10, 1000])) if kind != "exact" else None
        ids, _ = index.search(np.ones((3, index.dim), np.float32), 5, effort=effort)
    except constann.FileFormatError:
        return
    assert ids.max() < len(index)


HOSTILE: dict[str, bytes] = {}


@pytest.fixture(scope="module", autouse=True)
def _hostile(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> None:
    for kind in KINDS:
        path = tmp_path_factory.mktemp("hostile") / kind
        constann.build(vectors[: 400 if kind == "graph" else 60, :7], "euclidean", kind=kind).save(path)
        HOSTILE[kind] = path.read_bytes()


def parts_of(index: constann.Index) -> list[tuple[str, bytes]]:
    return [(name, bytes(content)) for name, content in index._contents()]


def written(index: constann.Index, parts: list[tuple[str, bytes]]) -> bytes:
    """A file of these sections, all digests right, with the header of `index`: what a hostile writer would make."""
    _, header = index._encode_header([bytes(32)] * len(index._contents()))
    first = len(header) - 56 * len(index._contents())
    tags = {name: header[first + 56 * i :][:4] for i, (name, _) in enumerate(index._contents())}
    fixed = bytearray(header[:first])
    table, body = bytearray(), bytearray()
    start = len(fixed) + 56 * len(parts) + 32
    end = start
    for name, content in parts:
        offset = -(-end // 64) * 64
        body += bytes(offset - end) + content
        end = offset + len(content)
        digest = hashlib.sha256(content).digest()
        table += tags[name] + bytes(4) + offset.to_bytes(8, "little") + len(content).to_bytes(8, "little") + digest
    fixed[64:72] = end.to_bytes(8, "little")
    fixed[76:80] = len(parts).to_bytes(4, "little")
    whole = bytes(fixed + table)
    return whole + hashlib.sha256(whole).digest() + bytes(body)


def test_a_file_holds_what_its_kind_writes_and_nothing_else(tmp_path: Path, vectors: np.ndarray) -> None:
    index = constann.build(vectors[:60, :7], "euclidean", kind="forest")
    parts = parts_of(index)
    path = tmp_path / "index"
    path.write_bytes(written(index, parts))
    assert constann.open(path, verify=True).fingerprint == index.fingerprint  # the writer itself is right
    swapped = [*parts[:1], parts[2], parts[1], *parts[3:]]
    doubled = [*parts, parts[-1]]
    missing = parts[:-1]
    for changed in (swapped, doubled, missing):
        path.write_bytes(written(index, changed))
        with pytest.raises(constann.FileFormatError, match=r"not those of its kind|twice|missing"):
            constann.open(path)


def test_trees_that_share_a_leaf_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    rows = np.zeros((50, 7), np.float32)
    index = constann.Forest(7, "euclidean", trees=2000, effort=2**64 - 1)
    index.add(rows[:5])
    index.build()
    parts = dict(parts_of(index))
    parts["tree_roots"] = np.full(2000, 0x80000000, np.uint32).tobytes()  # every tree is leaf 0 ...
    bounds = np.frombuffer(parts["leaf_bounds"], np.uint64).copy()
    bounds[1:] = bounds[-1]  # ... which holds all rows of all trees
    parts["leaf_bounds"] = bounds.tobytes()
    (tmp_path / "index").write_bytes(written(index, list(parts.items())))
    opened = constann.open(tmp_path / "index", verify=True)
    with pytest.raises(constann.FileFormatError, match="its leaves overlap"):
        opened.search(rows[:1], 1)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_damage_found_by_a_worker_thread_reaches_the_caller(threads: int, tmp_path: Path, vectors: np.ndarray) -> None:
    index = constann.build(vectors[:60, :7], "euclidean", kind="forest")
    parts = dict(parts_of(index))
    parts["leaf_rows"] = np.full(len(parts["leaf_rows"]) // 4, 60, np.uint32).tobytes()
    (tmp_path / "index").write_bytes(written(index, list(parts.items())))
    with pytest.raises(constann.FileFormatError, match="names a row that does not exist"):
        constann.open(tmp_path / "index").search(vectors[:500, :7], threads=threads)


def test_a_buffer_whose_bytes_are_not_in_a_row_is_refused(small: Path) -> None:
    scattered = np.frombuffer(small.read_bytes(), np.uint8)[::2]
    with pytest.raises((BufferError, ValueError)):
        _core.inspect(scattered)


def test_sections_outlive_their_index(vectors: np.ndarray) -> None:
    content = constann.build(vectors[:60], kind="exact")._contents()[0][1]
    gc.collect()
    again = constann.build(vectors[:60], kind="exact")._contents()[0][1]
    assert bytes(content) == bytes(again)


def test_a_tree_that_runs_in_a_circle_is_found_while_searching(tmp_path: Path, vectors: np.ndarray) -> None:
    constann.build(vectors[:60, :7], "euclidean", kind="forest").save(tmp_path / "index")
    content = bytearray((tmp_path / "index").read_bytes())
    _, _, sections = _core.inspect(bytes(content))
    offset = next(offset for name, offset, _, _ in sections if name == "split_children")
    content[offset : offset + 8] = bytes(8)  # both children of the first split: the split itself
    (tmp_path / "index").write_bytes(content)
    index = constann.open(tmp_path / "index")
    with pytest.raises(constann.FileFormatError, match="a child does not come after its parent"):
        index.search(vectors[:1, :7], effort=10**9)


def test_saving_replaces_in_one_step_and_keeps_the_old_file_on_failure(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    shutil.copy(small, path)
    opened = constann.open(path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            opened.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["index"]
    opened.save(path)  # onto the very file it is mapped from
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["index"]
    assert len(opened.search(np.ones(7, np.float32))[0]) == 1


def test_saving_into_a_missing_folder_names_it(small: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        constann.open(small).save(tmp_path / "nowhere" / "index")


@pytest.mark.parametrize("shift", range(1, 4))
def test_no_reader_assumes_alignment(small: Path, shift: int, queries: np.ndarray) -> None:
    aligned = constann.open(small)
    buffer = memoryview(bytes(shift) + small.read_bytes())[shift:]
    kind = type(aligned).__name__.lower()
    shifted = from_buffer(kind, buffer, storage.header_parts(aligned))
    for a, b in zip(aligned.search(queries[:, :7]), shifted.search(queries[:, :7]), strict=True):
        np.testing.assert_array_equal(a, b)
