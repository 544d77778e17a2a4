"""Recordings that are damaged, truncated or made to do harm end in a clear error, and nothing in them is executed."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import constann
from constann import comparison, recorder
from constann.comparison import RecordingError

Contents = dict
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "a.rec"
    with constann.recording(path, keep=3000) as rec:
        rec.stage("floats", np.arange(12, dtype=np.float32).reshape(3, 4))
        rec.stage("words", np.array(["a", "bc"]))
        rec.stage("bools", np.array([True, False]))
        rec.stage("large", np.zeros((2000, 3)))
        rec.neighbours("search", np.array([[1, 0]]), np.array([[0.5, 0.5]]))
    return path.read_bytes()


def rewritten(good: bytes, change: Callable[[Contents, Members], None], method: int = zipfile.ZIP_STORED) -> bytes:
    """The same recording with its description and members changed."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    contents = json.loads(members[recorder.CONTENTS])
    change(contents, members)
    members[recorder.CONTENTS] = json.dumps(contents).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def stage(contents: Contents, **changes: object) -> None:
    contents["stages"][0].update(changes)


def wrong_byte(contents: Contents, members: Members) -> None:
    name = contents["stages"][0]["member"]
    members[name] = members[name][:-1] + b"\x7f"


def without(contents: Contents, members: Members) -> None:
    del members[contents["stages"][0]["member"]]


HOSTILE: list[tuple[str, Callable[[Contents, Members], None], str]] = [
    ("traversal", lambda c, m: m.update({"../../etc/passwd": b"x"}), "a member that no recording has"),
    ("absolute name", lambda c, m: m.update({"/tmp/x": b"x"}), "a member that no recording has"),
    ("pickle", lambda c, m: m.update({"arrays.pkl": pickle.dumps(print)}), "a member that no recording has"),
    ("object dtype", lambda c, m: stage(c, dtype="|O"), "elements of the kind"),
    ("void dtype", lambda c, m: stage(c, dtype="|V4"), "elements of the kind"),
    ("endless text", lambda c, m: stage(c, dtype="<U999999999"), "elements of the kind"),
    ("negative shape", lambda c, m: stage(c, shape=[-1, 4]), "has no shape"),
    ("huge shape", lambda c, m: stage(c, shape=[1 << 47, 1 << 47]), "its shape"),
    ("shape of floats", lambda c, m: stage(c, shape=[3.0, 4]), "has no shape"),
    ("many axes", lambda c, m: stage(c, shape=[1] * 60), "has no shape"),
    ("other shape", lambda c, m: stage(c, shape=[4, 3]), "its SHA-256 does not fit"),
    ("shorter shape", lambda c, m: stage(c, shape=[3]), "its shape"),
    ("no digest", lambda c, m: stage(c, sha256="?"), "has no digest"),
    ("other digest", lambda c, m: stage(c, sha256="0" * 64), "its SHA-256 does not fit"),
    ("changed array", wrong_byte, "its SHA-256 does not fit"),
    ("missing array", without, "is missing"),
    ("stage named as another", lambda c, m: stage(c, name="words"), "two stages have the name"),
    ("name with a line", lambda c, m: stage(c, name="a\n\x1b[2J"), "a stage has the name"),
    ("no stages", lambda c, m: c.pop("stages"), "it lists no stages"),
    ("stages of text", lambda c, m: c.update(stages=["x"]), "not written as it must be"),
    ("another version", lambda c, m: c.update(version=99), "a recording of version 99"),
    ("another format", lambda c, m: c.update(format="x"), "does not say that it is a recording"),
    ("environment of text", lambda c, m: c.update(environment="x"), "its environment"),
    ("blocks that lack", lambda c, m: c["stages"][3].update(blocks=[]), "lacks the digests of its rows"),
    ("blocks of zero rows", lambda c, m: c["stages"][3].update(block_rows=0), "lacks the digests of its rows"),
    ("sample of no step", lambda c, m: c["stages"][3].update(sample_step=0), "which rows its sample has"),
]


@pytest.mark.parametrize(("change", "said"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
def test_a_hostile_recording_ends_in_a_sentence(
    change: Callable[[Contents, Members], None], said: str, good: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a.rec").write_bytes(rewritten(good, change))
    with pytest.raises(RecordingError, match=said):
        comparison.read(tmp_path / "a.rec")
    assert [each.name for each in tmp_path.iterdir()] == ["a.rec"]


def test_what_is_compressed_is_refused_before_it_is_read(good: bytes, tmp_path: Path) -> None:
    bomb = rewritten(good, lambda c, m: m.update({"arrays/" + "0" * 64: bytes(1 << 26)}), zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    (tmp_path / "a.rec").write_bytes(bomb)
    with pytest.raises(RecordingError, match="compressed or encrypted"):
        comparison.read(tmp_path / "a.rec")


def test_a_folder_with_a_pickle_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "1-objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(RecordingError, match="1-objects"):
        comparison.read(tmp_path)


def test_deep_json_is_refused(good: bytes, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(recorder.CONTENTS, "[" * 200_000)
    (tmp_path / "a.rec").write_bytes(out.getvalue())
    with pytest.raises(RecordingError, match="its description is damaged"):
        comparison.read(tmp_path / "a.rec")


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mutation_is_read_as_it_was_or_refused(data: st.DataObject, good: bytes, tmp_path: Path) -> None:
    content = bytearray(good)
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "end"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[place:]
    elif kind == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=30))
    elif kind == "repeat":
        content += content[place:]
    else:  # the list of members stands at the end
        near = max(0, len(content) - data.draw(st.integers(1, 900)))
        content[near] = data.draw(st.integers(0, 255))
    (tmp_path / "a.rec").write_bytes(content)
    try:
        found = comparison.read(tmp_path / "a.rec")
    except RecordingError as error:
        assert str(error).startswith(str(tmp_path / "a.rec")) and "\n" not in str(error)[:200]
        return
    (tmp_path / "b.rec").write_bytes(good)
    assert comparison.compare([found, comparison.read(tmp_path / "b.rec")]).agrees or found.label


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entry=st.dictionaries(
        st.sampled_from(["name", "dtype", "shape", "sha256", "kept", "member", "role", "of", "blocks", "block_rows"]),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists),
    )
)
def test_any_description_of_a_stage_is_read_or_refused(entry: dict, good: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(rewritten(good, lambda c, m: stage(c, **entry)))
    try:
        comparison.read(tmp_path / "a.rec")
    except RecordingError as error:
        assert str(error)
