"""The comparison names the first stage, row and element that differ, who agrees with whom, and on what they part."""

import json
from pathlib import Path
from xml.etree import ElementTree

import hypothesis.extra.numpy as arrays_of
import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import constann
from constann import comparison, recorder
from constann.command_line import main
from constann.comparison import Recorded, Stage, Tolerance, Tolerances, numbers
from constann.comparison.environments import parting_facts

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "comparison.schema.json").read_text())
FLOATS = arrays_of.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]), st.integers(1, 6), elements=st.floats(width=16)
)


def machine(label: str, facts: dict | None = None, /, **stages: np.ndarray) -> Recorded:
    made = {}
    for name, array in stages.items():
        kept = recorder.canonical(array)
        made[name] = Stage(name, kept.dtype, kept.shape, recorder.digest(kept), kept)
    return Recorded(label, made, facts or {})


def searched(label: str, ids: list, distances: list, **stages: np.ndarray) -> Recorded:
    made = machine(label, ids=np.array(ids), distances=np.array(distances, np.float32), **stages)
    of = {"name": "search", "metric": "euclidean", "vectors": "vectors", "queries": "queries"}
    for role in ("ids", "distances"):
        made.stages[role].role, made.stages[role].of = role, {**of}
    return made


def test_the_first_stage_row_and_element_are_named_with_both_bit_patterns() -> None:
    a = np.ones((4, 3), np.float32)
    b = a.copy()
    b[2, 1] = np.nextafter(np.float32(1), np.float32(2))
    found = comparison.compare([machine("a", x=a, y=a, z=a), machine("b", x=a, y=b, z=a * 2)])
    assert found.first is not None and found.first.name == "y"
    difference = found.first.differences[0]
    assert (difference.row, difference.element, difference.ulp) == (2, (2, 1), 1)
    assert difference.bits == ("0x3f800000", "0x3f800001")
    assert (difference.differing, difference.elements, difference.rows) == (1, 12, 1)
    assert difference.histogram == [("0", 11), ("1", 1)]
    assert "0x3f800001" in comparison.text(found)


@pytest.mark.parametrize(
    ("a", "b", "kind", "said"),
    [
        (np.zeros(3, "f4"), np.zeros(3, "f8"), "dtype", "float32, b float64"),
        (np.zeros((3, 2)), np.zeros((2, 3)), "shape", r"\[3, 2\], b \[2, 3\]"),
        (np.array([1, 2]), np.array([1, 3]), "values", "1 of 2 elements"),
        (np.array([True, False]), np.array([True, True]), "values", "1 of 2 elements"),
        (np.array(["a", "b"]), np.array(["a", "bcd"]), "values", "1 of 2 elements"),
        (np.array(0.5), np.array(0.25), "values", "1 of 1 elements"),
        (np.array([0.0]), np.array([-0.0]), "values", "1 of 1 elements"),
    ],
)
def test_each_kind_of_difference_is_named_as_what_it_is(a: np.ndarray, b: np.ndarray, kind: str, said: str) -> None:
    found = comparison.compare([machine("a", x=a), machine("b", x=b)])
    assert found.first is not None and found.first.differences[0].kind == kind
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.first.differences[0].sentence)


def test_a_missing_stage_is_a_difference() -> None:
    x = np.zeros(3)
    found = comparison.compare([machine("a", x=x, y=x), machine("b", x=x), machine("c", x=x, y=x)])
    assert found.first is not None and found.first.name == "y" and found.first.groups == ((0, 2), (1,))
    assert found.first.differences[0].sentence == "b has no stage 'y', a has"
    assert found.matrix == [[None, 1, None], [1, None, 1], [None, 1, None]]


@settings(deadline=None)
@given(a=FLOATS, b=FLOATS)
def test_two_arrays_agree_exactly_where_their_bits_do(a: np.ndarray, b: np.ndarray) -> None:
    found = comparison.compare([machine("a", x=a), machine("b", x=b)])
    same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    assert found.agrees == same
    jsonschema.validate(comparison.as_json(found), SCHEMA)


