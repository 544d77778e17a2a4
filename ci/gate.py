"""The gate: wheels, machines, matrix, one table, one verdict. It orders the work; each part is a module of its own."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ci import cache, controls, engine, images, machines, matrix, platforms, undo, wheels
from ci.platforms import Machine
from ci.progress import say, step

ROOT = Path(__file__).resolve().parent.parent
CARRIED_DATA = ROOT / "tests" / "conformance" / "data"
GOLDEN = ROOT / "tests" / "golden" / "carried-data.json"


class GateError(ValueError):
    """The gate cannot run as asked; the text says why and what to do."""


@dataclass(frozen=True)
class DataSet:
    """A folder's vectors and queries, by name and digest."""

    vectors: Path
    queries: Path

    @property
    def carried(self) -> bool:
        """Whether this is the slice that the project carries, for which there are known answers."""
        return self.vectors.parent == CARRIED_DATA

    def description(self) -> list[str]:
        """One line for each file: its name and SHA-256."""
        return [
            f"{path.name}  SHA-256 {sha256(path.read_bytes()).hexdigest()}" for path in (self.vectors, self.queries)
        ]


def find_data(folder: Path) -> DataSet:
    """Find the one `*vectors.npy` and the one `*queries.npy` of a folder."""
    found = []
    for ending in ("vectors.npy", "queries.npy"):
        paths = sorted(folder.glob(f"*{ending}"))
        if len(paths) != 1:
            raise GateError(f"{folder} must hold exactly one *{ending}, but it holds {len(paths)}")
        found.append(paths[0].resolve())
    return DataSet(*found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m ci gate`."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="holds *vectors.npy and *queries.npy (default: CONSTANN_DATA, or the slice carried here)",
    )
    parser.add_argument(
        "--machine",
        action="append",
        metavar="NAME",
        help="only this row, such as linux-aarch64/max, or `native` for the engine's own CPU; may be repeated",
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("gate-report"),
        metavar="FOLDER",
        help="where answers and the report go",
    )
    parser.add_argument(
        "--undo", action="store_true", help="remove containers, images, the engine we started and all caches, and end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the gate; 0 only if every expected row ran and all agree."""
    if arguments.undo:
        undo.undo()
        return 0
    data = find_data(arguments.data or Path(os.environ.get("CONSTANN_DATA") or CARRIED_DATA))
    report = arguments.report.resolve()
    report.mkdir(parents=True, exist_ok=True)
    known = platforms.load()
    every = list(known.values())
    with ExitStack() as stack:
        # Compiling and making images wait for different things: side by side they take half the time.
        pool = stack.enter_context(ThreadPoolExecutor(1))
        building = pool.submit(_build_wheels, every, report / "wheels")
        found = stack.enter_context(engine.running(every))
        prepared = images.prepare(found, every, platforms.load_images(), _python())
        built = building.result()
        with machines.Machines(found, known, prepared, built) as ready:
            expected = _chosen(ready.expected(), arguments.machine)
            stages = _run_stages(ready, expected, data, report)

        @contextmanager
        def open_machines(name: str, entries: Mapping[str, str]) -> Iterator[matrix.Machines]:
            """Give machines with one platform's wheel built with these CMake entries."""
            used = {**built, name: _faulty_wheel(known[name], entries)} if entries else built
            with machines.Machines(found, known, prepared, used) as opened:
                yield opened

        outcomes = _run_controls(expected, known, report, open_machines)
    return conclude(stages, data, report, built.values(), outcomes, whole=not arguments.machine)


def _run_controls(
    expected: Sequence[Machine], known: Mapping[str, platforms.Platform], report: Path, open_machines: controls.Opener
) -> list[controls.Outcome]:
    native = [machine for machine in expected if machine.model is None]
    if len(native) < controls.LEAST_WITNESSES:
        return []
    carried = find_data(CARRIED_DATA)
    data = matrix.Data(carried.vectors, carried.queries, controls.ROWS)
    planned = controls.planned(expected, known)
    return controls.run_controls(planned, native, data, report / "controls", open_machines)


def _faulty_wheel(platform: platforms.Platform, entries: Mapping[str, str]) -> Path:
    name = "-".join(f"{key}-{value}" for key, value in sorted(entries.items()))
    folder = cache.folder("faulty", name)
    return wheels.build_wheel(platform, ROOT, folder, cache=cache.folder("wheels"), defines=entries)


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _build_wheels(every: Sequence[platforms.Platform], output: Path) -> dict[str, Path]:
    with step("wheels"):
        return wheels.build_wheels(every, ROOT, output, cache=cache.folder("wheels"))


def _chosen(expected: Sequence[Machine], names: Sequence[str] | None) -> Sequence[Machine]:
    """Return the rows named; "native" stands for all rows of the engine's own CPU."""
    if not names:
        return expected
    chosen: list[Machine] = []
    for name in names:
        chosen += (
            [row for row in expected if row.model is None] if name == "native" else [platforms.find(name, expected)]
        )
    return chosen


def _run_stages(
    ready: matrix.Machines, expected: Sequence[Machine], data: DataSet, report: Path
) -> dict[str, list[matrix.Row]]:
    """Every machine builds the slice; where there are more rows than that, native ones build the whole set too."""
    rows = [(machine, machine.model is not None) for machine in expected]
    sliced = matrix.Data(data.vectors, data.queries, matrix.SLICE_ROWS)
    stages = {"slice": matrix.run_matrix(ready, rows, sliced, report / "slice")}
    native = [(machine, emulated) for machine, emulated in rows if not emulated]
    if native and not data.carried:
        say("the whole set, on the native machines")
        whole = matrix.Data(data.vectors, data.queries, None)
        stages["whole set"] = matrix.run_matrix(ready, native, whole, report / "whole")
    return stages


def conclude(
    stages: Mapping[str, Sequence[matrix.Row]],
    data: DataSet,
    report: Path,
    built: Iterable[Path],
    outcomes: Sequence[controls.Outcome],
    *,
    whole: bool,
) -> int:
    """Print tables and verdict, write the report, and return the exit status."""
    failing = [row for rows in stages.values() for row in rows if not row.bits]
    others = [f"known answers: {problem}" for problem in (check_golden(stages["slice"]) if data.carried else [])]
    others += [f"a wheel for a release has a planted fault: {fault}" for fault in _planted(stages["slice"])]
    others += [f"negative control: {problem}" for outcome in outcomes for problem in outcome.problems]
    passed = not failing and not others
    console = Console(record=True, width=150)
    for line in data.description():
        console.print(Text(f"data   {line}"))
    for path in built:
        console.print(Text(f"wheel  {path.name}  SHA-256 {sha256(path.read_bytes()).hexdigest()}"), soft_wrap=True)
    for name, rows in stages.items():
        console.print(_table(name, rows))
    for row in failing:
        for problem in [row.failure] if row.failure else row.differences:
            console.print(Text(f"FAILED {row.machine.full_name}: {problem}"))
    for problem in others:
        console.print(Text(f"FAILED {problem}"))
    for line in [*_summary(stages["slice"], whole), *_control_summary(outcomes)]:
        console.print(Text(line))
    console.print("verdict: " + ("PASS" if passed else "FAIL"))
    (report / "gate.txt").write_text(console.export_text())
    (report / "gate.json").write_text(json.dumps(_as_json(stages, data, passed), indent=1))
    return 0 if passed else 1


def _planted(rows: Sequence[matrix.Row]) -> set[str]:
    return {row.answers["facts"]["planted_faults"] for row in rows if row.answers} - {""}


def _table(name: str, rows: Sequence[matrix.Row]) -> Table:
    table = Table(title=f"{name}: {_row_count(rows)} rows", title_justify="left", box=None, pad_edge=False)
    for heading in (
        "machine",
        "how",
        "CPU features",
        "kernels",
        "fingerprints",
        "ids",
        "distances",
        "max |Δ|",
        "ULP",
        "allclose",
        "runs",
        "bits",
    ):
        table.add_column(heading, no_wrap=heading != "CPU features", overflow="fold")
    for row in rows:
        facts = row.answers["facts"] if row.answers else {}
        measured = (
            (
                row.digest(".constann")[:10],
                row.digest(".ids.npy")[:10],
                row.digest(".distances.npy")[:10],
                f"{row.largest_delta:.3g}",
                str(row.largest_ulp),
                "yes" if row.allclose else "NO",
            )
            if row.runs
            else ("-",) * 6
        )
        table.add_row(
            row.machine.full_name,
            "emulated" if row.emulated else "native",
            _telling(facts.get("cpu_features", [])),
            facts.get("kernels", "-"),
            *measured,
            "yes" if row.runs else "NO",
            "yes" if row.bits else "NO",
        )
    return table


def _row_count(rows: Sequence[matrix.Row]) -> str:
    counts = {row.answers["rows"] for row in rows if row.answers}
    return " or ".join(f"{count:,}" for count in sorted(counts)) or "no"


# The features that part CPU models from each other, of all that the process read.
_TELLING = ("ssse3", "sse4_2", "avx", "avx2", "fma", "avx512f", "atomics", "asimddp", "sve")


def _telling(features: Sequence[str]) -> str:
    return " ".join(feature for feature in _TELLING if feature in features) or "(baseline)"


def _summary(rows: Sequence[matrix.Row], whole: bool) -> list[str]:
    agreeing = [row for row in rows if row.bits]
    combinations = {
        (row.answers["facts"]["kernels"], row.answers["facts"]["compiler"], row.emulated)
        for row in agreeing
        if row.answers
    }
    lines = [
        f"{len(agreeing)} of {len(rows)} expected rows agree in every bit; for bits they are "
        f"{len(combinations)} distinct combinations of kernels, compiler, and native or emulated"
    ]
    carried = {(name, kernels.name) for name, platform in platforms.load().items() for kernels in platform.kernels}
    ran = {(row.machine.platform, row.machine.kernels) for row in agreeing}
    for platform, kernels in sorted(carried - ran):
        lines.append(
            f"NOT PROVEN {platform}: kernels {kernels} ran on no machine here; ./ci/gate on one that has them proves it"
        )
    lines.append(
        "NOT PROVEN macOS arm64, and Arm processors without an emulator: ./ci/gate on such a machine proves it"
    )
    if not whole:
        lines.append("PARTIAL: --machine chose rows; a release needs them all")
    return lines


def _control_summary(outcomes: Sequence[controls.Outcome]) -> list[str]:
    if not outcomes:
        return ["NOT PROVEN negative controls: they need two native rows, and --machine chose fewer"]
    failed = [outcome for outcome in outcomes if not outcome.problems]
    names = ", ".join(dict.fromkeys(outcome.control.name for outcome in outcomes))
    return [f"{len(failed)} of {len(outcomes)} negative controls failed as they must ({names})"]


def check_golden(rows: Sequence[matrix.Row]) -> list[str]:
    """Compare the carried slice's answers with the known ones; return what differs."""
    known = json.loads(GOLDEN.read_text())
    problems = []
    for row in rows:
        built = row.answers["built"] if row.answers else {}
        for name, expected in known["answers"].items():
            found = built.get(name, {})
            problems += [
                f"{row.machine.full_name}: {name}: {what} is not that of {GOLDEN.name}"
                for what in expected
                if row.runs and found.get(what) != expected[what]
            ]
    return problems


def _as_json(stages: Mapping[str, Sequence[matrix.Row]], data: DataSet, passed: bool) -> dict[str, object]:
    return {
        "passed": passed,
        "data": data.description(),
        "stages": {
            name: [
                {
                    "machine": row.machine.full_name,
                    "emulated": row.emulated,
                    "runs": row.runs,
                    "bits": row.bits,
                    "failure": row.failure,
                    "differences": row.differences,
                    "largest_delta": row.largest_delta,
                    "largest_ulp": row.largest_ulp,
                    "allclose": row.allclose,
                    "answers": row.answers,
                }
                for row in rows
            ]
            for name, rows in stages.items()
        },
    }
