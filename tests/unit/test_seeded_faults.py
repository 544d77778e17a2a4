"""Faults planted in pipelines: each is named at the stage where it enters, not at a later one where it shows."""

import ctypes
import io
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import reference

import constann
from constann import _core, comparison, workload
from constann.command_line import main
from constann.comparison import Comparison, Tolerances
from constann.comparison.bisection import bisect
from constann.recorder import Recording

ROWS = workload._floats(workload._draws(7, 300, 24))


def compared(folder: Path, *runs: Callable[[Recording], None], tolerances: Tolerances | None = None) -> Comparison:
    """Record each run as a machine of its own, and compare them."""
    machines = []
    for number, run in enumerate(runs):
        path = folder / f"machine-{number}.rec"
        with constann.recording(path) as rec:
            run(rec)
        machines.append(comparison.read(path))
    return comparison.compare(machines, tolerances)


def first_of(found: Comparison) -> str | None:
    return found.first.name if found.first else None


DECODING = """\
import io, sys
import numpy as np
import constann

path, out, decoder = sys.argv[1:]
with open(path, "rb") as file:
    encoded = file.read()
if decoder == "pillow":
    from PIL import Image
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
else:
    import av
    with av.open(io.BytesIO(encoded)) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
with constann.recording(out) as rec:
    rec.stage("file", np.frombuffer(encoded, np.uint8))
    rec.stage("pixels", pixels)
    resized = pixels.reshape(16, 4, 16, 4, 3).astype(np.int64).sum(axis=(1, 3))
    rec.stage("resized", resized)
    rec.stage("embedding", (resized.reshape(-1) / 4080).astype(np.float32))
"""


def test_one_jpeg_by_two_decoders_parts_at_the_pixels_by_the_decoders_library(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[0:64, 0:64]
    pixels = np.stack([(x * 5 + y * 3) % 256, (x * y) % 256, (255 - 4 * x) % 256], axis=-1).astype(np.uint8)
    encoded = io.BytesIO()
    image.fromarray(pixels).save(encoded, "JPEG", quality=75)
    (tmp_path / "image.jpg").write_bytes(encoded.getvalue())
    (tmp_path / "decode.py").write_text(DECODING)
    machines = []
    for number, decoder in enumerate(("pillow", "pyav", "pillow", "pyav")):
        out = tmp_path / f"{decoder}-{number}.rec"
        # What does not matter is not the same on the machines that agree.
        environment = {**os.environ, "OMP_NUM_THREADS": str(1 + number // 2)}
        command = [sys.executable, "decode.py", "image.jpg", out, decoder]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment)
        machines.append(comparison.read(out))
    decoded = [each.stages["pixels"].array for each in machines]
    assert (decoded[0] != decoded[1]).any(), "the two decoders agree: take others"
    found = comparison.compare(machines)
    assert first_of(found) == "pixels" and found.groups == ((0, 2), (1, 3))
    assert found.parting[0].exact and found.parting[0].fact.startswith("library ")
    telling = {each.fact for each in found.parting[:20]}
    assert any("avcodec" in each for each in telling) and any("jpeg" in each for each in telling)
    assert not any("OMP_NUM_THREADS" in each.fact for each in found.parting)


def test_normalisation_in_another_precision_is_named(tmp_path: Path) -> None:
    def run(dtype: type) -> Callable[[Recording], None]:
        def record(rec: Recording) -> None:
            rec.stage("vectors", ROWS)
            wide = ROWS.astype(dtype)
            unit = (wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))).astype(np.float32)
            rec.stage("normalised", unit)
            rec.stage("similar", unit @ unit[0])

        return record

    found = compared(tmp_path, run(np.float32), run(np.float64))
    assert first_of(found) == "normalised"
    assert found.first is not None and (found.first.differences[0].largest_ulp or 0) <= 4
    assert compared(
        tmp_path, run(np.float32), run(np.float64), tolerances=Tolerances([("*", "rtol", 1e-4), ("*", "atol", 1e-6)])
    ).agrees


