"""The commands `record` and `compare`. They read options and print; `workload` and `comparison` do the work."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from constann import comparison, indexes, kernels, recorder, vector_files, workload
from constann.comparison import bisection, reproduction

__all__ = ["compare", "record"]

_EPILOG = "Exit status: 0 all agree; 1 they differ; 2 wrong usage, or a file cannot be read."
_file = click.Path(path_type=Path)


@click.command()
@click.argument("out", type=_file)
@click.option("--vectors", type=_file, help="Your own instead of the standard workload (.npy, .npz, .fvecs, .bvecs).")
@click.option("--queries", type=_file, help="Needed with --vectors.")
@click.option("--metric", "metrics", multiple=True, type=click.Choice(workload.METRICS), help="Of your own: several.")
@click.option("--kind", "kinds", multiple=True, help="Of your own: several. [default: all]")
@click.option("-k", type=click.IntRange(1), default=workload.K, show_default=True, help="Of your own: neighbours.")
@click.option("--array", help="Which array of an .npz file.")
@click.option("--preset", type=click.Choice(workload.PRESETS), default="standard", show_default=True)
@click.option("--dim", type=click.IntRange(1, 65536), default=128, show_default=True, help="Of ones-then-random.")
@click.option("--name", help="What reports call this machine; else they use the file's name.")
@click.option("--threads", type=int, help="At most so many threads. [default: the CPUs of this process]")
@click.option("--kernels", "kernel_set", help="Force a kernel set, as CONSTANN_KERNELS does.")
@click.option(
    "--keep", type=click.IntRange(0), default=recorder.KEPT_BYTES, help="Stages up to so many bytes are whole."
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
def record(
    out: Path,
    vectors: Path | None,
    queries: Path | None,
    metrics: Sequence[str],
    kinds: Sequence[str],
    k: int,
    array: str | None,
    preset: str,
    dim: int,
    name: str | None,
    threads: int | None,
    kernel_set: str | None,
    keep: int,
    quiet: bool,
) -> None:
    """Run a workload here and write all its stages to OUT, one file to compare with those of other machines.

    It holds no names of users, hosts or folders, and the arrays: of your own vectors too.
    """
    if (vectors is None) != (queries is None):
        raise click.UsageError("--vectors and --queries go together")
    if kernel_set is not None:
        kernels.use(kernel_set)
    recording = recorder.Recording(name, keep)
    recipe: dict[str, Any] = {"name": preset}
    own = None
    if vectors is not None and queries is not None:
        own = workload.Set("own", vector_files.read(vectors, array), vector_files.read(queries))
        recipe = {"name": "own", "metrics": list(metrics) or ["cosine"], "k": k}
        if unknown := {*kinds} - {*indexes.KINDS}:
            raise click.UsageError(f"there is no kind {', '.join(sorted(unknown))}")
        recipe["kinds"] = list(kinds) or list(indexes.KINDS)
    elif preset == "ones-then-random":
        recipe["dim"] = dim
    workload.run(recording, recipe, threads, own=own)
    recording.write(out)
    if not quiet:
        click.echo(f"{out}: {len(recording.stages)} stages, {out.stat().st_size} bytes, kernels {kernels.current()}")


def _rules(kind: str) -> Callable[[click.Context, click.Parameter, Sequence[str]], list[tuple[str, str, float]]]:
    def read(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> list[tuple[str, str, float]]:
        rules = []
        for each in given:
            stage, _, value = each.rpartition("=")
            try:
                number = float(value)
            except ValueError:
                number = -1.0
            if not 0 <= number < float("inf") or (kind == "ulp" and number != int(number)):
                raise click.BadParameter(f"{each!r} is neither a number nor STAGE=number")
            rules.append((stage or "*", kind, number))
        return sorted(rules, key=lambda rule: rule[0] != "*")  # one for all stages first: a stage's own wins

    return read


def _tolerance(kind: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(f"--{kind}", multiple=True, metavar="[STAGE=]X", callback=_rules(kind), help=what)


@click.command(epilog=_EPILOG)
@click.argument("recordings", type=_file, nargs=-1)
@_tolerance("atol", "Absolute difference allowed; STAGE may have * in it. Several.")
@_tolerance("rtol", "Relative difference allowed.")
@_tolerance("ulp", "Floats that may lie between.")
@click.option("--preset", type=click.Choice(["ones-then-random"]), help="Its tolerance: atol and rtol 1e-5.")
@click.option("--json", "json_only", is_flag=True, help="Print one JSON object (docs/comparing.md) instead of text.")
@click.option("--html", "html_file", type=_file, help="Write one self-contained page.")
@click.option("--junit", "junit_file", type=_file, help="Write JUnit XML: a test case for each stage.")
@click.option("--markdown", "markdown_file", type=_file, help="Write Markdown, as $GITHUB_STEP_SUMMARY takes it.")
@click.option("--reproduce", type=_file, help="Write a script that shows the first difference, and its arrays.")
@click.option("--bisect", type=_file, metavar="RUN", help="Run RUN's workload here, forcing kernels and threads.")
def compare(
    recordings: Sequence[Path],
    atol: list[tuple[str, str, float]],
    rtol: list[tuple[str, str, float]],
    ulp: list[tuple[str, str, float]],
    preset: str | None,
    json_only: bool,
    html_file: Path | None,
    junit_file: Path | None,
    markdown_file: Path | None,
    reproduce: Path | None,
    bisect: Path | None,
) -> None:
    """Say where RECORDINGS of several machines, files or folders of .npy files, differ first, and why.

    With --bisect no RECORDINGS are needed: kernels and thread counts of this machine are tried against RUN, the
    plainest first, until one differs.
    """
    if preset is not None:
        atol, rtol = [("*", "atol", 1e-5), *atol], [("*", "rtol", 1e-5), *rtol]
    tolerances = comparison.Tolerances((*atol, *rtol, *ulp))
    if bisect is not None:
        if recordings:
            raise click.UsageError("--bisect RUN stands alone: leave the other recordings out")
        sys.exit(_bisect(_read(bisect), tolerances))
    if len(recordings) < 2:
        raise click.UsageError("name two recordings or more")
    found = comparison.compare([_read(path) for path in recordings], tolerances)
    for path, render in (
        (html_file, comparison.html),
        (junit_file, comparison.junit),
        (markdown_file, comparison.markdown),
    ):
        if path is not None:
            try:
                path.write_text(render(found), encoding="utf-8")
            except OSError as error:
                raise click.UsageError(f"{path}: {error.strerror or error}") from None
    click.echo(json.dumps(comparison.as_json(found), indent=1) if json_only else comparison.text(found), nl=json_only)
    if reproduce is not None and not found.agrees:
        written = reproduction.reproduce(found, reproduce)
        click.echo(f"to reproduce it: python {written[0]}", err=True)
    sys.exit(0 if found.agrees else 1)


def _bisect(recorded: comparison.Recorded, tolerances: comparison.Tolerances) -> int:
    trials = []
    for trial in bisection.bisect(recorded, tolerances, bisection.settings_here(), bisection.run_here):
        click.echo(trial.sentence)
        trials.append(trial)
    if trials[-1].found.agrees:
        click.echo("no kernel set or thread count of this machine differs from the recording")
        return 0
    if len(trials) == 1:
        click.echo("the plainest setting differs already: not kernels or threads part this machine from that one")
    click.echo(comparison.text(trials[-1].found), nl=False)
    return 1


def _read(path: Path) -> comparison.Recorded:
    try:
        return comparison.read(path)
    except OSError as error:
        raise click.UsageError(f"{os.fspath(path)}: {error.strerror or error}") from None