@settings(deadline=None)
@given(a=FLOATS, steps=st.integers(0, 200))
def test_ulp_distance_counts_the_floats_between(a: np.ndarray, steps: int) -> None:
    b = a.copy()
    for _ in range(steps):
        b = np.nextafter(b, a.dtype.type(np.inf))
    counted = numbers.ulp_distance(a, b)
    limit = np.isinf(b) | np.isnan(b)
    assert (counted[~limit] == steps).all()
    assert Tolerance(ulp=steps).agree(a, b)[~limit].all()


def test_the_tolerance_of_a_stage_is_its_own() -> None:
    a, b = np.array([1.0, 2.0]), np.array([1.0 + 1e-6, 2.0])
    pair = [machine("a", x=a, embed=a), machine("b", x=a, embed=b)]
    for rules, agrees in (
        ((), False),
        ((("embed", "rtol", 1e-5),), True),
        ((("x", "rtol", 1e-5),), False),
        ((("*", "rtol", 1e-5), ("embed", "rtol", 1e-9)), False),
        ((("em*", "atol", 1e-5),), True),
        ((("*", "ulp", 5_000_000_000),), True),
    ):
        found = comparison.compare(pair, Tolerances(rules))
        assert found.agrees == agrees, rules
    assert not Tolerance(1, 1, 5).agree(np.array([np.nan, np.inf]), np.array([1.0, 1e300])).any()


def test_neighbours_are_classed_as_tie_swap_near_tie_and_true_miss() -> None:
    near = np.nextafter(np.float32(3), np.float32(4))
    vectors = np.array([[1], [-1], [2], [3], [near], [50]], np.float32)
    given = {"vectors": vectors, "queries": np.zeros((3, 1), np.float32)}
    a = searched("a", [[0, 1, 2], [0, 1, 3], [0, 1, 2]], [[1, 1, 2], [1, 1, 3], [1, 1, 2]], **given)
    b = searched("b", [[1, 0, 2], [0, 1, 4], [0, 1, 5]], [[1, 1, 2], [1, 1, near], [1, 1, 50]], **given)
    found = comparison.compare([a, b], Tolerances([("distances", "rtol", 1e-6)]))
    assert found.first is not None and found.first.name == "ids"
    (neighbours,) = found.first.neighbours
    assert neighbours.canonical and neighbours.queries == 3
    assert [(each.query, each.ids, each.kind) for each in neighbours.found] == [
        (0, (0, 1), "tie swap"),
        (0, (1, 0), "tie swap"),
        (1, (3, 4), "near tie"),
        (2, (2, 5), "true miss"),
    ]
    assert neighbours.overlap == pytest.approx(7 / 9)
    assert neighbours.recall == (pytest.approx(8 / 9), pytest.approx(7 / 9))
    only_ties = searched("c", [[1, 0, 2], [0, 1, 3], [0, 1, 2]], [[1, 1, 2], [1, 1, 3], [1, 1, 2]], **given)
    assert not comparison.compare([a, only_ties]).agrees
    assert comparison.compare([a, only_ties], Tolerances([("distances", "rtol", 1e-6)])).agrees


def test_a_miss_at_the_front_is_one_miss_and_not_one_at_every_rank() -> None:
    a, b = searched("a", [[7, 1, 2]], [[0, 1, 2]]), searched("b", [[1, 2, 3]], [[1, 2, 3]])
    first = comparison.compare([a, b]).first
    assert first is not None
    (neighbours,) = first.neighbours
    assert not neighbours.canonical and neighbours.recall is None
    assert [(each.rank, each.ids, each.distances) for each in neighbours.found] == [(0, (7, 3), (0.0, 3.0))]


