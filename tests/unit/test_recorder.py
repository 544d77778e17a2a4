"""A recording holds every bit of its stages, the same file each time, and nothing of who recorded it."""

import ast
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import constann
from constann import comparison, recorder

SOURCE = Path(recorder.__file__)
DTYPES = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="="),
    arrays_of.unsigned_integer_dtypes(endianness="="),
    arrays_of.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    arrays_of.unicode_string_dtypes(),
)
ANY = DTYPES.flatmap(lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)))
ANY = ANY.filter(lambda array: array.dtype.kind != "U" or "\0" not in "".join(array.ravel().tolist()))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=ANY)
def test_any_array_comes_back_with_every_bit(array: np.ndarray, tmp_path: Path) -> None:
    with constann.recording(tmp_path / "a.rec") as rec:
        rec.stage("it", array)
    stage = comparison.read(tmp_path / "a.rec").stages["it"]
    assert stage.array is not None and stage.shape == array.shape
    if array.dtype.kind == "U":
        assert stage.array.tolist() == array.tolist()
    else:
        assert stage.array.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_the_digest_is_of_dtype_shape_and_little_endian_rows_in_c_order() -> None:
    numbers = np.arange(6, dtype="<i4").reshape(2, 3)
    same = [numbers.astype(">i4"), np.asfortranarray(numbers), np.repeat(numbers, 2, axis=1)[:, ::2]]
    assert {recorder.digest(recorder.canonical(each)) for each in same} == {recorder.digest(numbers)}
    other = [numbers.reshape(3, 2), numbers.astype("<u4"), numbers + 1]
    assert len({recorder.digest(recorder.canonical(each)) for each in [numbers, *other]}) == 4


@pytest.mark.parametrize("array", [np.array([{}]), np.array([1j]), np.array(["2026"], "M8[D]"), np.array([b"x"])])
def test_what_is_no_number_bool_or_text_is_refused(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="a stage is an array of"):
        recorder.canonical(array)