KERNEL = """\
void answers(const float *query, const float *rows, int count, int dim, float *out) {
    for (int row = 0; row < count; ++row) {
        float sum = 0;
        for (int i = 0; i < dim; ++i) sum += query[i] * rows[row * dim + i];
        out[row] = sum;
    }
}
"""


def test_a_kernel_that_contracts_is_named_before_its_answers(tmp_path: Path, compiler: str) -> None:
    (tmp_path / "kernel.c").write_text(KERNEL)
    flags = ["-mfma"] if platform.machine() == "x86_64" else []
    if flags and "fma" not in constann.kernels.cpu_features():
        pytest.skip("this CPU has no fused multiply-add")

    def run(contract: str) -> Callable[[Recording], None]:
        library = tmp_path / f"{contract}.so"
        command = [compiler, "-x", "c", "-O2", *flags, f"-ffp-contract={contract}", "-fPIC", "-shared", "-o", library]
        subprocess.run([*command, tmp_path / "kernel.c"], check=True)

        def record(rec: Recording) -> None:
            kernel = ctypes.CDLL(str(library)).answers
            out = np.zeros(len(ROWS), np.float32)
            rec.stage("input", ROWS)
            rows = reference.unit(ROWS)
            rec.stage("canonical rows", rows)
            kept = [each.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for each in (rows[0], rows, out)]
            kernel(kept[0], kept[1], len(rows), rows.shape[1], kept[2])
            rec.stage("kernel answers", out)
            order = np.lexsort((np.arange(len(out)), -out))[:10]
            rec.neighbours("search", order[None], -out[order][None])

        return record

    found = compared(tmp_path, run("off"), run("fast"))
    assert first_of(found) == "kernel answers"
    assert found.parting and found.parting[0].fact.startswith("library ")


def test_flush_to_zero_is_named_and_is_what_parts_the_machines(tmp_path: Path, compiler: str) -> None:
    source, library = Path(__file__).with_name("floating_point_mode.c"), tmp_path / "mode.so"
    subprocess.run([compiler, "-x", "c", "-O1", "-fPIC", "-shared", source, "-o", library], check=True)
    mode = ctypes.CDLL(str(library))
    for name in ("get_mode", "flushing"):
        getattr(mode, name).restype = ctypes.c_uint64
    mode.set_mode.argtypes = [ctypes.c_uint64]

    def run(flushing: bool) -> Callable[[Recording], None]:
        def record(rec: Recording) -> None:
            small = ROWS * np.float32(2.0**-60)
            before = mode.get_mode()
            rec.stage("input", small)
            if flushing:
                mode.set_mode(mode.flushing())
            try:
                rec.stage("squares", small * small * np.float32(0.25))
                # Constann's own answers are guarded, and stay the same.
                index = constann.build(small, "euclidean", kind="exact")
                rec.stage("sections", np.frombuffer(index.to_bytes(), np.uint8))
            finally:
                mode.set_mode(before)

        return record

    found = compared(tmp_path, run(False), run(False), run(True))
    assert first_of(found) == "squares" and found.groups == ((0, 1), (2,))
    assert found.parting[0].fact == "floating point" and found.parting[0].values[0] == ("plain",)
    assert "flush-to-zero" in found.parting[0].values[1][0]
    assert [each.name for each in found.stages if not each.agrees] == ["squares"]


def sections_of(rec: Recording, content: bytes) -> None:
    for name, offset, length, _ in _core.inspect(content)[2]:
        rec.stage(f"sections/{name}", np.frombuffer(content[offset : offset + length], np.uint8))


def test_another_seed_is_named_at_the_trees_and_not_at_the_answers(tmp_path: Path) -> None:
    def run(seed: int) -> Callable[[Recording], None]:
        def record(rec: Recording) -> None:
            rec.stage("vectors", ROWS)
            index = constann.build(ROWS, kind="forest", seed=seed)
            sections_of(rec, index.to_bytes())
            ids, distances = index.search(ROWS[:20], 10, effort=20)
            rec.neighbours("search", ids, distances, "cosine", "vectors", "vectors")

        return record

    found = compared(tmp_path, run(1), run(2), run(1))
    assert first_of(found) in ("sections/tree_roots", "sections/split_children") and found.groups == ((0, 2), (1,))
    assert compared(tmp_path, run(3), run(3)).agrees