def test_what_parts_the_groups_comes_first() -> None:
    facts = [
        {"kernels": "avx2", "cpu_features": "avx2 fma", "numpy": "1.26", "cpus": "2"},
        {"kernels": "avx2", "cpu_features": "avx2 fma", "numpy": "2.0", "cpus": "4"},
        {"kernels": "neon", "cpu_features": "asimd", "numpy": "2.0", "cpus": "4"},
        {"kernels": "neon", "cpu_features": "asimd", "numpy": "1.26", "cpus": "2"},
    ]
    machines = [Recorded(str(number), {}, each) for number, each in enumerate(facts)]
    parting = parting_facts(machines, ((0, 1), (2, 3)), None)
    assert [each.fact for each in parting] == ["kernels", *(f"CPU feature {each}" for each in ("asimd", "avx2", "fma"))]
    assert parting[0].values == (("avx2",), ("neon",)) and parting[0].exact and parting[0].score == 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for place, scale in (("edge", 1.0), ("cloud", 1.0000001)):
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "1-pixels.npy", np.arange(6, dtype=np.uint8))
        np.save(tmp_path / place / "2-resized.npy", np.arange(6) * np.float64(scale))
        np.save(tmp_path / place / "10-ids.npy", np.arange(6))
        with constann.recording(tmp_path / f"{place}.rec") as rec:
            rec.stage("x", np.arange(6) * np.float64(scale))
    return tmp_path


def test_folders_of_arrays_are_compared_in_the_order_of_their_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "edge", "cloud", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told["stages"]] == ["1-pixels", "2-resized", "10-ids"]
    assert told["first"] == 1 and told["stages"][1]["differences"][0]["element"] == [1]
    assert main(["compare", "edge", "cloud", "--rtol", "2-resized=1e-5"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edge.rec"], "two recordings or more"),
        (["edge.rec", "nowhere.rec"], "nowhere.rec: No such file"),
        (["edge.rec", "edge/1-pixels.npy"], "no recording"),
        (["edge.rec", "."], "holds no .npy files"),
        (["edge.rec", "cloud.rec", "--rtol", "x=lots"], "neither a number"),
        (["edge.rec", "cloud.rec", "--ulp", "0.5"], "neither a number"),
        (["edge.rec", "cloud.rec", "--atol", "-1"], "neither a number"),
        (["edge.rec", "cloud.rec", "--bisect", "edge.rec"], "stands alone"),
        (["--bisect", "edge.rec"], "no recording of `constann record`"),
        (["edge.rec", "cloud.rec", "--html", "/nowhere/a.html"], "No such file"),
    ],
)
def test_wrong_usage_and_files_that_cannot_be_read_end_in_2(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_all_forms_of_the_report_say_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forms = ["--html", "a.html", "--junit", "a.xml", "--markdown", "a.md"]
    assert main(["compare", "edge.rec", "cloud.rec", *forms, "--reproduce", "again"]) == 1
    assert "the first stage that differs is x" in capsys.readouterr().out
    suite = ElementTree.parse("a.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    failure = suite[0][0]
    assert failure.text is not None and "0x3ff000001ad7f29b" in failure.text
    assert "0x3ff000001ad7f29b" in Path("a.md").read_text()
    page = Path("a.html").read_text()
    assert "0x3ff000001ad7f29b" in page and "://" not in page
    assert sorted(each.name for each in Path("again").iterdir()) == ["machine-1.npy", "machine-2.npy", "reproduce.py"]
    assert main(["compare", "edge.rec", "cloud.rec", "--reproduce", "again"]) == 2
    assert main(["compare", "edge.rec", "edge.rec", *forms]) == 0
    assert ElementTree.parse("a.xml").getroot()[0].get("failures") == "0" and "agree" in Path("a.html").read_text()


def test_what_recordings_say_becomes_no_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|*x*"
    found = comparison.compare([machine(name, x=np.zeros(1)), machine("b", x=np.array(["</script>"]))])
    assert "<script>alert" not in comparison.html(found)
    assert '</script>"' not in comparison.html(found)
    outside_code = [line for line in comparison.markdown(found).splitlines() if not line.startswith("    ")]
    assert "<script>" not in "\n".join(outside_code)
    assert ElementTree.fromstring(comparison.junit(found)) is not None


def test_machines_of_one_name_are_told_apart() -> None:
    found = comparison.compare([machine("a", x=np.zeros(1))] * 3)
    assert found.labels == ["a", "a (2)", "a (3)"] and found.agrees
