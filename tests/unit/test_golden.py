"""Constann gives the known answers: every kernel set, exact search, index bytes, and the whole files kept for ever."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import reference
import reference_file
import reference_graph
from golden import answers, inputs

import constann
from constann import _core

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SETS = [implementation.name for implementation in constann.kernels.available()]
METRICS = list(reference_file.METRICS)
EACH = [
    (kind, metric)
    for kind in reference_file.KINDS
    for metric in (reference_graph.METRICS if kind == "graph" else METRICS)
]
KERNELS = ["inner_product", "squared_euclidean", "manhattan", "hamming"]
REVISIONS = {
    "format_version": _core.format_version,
    "arithmetic_revision": _core.arithmetic_revision,
    "builder_revision": _core.builder_revision,
}


def known(name: str) -> list[answers.Case]:
    return json.loads((GOLDEN / name).read_text())["cases"]


def assert_bits(expected: str, got: np.ndarray, case: answers.Case) -> None:
    """The answer has these bits; a NaN may have any payload."""
    found = answers.hex_bits(got)
    assert found == expected, f"seed {case['seed']}, dim {case['dim']}, {case['numbers']}"


@pytest.mark.parametrize(
    "name", ["kernels.json", "searches.json", "indexes.json", "graph-searches.json", "carried-data.json"]
)
def test_the_known_answers_are_of_this_revision(name: str) -> None:
    document = json.loads((GOLDEN / name).read_text())
    of = {key: value for key, value in document.items() if key in REVISIONS}
    assert of and of == {key: REVISIONS[key] for key in of}


def inputs_of(case: answers.Case, function: str) -> tuple[np.ndarray, np.ndarray]:
    if function == "hamming":
        drawn = inputs.packed(case["numbers"], case["seed"], answers.ROWS + 1, case["dim"])
        drawn = np.pad(drawn, [(0, 0), (0, -drawn.shape[1] % 64)]).view(np.float32)
    else:
        drawn = reference.padded(inputs.matrix(case["numbers"], case["seed"], answers.ROWS + 1, case["dim"]))
    return drawn[0], drawn[1:]


def kernel_cases(function: str) -> list[answers.Case]:
    return [case for case in known("kernels.json") if function in case]


@pytest.mark.parametrize("function", KERNELS)
@pytest.mark.parametrize("kernels", SETS)
def test_every_kernel_set_gives_the_known_bits_for_one_row_and_for_any_number_of_rows(
    kernels: str, function: str
) -> None:
    cases = kernel_cases(function)
    assert len({case["dim"] for case in cases}) >= 25
    for case in cases:
        query, rows = inputs_of(case, function)
        expected = case[function].split()
        for many in (False, True):
            for count in range(1, answers.ROWS + 1) if many else [answers.ROWS]:
                got = _core.kernel_answers(kernels, function, query, rows[:count], many)
                assert_bits(" ".join(expected[:count]), got, case)


def test_one_wrong_bit_is_seen() -> None:
    case = kernel_cases("inner_product")[-1]
    query, rows = inputs_of(case, "inner_product")
    got = _core.kernel_answers(SETS[0], "inner_product", query, rows, True)
    assert_bits(case["inner_product"], got, case)
    wrong = [int(bits, 16) for bits in case["inner_product"].split()]
    wrong[-1] ^= 1
    with pytest.raises(AssertionError, match=f"seed {case['seed']}, dim 1536"):
        assert_bits(" ".join(f"{bits:08x}" for bits in wrong), got, case)


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_gives_the_known_neighbours(metric: str) -> None:
    cases = [case for case in known("searches.json") if case["metric"] == metric]
    assert cases
    for case in cases:
        rows = inputs.rows_of(metric, case["numbers"], case["seed"], answers.QUERIES + case["rows"], case["dim"])
        index = constann.Exact(case["dim"], metric)
        index.add(rows[answers.QUERIES :])
        index.build(threads=1)
        ids, distances = index.search(rows[: answers.QUERIES], case["k"])
        assert ids.tolist() == case["ids"], case
        for expected, got in zip(case["distances"], distances, strict=True):
            assert_bits(expected, got, case)


def index_of(case: answers.Case) -> constann.Index:
    rows = inputs.rows_of(case["metric"], case["numbers"], case["input_seed"], case["rows"], case["dim"])
    if case["kind"] == "exact":
        index: constann.Index = constann.Exact(case["dim"], case["metric"])
    elif case["kind"] == "graph":
        index = constann.Graph(case["dim"], case["metric"], effort=case["effort"], code_bits=case["code_bits"])
    else:
        options = {name: case[name] for name in ("trees", "effort", "code_bits") if name in case}
        index = constann.Forest(case["dim"], case["metric"], **options)
    index.add(rows, answers.ids_by_rule(case["ids"], case["rows"]) if "ids" in case else None)
    index.build(threads=2, seed=case["seed"])
    return index


@pytest.mark.parametrize(("kind", "metric"), EACH)
def test_indexes_have_the_known_fingerprints_and_files(kind: str, metric: str, tmp_path: Path) -> None:
    cases = [case for case in known("indexes.json") if (case["kind"], case["metric"]) == (kind, metric)]
    assert cases
    for case in cases:
        index = index_of(case)
        assert index.fingerprint == case["fingerprint"], case
        index.save(tmp_path / "index")
        assert hashlib.sha256((tmp_path / "index").read_bytes()).hexdigest() == case["file"], case


@pytest.mark.parametrize("metric", reference_graph.METRICS)
def test_graphs_give_the_known_neighbours_at_each_effort(metric: str) -> None:
    indexes: dict[int, constann.Index] = {}
    cases = [case for case in known("graph-searches.json") if case["metric"] == metric]
    assert {case["search_effort"] for case in cases} == set(answers.SEARCHED_EFFORTS)
    for case in cases:
        index = indexes.setdefault(case["input_seed"], index_of(case))
        ids, distances = index.search(answers.graph_queries(case), case["k"], effort=case["search_effort"])
        assert ids.tolist() == case["neighbours"], case
        for expected, got in zip(case["distances"], distances, strict=True):
            assert_bits(expected, got, {**case, "seed": case["input_seed"]})


def test_the_known_graphs_are_of_every_form() -> None:
    """Each width of codes, rotated or not, nodes of several rows, upper levels."""
    cases = [case for case in known("indexes.json") if case["kind"] == "graph" and "ids" not in case]
    graphs = [constann.open(index_of(case).to_bytes()) for case in cases]
    forms = {(graph.code_bits, graph.rotated) for graph in graphs}  # type: ignore[attr-defined]
    assert {(0, False), (4, False), (4, True), (7, False)} <= forms
    assert any(graph.nodes < len(graph) for graph in graphs)  # type: ignore[attr-defined]
    assert any(graph.nodes >= 32 * 64 for graph in graphs)  # type: ignore[attr-defined]


def test_ids_and_codes_are_among_the_known_indexes() -> None:
    """Codes of rows and planes are in the file, or what the reference says of them would be said of nothing."""
    cases = known("indexes.json")
    for metric in METRICS:
        for kind in [kind for kind, of in EACH if of == metric]:
            rules = {case.get("ids") for case in cases if (case["kind"], case["metric"]) == (kind, metric)}
            assert rules == {None, *answers.IDS_RULES}
        coded = [case for case in cases if (case["kind"], case["metric"]) == ("forest", metric) and "code_bits" in case]
        files = [answers.file_of(case) for case in coded]
        tags = [reference_file.tags(file) for file in files]
        assert metric == "hamming" or sum({23, 24} <= set(each) for each in tags) >= 2


KEPT = [case for case in known("indexes.json") if "kept" in case]


def test_every_kept_file_has_a_case() -> None:
    assert {case["kept"] for case in KEPT} == {f"files/{path.name}" for path in (GOLDEN / "files").iterdir()}
    assert {(case["kind"], case["metric"]) for case in KEPT} == set(EACH)


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case["kept"])
def test_kept_files_open_and_answer(case: answers.Case) -> None:
    index = constann.open(GOLDEN / case["kept"], verify=True)
    assert type(index).__name__.lower() == case["kind"]
    assert (index.metric, index.dim, len(index), index.seed) == tuple(
        case[name] for name in ("metric", "dim", "rows", "seed")
    )
    assert index.fingerprint == case["fingerprint"]
    rows = inputs.rows_of(case["metric"], case["numbers"], case["input_seed"], case["rows"], case["dim"])
    for query in rows:
        effort = None if case["kind"] == "exact" else 10**9  # enough to look at every row
        ids, distances = index.search(query, case["rows"] + 1, effort=effort)
        expected = reference.nearest(case["metric"], query, rows, case["rows"] + 1)
        np.testing.assert_array_equal(ids[0], expected[0])
        assert answers.hex_bits(distances[0]) == answers.hex_bits(expected[1])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_exact_answers_of_the_drift_pin_are_those_of_the_reference(
    metric: str, vectors: np.ndarray, queries: np.ndarray
) -> None:
    found = [reference.nearest(metric, query, vectors, 10) for query in queries]
    ids, distances = (np.stack(each) for each in zip(*found, strict=True))
    expected = json.loads((GOLDEN / "carried-data.json").read_text())["answers"][f"exact-{metric}"]
    assert hashlib.sha256(ids.tobytes()).hexdigest() == expected["ids"]
    assert hashlib.sha256(distances.tobytes()).hexdigest() == expected["distances"]