def test_two_neighbours_swapped_at_equal_distance_are_a_tie_swap_and_cost_no_recall(tmp_path: Path) -> None:
    vectors = np.repeat(ROWS[:20], 2, axis=0)
    ids, distances = constann.build(vectors, "euclidean", kind="exact").search(ROWS[:5], 6)
    swapped = ids.copy()
    swapped[3, [0, 1]] = ids[3, [1, 0]]

    def run(answer: np.ndarray) -> Callable[[Recording], None]:
        def record(rec: Recording) -> None:
            rec.stage("vectors", vectors)
            rec.stage("queries", ROWS[:5])
            rec.neighbours("search", answer, distances, "euclidean", "vectors", "queries")

        return record

    found = compared(tmp_path, run(ids), run(swapped))
    assert first_of(found) == "search/ids"
    assert found.first is not None and found.first.differences[0].element == (3, 0)
    (neighbours,) = found.first.neighbours
    assert (neighbours.tie_swaps, neighbours.near_ties, neighbours.true_misses) == (2, 0, 0)
    assert neighbours.canonical and neighbours.recall == (1.0, 1.0)


@pytest.mark.parametrize("changed", ["rows", "split_planes", "leaf_rows"])
def test_an_index_file_with_one_section_changed_is_named_at_that_section(changed: str, tmp_path: Path) -> None:
    whole = constann.build(ROWS, kind="forest").to_bytes()
    other = bytearray(whole)
    offset, length = next((offset, length) for name, offset, length, _ in _core.inspect(whole)[2] if name == changed)
    other[offset + length // 2] ^= 1
    found = compared(tmp_path, lambda rec: sections_of(rec, whole), lambda rec: sections_of(rec, bytes(other)))
    assert first_of(found) == f"sections/{changed}"
    assert found.first is not None and found.first.differences[0].element == (length // 2,)


@pytest.mark.parametrize(("noise", "first"), [(1e-6, None), (1e-3, "random/output")])
def test_all_ones_then_random_agree_to_1e_5(noise: float, first: str | None, tmp_path: Path) -> None:
    def model(given: np.ndarray, noise: float) -> np.ndarray:
        # All ones are alike in both; what is not round shows the difference.
        return given + np.float32(noise) * (given - np.floor(given))

    for name, amount in (("edge", 0.0), ("cloud", noise)):
        with constann.recording(tmp_path / f"{name}.rec") as rec:
            rec.ones_then_random(lambda given, amount=amount: model(given, amount), (4, 8))
    files = [str(tmp_path / f"{name}.rec") for name in ("edge", "cloud")]
    assert main(["compare", *files, "--preset", "ones-then-random"]) == (0 if first is None else 1)
    found = comparison.compare(
        [comparison.read(each) for each in files], Tolerances([("*", "atol", 1e-5), ("*", "rtol", 1e-5)])
    )
    assert first_of(found) == first


@pytest.fixture(scope="module")
def small() -> Callable[[str], comparison.Recorded]:
    """Runs the workload of a recording here."""

    def run(kernels: str) -> comparison.Recorded:
        constann.kernels.use(kernels)
        try:
            rec = Recording()
            own = workload.Set("own", ROWS, ROWS[:5])
            workload.run(rec, {"name": "own", "metrics": ["cosine"], "kinds": ["exact"], "k": 3}, own=own)
        finally:
            constann.kernels.use(None)
        stages = {}
        for entry in rec.stages:
            content = rec._arrays[entry["member"]]
            array = np.frombuffer(content, entry["dtype"]).reshape(entry["shape"]).copy()
            dtype = np.dtype(entry["dtype"])
            stages[entry["name"]] = comparison.Stage(entry["name"], dtype, array.shape, entry["sha256"], array)
        return comparison.Recorded(kernels, stages, {}, rec.workload)

    return run


def test_bisection_stops_at_the_first_setting_that_differs(small: Callable[[str], comparison.Recorded]) -> None:
    recorded = small("scalar")

    def run(given: comparison.Recorded, kernels: str, threads: int) -> comparison.Recorded:
        here = small(kernels)
        if threads == 2:  # the planted fault: a kernel wrong in its last bit
            stage = here.stages["kernels/own/cosine/many"]
            stage.array.view(np.uint32)[0, 0] ^= 1
            stage.sha256 = comparison.reading.recorder.digest(stage.array)
        return here

    settings = [("scalar", 1), ("baseline" if platform.machine() == "x86_64" else "neon", 2), ("scalar", 3)]
    trials = list(bisect(recorded, Tolerances(), settings, run))
    assert [each.found.agrees for each in trials] == [True, False]
    assert "differs first at kernels/own/cosine/many" in trials[-1].sentence


@pytest.mark.parametrize("part", ["rows/own/cosine", "kernels/own/cosine/many", "distances/own/exact/cosine"])
def test_the_script_shows_the_difference_again_and_who_is_right(
    part: str, small: Callable[[str], comparison.Recorded], tmp_path: Path
) -> None:
    right, wrong = small("scalar"), small("scalar")
    right.label, wrong.label = "right", "wrong"
    stage = wrong.stages[part]
    stage.array.view(np.uint32)[2, 1] ^= 1
    stage.sha256 = comparison.reading.recorder.digest(stage.array)
    found = comparison.compare([right, wrong])
    assert first_of(found) == part
    script = comparison.reproduce(found, tmp_path / "again")[0]
    done = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "this machine agrees with right"


def test_a_pipeline_of_ones_own_gets_a_script_to_fill_in(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        *(lambda rec, s=scale: (rec.stage("a", ROWS), rec.stage("b", ROWS * np.float32(s))) for scale in (1, 2)),
    )
    script = comparison.reproduce(found, tmp_path / "again")[0]
    np.testing.assert_array_equal(np.load(script.parent / "before.npy"), ROWS)
    text = script.read_text()
    assert "raise NotImplementedError" in text
    script.write_text(
        text.replace(text[text.index("    raise") : text.index("\n\n\ndef bits")], "    return given['before'] * 2")
    )
    done = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "this machine agrees with machine-1"


@pytest.mark.parametrize("section", ["node_rows", "links", "upper_links", "codes"])
def test_a_graph_that_was_built_otherwise_is_named_by_its_section(section: str, tmp_path: Path) -> None:
    given = next(each for each in workload.standard() if each.name == "levels")
    found = workload.record_index(given, "graph", "cosine", dim=None, k=5)
    files = []
    for label in ("right", "wrong"):
        files.append(tmp_path / f"{label}.rec")
        with constann.recording(files[-1]) as rec:
            for name, array in found.items():
                changed = array.copy()
                if label == "wrong" and name == f"sections/{section}":
                    changed[7] ^= 1
                rec.stage(name, changed)
    assert first_of(comparison.compare([comparison.read(each) for each in files])) == f"sections/{section}"


@pytest.mark.slow
def test_the_standard_workload_is_the_same_by_every_kernel_set_and_covers_all(tmp_path: Path) -> None:
    machines = []
    for each in constann.kernels.available():
        code = (
            f"from constann.__main__ import main; main(['record', '{each.name}.rec', '-q', '--kernels', '{each.name}'])"
        )
        subprocess.run([sys.executable, "-c", dedent(code)], check=True, cwd=tmp_path)
        machines.append(comparison.read(tmp_path / f"{each.name}.rec"))
    assert all(each.facts["kernels"] == each.label for each in machines)
    stages = list(machines[0].stages)
    for metric in workload.METRICS:
        for kind in workload.kinds_for(metric):
            for name in ("dim-15", "dim-16", "dim-17", "ties", "tiny-1", "clustered", "levels", "real", "denormal"):
                assert f"ids/{name}/{kind}/{metric}" in stages
    assert machines[0].stages["sections/levels/graph/cosine/upper_links"].shape[0] > 0
    order = [
        workload._Stages.ORDER.index(part)
        for each in stages
        if (part := each.partition("/")[0]) in workload._Stages.ORDER
    ]
    assert order == sorted(order) and stages[-1].startswith("distances/")
    if len(machines) > 1:
        found = comparison.compare(machines)
        assert found.agrees and all(each.equal_bits for each in found.stages), comparison.text(found)