def test_texts_are_the_same_whatever_width_their_array_had() -> None:
    narrow, wide = np.array(["a", "bc"]), np.array(["a", "bc"], "U40")
    listed = np.array(["a", "bc"], object)
    assert len({recorder.digest(recorder.canonical(each)) for each in (narrow, wide, listed)}) == 1


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with constann.recording(tmp_path / name) as rec:
            rec.stage("x", np.arange(9.0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_text("before")
    with pytest.raises(ZeroDivisionError), constann.recording(tmp_path / "a.rec") as rec:
        rec.stage("x", np.arange(3) // (1 // 0))
    assert (tmp_path / "a.rec").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_nothing_says_who_recorded_or_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter22")
    path = tmp_path / "folder-of-mine" / "a.rec"
    path.parent.mkdir()
    with constann.recording(path) as rec:
        rec.stage("x", np.arange(3))
    text = zipfile.ZipFile(path).read(recorder.CONTENTS).decode()
    for private in (str(tmp_path), os.path.expanduser("~") + "/", "hunter22", "folder-of-mine"):
        assert private not in text
    for private in (socket.gethostname(), getpass.getuser()):
        assert not re.search(rf"\b{re.escape(private)}\b", text)
    assert not re.search(r'"[^"]*/(home|usr|lib|tmp|root)/', text)


def test_every_library_of_the_process_is_named_with_its_digest(tmp_path: Path) -> None:
    facts = recorder.environment()
    assert facts["libraries"]["libc"]["soname"].startswith("libc.")
    assert all(re.fullmatch("[0-9a-f]{64}|", each["sha256"]) for each in facts["libraries"].values())
    assert any("multiarray" in name for name in facts["libraries"])
    assert facts["numpy"] == np.__version__ and facts["cpu_features"]


def test_a_stage_too_large_to_keep_has_digests_of_its_rows_and_a_sample(tmp_path: Path) -> None:
    big = np.arange(600_000, dtype=np.int32).reshape(3000, 200)
    other = big.copy()
    other[1234, 56] = -1
    for name, array in (("a", big), ("b", other)):
        with constann.recording(tmp_path / name, keep=1000) as rec:
            rec.stage("big", array)
    assert (tmp_path / "a").stat().st_size < 1_200_000
    found = comparison.compare([comparison.read(tmp_path / each) for each in "ab"])
    assert found.first is not None
    sentence = found.first.differences[0].sentence
    low, high = map(int, re.search(r"rows (\d+) to (\d+)", sentence).groups()) if "rows " in sentence else (1234, 1234)
    assert low <= 1234 <= high and high - low < 20
    other[:] += 1
    with constann.recording(tmp_path / "c", keep=1000) as rec:
        rec.stage("big", other)
    found = comparison.compare([comparison.read(tmp_path / each) for each in "ac"])
    assert found.first is not None and found.first.differences[0].values == (0, 1)


def test_names_are_given_once(tmp_path: Path) -> None:
    rec = recorder.Recording()
    rec.stage("x", np.arange(3))
    for name, said in (("x", "already"), ("", "1 to 200"), ("a\nb", "printable"), ("a" * 201, "1 to 200")):
        with pytest.raises(ValueError, match=said):
            rec.stage(name, np.arange(3))


def test_the_file_to_copy_needs_python_3_6_and_numpy_alone() -> None:
    source = SOURCE.read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {alias.name for each in ast.walk(tree) if isinstance(each, ast.Import) for alias in each.names}
    imported |= {str(each.module) for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
    assert {each.partition(".")[0] for each in imported} - {*sys.stdlib_module_names} == {"numpy"}
    assert not any(isinstance(each, ast.NamedExpr | ast.JoinedStr) for each in ast.walk(tree))


def oldest_python() -> str:
    """The oldest Python 3 at hand, 3.6 where there is one."""
    for minor in range(6, 30):
        name = f"python3.{minor}"
        kept = sorted(Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin/python"))
        if kept or shutil.which(name):
            found = str(kept[0]) if kept else str(shutil.which(name))
            works = subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True, check=False)
            if works.returncode == 0:
                return found
    return sys.executable


DEVICE = """\
import sys
import numpy as np
import recorder
with recorder.recording(sys.argv[1]) as rec:
    rec.stage("floats", np.array([0.1, -0.0, np.inf], np.float32))
    rec.stage("words", np.array(["one", "tw\\u00f6"]))
    rec.neighbours("search", np.array([[1, 0]]), np.array([[0.5, 0.5]]))
    rec.ones_then_random(lambda given: given * np.float32(2), (2, 3))
print(sys.version.split()[0])
"""


@pytest.mark.slow  # it gets numpy for that Python
def test_the_oldest_python_at_hand_records_the_same_as_this_one(tmp_path: Path) -> None:
    python = oldest_python()
    subprocess.run([python, "-m", "venv", tmp_path / "old"], check=True)
    old = tmp_path / "old" / "bin" / "python"
    subprocess.run([old, "-m", "pip", "install", "-q", "--disable-pip-version-check", "numpy"], check=True)
    shutil.copy(SOURCE, tmp_path / "recorder.py")
    (tmp_path / "device.py").write_text(DEVICE)
    done = subprocess.run(
        [old, tmp_path / "device.py", tmp_path / "device.rec"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    print(f"the oldest Python at hand: {done.stdout.strip()}")
    subprocess.run([sys.executable, tmp_path / "device.py", tmp_path / "here.rec"], check=True, cwd=tmp_path)
    found = comparison.compare([comparison.read(tmp_path / f"{each}.rec") for each in ("device", "here")])
    assert found.agrees, comparison.text(found)
    told = json.loads(zipfile.ZipFile(tmp_path / "device.rec").read(recorder.CONTENTS))["environment"]["python"]
    assert told.endswith(done.stdout.strip())
