"""The maker of the known answers: inputs follow the published rule, what is frozen is guarded, its check can fail."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import reference_forest
from golden import answers, inputs, make

GOLDEN = Path(make.__file__).resolve().parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the maker writes without constann: known answers that came from what they test would prove nothing."""
    folder = tmp_path_factory.mktemp("made")
    code = (
        "import pathlib, runpy, sys; sys.modules['constann'] = None;"
        f"runpy.run_path({str(GOLDEN / 'make.py')!r})['main']([], pathlib.Path({str(folder)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    return all_bytes(folder)


@pytest.fixture
def folder(made: dict[str, bytes], tmp_path: Path) -> Path:
    make.write(tmp_path, made)
    return tmp_path


def at_revision(content: bytes, revision: int) -> bytes:
    document = json.loads(content)
    document["arithmetic_revision"] = revision
    return json.dumps(document).encode()


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_known_answers_are_those_of_the_reference(made: dict[str, bytes]) -> None:
    assert make.check(GOLDEN, made) == []


def in_sequence(terms: np.ndarray) -> np.ndarray:
    return np.add.accumulate(terms, axis=-1)[..., -1]


def neighbours_first(terms: np.ndarray) -> np.ndarray:
    lanes = np.zeros((*terms.shape[:-1], 16), terms.dtype)
    for start in range(0, terms.shape[-1], 16):
        lanes = lanes + terms[..., start : start + 16]
    for _ in range(4):
        lanes = lanes[..., 0::2] + lanes[..., 1::2]
    return lanes[..., 0]


def eight_lanes(terms: np.ndarray) -> np.ndarray:
    lanes = np.zeros((*terms.shape[:-1], 8), terms.dtype)
    for start in range(0, terms.shape[-1], 8):
        lanes = lanes + terms[..., start : start + 8]
    for width in (4, 2, 1):
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
    return lanes[..., 0]


@pytest.mark.parametrize("wrong", [in_sequence, neighbours_first, eight_lanes])
def test_the_check_sees_a_wrong_lane_order(wrong: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "lane_sum", wrong)
    with np.errstate(all="ignore"):
        problems = "\n".join(make.check(folder, answers.arithmetic_answers()))
    for name in ("kernels.json", "searches.json"):
        assert f"{name}: line " in problems


def test_the_check_sees_one_draw_too_few_in_a_tree(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_forest, "DRAWS", 29)  # of 30 rows in the kept files
    monkeypatch.setattr(answers, "graph_searches", lambda case: iter(()))  # they take half of the time
    problems = "\n".join(make.check(folder, answers.index_answers()))
    assert "indexes.json: line " in problems and "files/forest-cosine.constann differs" in problems
    assert "files/exact-cosine.constann" not in problems


def test_the_check_names_what_is_missing_different_or_made_by_nothing(folder: Path, made: dict[str, bytes]) -> None:
    kept = folder / "files" / "exact-cosine.constann"
    (folder / "files" / "stray.constann").write_bytes(kept.read_bytes())
    kept.write_bytes(kept.read_bytes()[:-1] + b"\1")
    (folder / "searches.json").unlink()
    (folder / "kernels.json").write_bytes(made["kernels.json"].replace(b'"dim": 5,', b'"dim": 6,', 1))
    different, stray, line, missing = sorted(make.check(folder, made))
    assert different == f"files/exact-cosine.constann differs from byte {kept.stat().st_size - 1} on"
    assert stray == "files/stray.constann is of revision 0 and nothing makes it: remove it"
    assert line.startswith("kernels.json: line ") and '"dim": 6' in line and '"dim": 5' in line
    assert missing == "searches.json is missing"


def test_the_command_fails_where_something_differs(
    folder: Path, made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answers, "everything", lambda: made)
    make.main(["--check"], folder)
    assert capsys.readouterr().out == "the known answers are those of the reference\n"
    (folder / "indexes.json").unlink()
    with pytest.raises(SystemExit, match=r"indexes\.json is missing"):
        make.main(["--check"], folder)
    make.main([], folder)
    make.main(["--check"], folder)


def test_answers_of_revision_0_may_be_made_anew(folder: Path, made: dict[str, bytes]) -> None:
    (folder / "kernels.json").write_bytes(made["kernels.json"][:-3] + b"\n]}\n")
    make.write(folder, made)
    assert all_bytes(folder) == made


def test_a_frozen_revision_is_never_written_over(
    folder: Path, made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = at_revision(made["searches.json"], 1)
    (folder / "searches.json").write_bytes(frozen)
    (folder / "kernels.json").write_bytes(at_revision(made["kernels.json"], 0))
    before = all_bytes(folder)
    with pytest.raises(
        make.FrozenError, match=r"searches\.json is frozen .*'arithmetic_revision': 1.*add a new revision"
    ):
        make.write(folder, made)
    assert all_bytes(folder) == before, "all is written or nothing"
    make.write(folder, {"searches.json": frozen})
    monkeypatch.setattr(answers, "everything", lambda: made)
    with pytest.raises(SystemExit, match=r"searches\.json is frozen"):
        make.main([], folder)


@pytest.mark.parametrize("offset", [8, 12, 16], ids=["format", "arithmetic", "builder"])
def test_a_frozen_index_file_is_never_written_over(offset: int, folder: Path, made: dict[str, bytes]) -> None:
    kept = folder / "files" / "exact-euclidean.constann"
    content = bytearray(kept.read_bytes())
    struct.pack_into("<I", content, offset, 1)
    kept.write_bytes(content)
    with pytest.raises(make.FrozenError, match=r"exact-euclidean\.constann is frozen"):
        make.write(folder, made)
    remaining = {name: content for name, content in made.items() if name != "files/exact-euclidean.constann"}
    assert make.check(folder, remaining) == [], "a frozen file may outlive what made it"


def test_a_file_without_a_revision_is_not_taken_for_an_unfrozen_one(folder: Path, made: dict[str, bytes]) -> None:
    (folder / "kernels.json").write_bytes(b'{"cases": []}')
    with pytest.raises(ValueError, match=r"kernels\.json names no revision"):
        make.write(folder, made)


def test_draws_are_the_published_splitmix64() -> None:
    """The first outputs of Vigna's splitmix64.c for two seeds."""
    assert inputs.draws(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert inputs.draws(0, 3).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert inputs.draws(2**64 - 1, 2).tolist() == [splitmix64(2**64 - 1, 1), splitmix64(2**64 - 1, 2)]


def splitmix64(seed: int, number: int) -> int:
    """The same in Python's unbounded integers."""
    z = (seed + number * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("numbers", inputs.NUMBERS)
def test_inputs_are_finite_and_come_from_their_seed_alone(numbers: str) -> None:
    one, again, other = (inputs.matrix(numbers, seed, 10, 33) for seed in (8, 8, 9))
    assert one.dtype == np.float32 and one.shape == (10, 33) and np.isfinite(one).all()
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_inputs_reach_what_their_names_promise() -> None:
    drawn = {numbers: inputs.matrix(numbers, 1, 20, 64) for numbers in inputs.NUMBERS}
    tiny = np.finfo(np.float32).tiny
    assert (np.abs(drawn["denormal"]) < tiny).all() and (drawn["denormal"] != 0).any()
    assert set(np.unique(drawn["ties"])) == {-2, -1, 0, 1, 2}
    zeros = drawn["zeros"][drawn["zeros"] == 0]
    assert np.signbit(zeros).any() and not np.signbit(zeros).all() and len(zeros) < drawn["zeros"].size
    magnitudes = np.abs(drawn["mixed"])
    assert magnitudes.max() / magnitudes.min() > 2**20
    assert np.isnan(reference.inner_product(drawn["huge"][0], drawn["huge"][1:])).any()
    assert np.isinf(reference.manhattan(drawn["huge"][0], drawn["huge"][1:])).any()
    assert np.abs(drawn["near"][1:] - drawn["near"][0]).max() < 2**-19
    cancelled = np.abs(reference.inner_product(drawn["cancelling"][0], drawn["cancelling"][1:]))
    assert (cancelled < 2**-15).all() and (cancelled > 0).any()
    assert (drawn["duplicates"][5:10] == drawn["duplicates"][:5]).all()
    assert not drawn["zero_rows"][1::3].any() and drawn["zero_rows"][0::3].all()


def test_packed_rows_have_no_bit_beyond_the_last() -> None:
    for bits in (1, 7, 8, 9, 100):
        for numbers in inputs.BYTES:
            rows = np.unpackbits(inputs.packed(numbers, 3, 10, bits), axis=1)
            assert not rows[:, bits:].any() and rows[:, :bits].any()


def test_the_answers_reach_every_special_result(made: dict[str, bytes]) -> None:
    kernels, searches = (json.loads(made[name])["cases"] for name in ("kernels.json", "searches.json"))
    for function in answers.FLOAT_KERNELS:
        found = {bits for case in kernels if function in case for bits in case[function].split()}
        assert {"7f800000", "00000000"} <= found and "80000000" not in found
        assert ("7fc00000" in found) == (function == "inner_product")
        assert any(0 < int(bits, 16) & 0x7FFFFFFF < 0x800000 for bits in found), "denormal results"
    for metric in reference.METRICS:
        rows = [case for case in searches if case["metric"] == metric]
        distances = [one.split() for case in rows for one in case["distances"]]
        assert any(len(set(one)) < len(one) for one in distances), "ties"
        assert any(-1 in ids for case in rows for ids in case["ids"]), "k beyond the rows"
    overflowed = {case["metric"] for case in searches if "7f800000" in case["distances"][0] and -1 in case["ids"][0]}
    assert {"euclidean", "manhattan", "dot"} <= overflowed
