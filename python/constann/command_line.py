"""The commands of `constann`, which need click and rich. They read, call and print; the library computes.

`doctor` stands by itself and is only named here.
"""

import contextlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress

import constann
from constann import _core, indexes, recording_commands, storage, vector_files, workload

__all__ = ["main"]

WELL, NO, USAGE, IO_ERROR, INTERRUPTED = 0, 1, 2, 3, 130
_BLOCK = 1 << 16
_BUILT_WITH: dict[indexes.Kind, set[str]] = {"graph": {"effort"}, "forest": {"trees", "effort"}, "exact": set()}
_EPILOG = (
    "Exit status: 0 well; 1 the answer is no (damaged); 2 wrong usage or input; 3 a file cannot be read or written; "
    "130 interrupted."
)
_file = click.Path(path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (NaN and infinities as null).")
_threads = click.option("--threads", type=int, help="At most so many threads. [default: the CPUs of this process]")


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(constann.__version__)
def commands() -> None:
    """Build, search, check and convert Constann indexes: the same neighbours on every machine."""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value


def _print_json(answer: dict[str, Any]) -> None:
    click.echo(json.dumps(_finite(answer), ensure_ascii=False))


def _searchable(opened: Any, path: Path) -> constann.Index:
    if isinstance(opened, constann.PairMap):
        raise click.UsageError(f"{path} holds a map of pairs, which is no index")
    index: constann.Index = opened
    return index


@contextlib.contextmanager
def _progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, a line at each tenth in a pipe, nothing if quiet."""
    console = Console(stderr=True)
    if quiet:
        yield lambda done, total: None
        return
    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(what)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    said = -1

    def line(done: int, total: int) -> None:
        nonlocal said
        tenth = 10 * done // max(total, 1)
        if tenth != said:
            said = tenth
            click.echo(f"{what}: {done} of {total}", err=True)

    yield line


def _ids_of(path: Path | None) -> Any:
    return None if path is None else vector_files.read_ids(path)


@commands.command(epilog=_EPILOG)
@click.argument("vectors", type=_file)
@click.argument("out", type=_file)
@click.option("--metric", type=click.Choice(workload.METRICS), default="cosine", show_default=True)
@click.option("--kind", type=click.Choice([*_BUILT_WITH]), default="graph", show_default=True)
@click.option("--trees", type=int, help="Of a forest: more find more, and take more room.")
@click.option(
    "--effort", type=int, help="What a search takes by default: a graph's nodes in view, a forest's candidates."
)
@click.option("--dim", type=int, help="For hamming: bits, where not all of the last column count.")
@click.option("--ids", type=_file, help="One string a line, or integers in an .npy file.")
@click.option("--array", help="Which array of an .npz file.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--on-disk", is_flag=True, help="Build in OUT's folder instead of memory, for sets larger than that.")
@_threads
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@_as_json
def build(
    vectors: Path,
    out: Path,
    metric: Any,
    kind: indexes.Kind,
    trees: int | None,
    effort: int | None,
    dim: int | None,
    ids: Path | None,
    array: str | None,
    seed: int,
    on_disk: bool,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build an index of VECTORS (.npy, .npz, .fvecs, .bvecs) and save it as OUT.

    OUT is replaced in one step where it exists: a crash or Ctrl-C leaves the old file whole.
    """
    rows = vector_files.read(vectors, array)
    names = _ids_of(ids)
    if names is not None and len(names) != len(rows):
        raise click.UsageError(f"{ids} has {len(names)} ids for the {len(rows)} vectors of {vectors}")
    if dim is None:
        dim = rows.shape[1] * 8 if metric == "hamming" else rows.shape[1]
    asked = {name: number for name, number in (("trees", trees), ("effort", effort)) if number is not None}
    for name in asked.keys() - _BUILT_WITH[kind]:
        raise click.UsageError(f"--{name} is not for --kind {kind}: leave it out, or build another kind")
    index = indexes.KINDS[kind].index_type(dim, metric, path=out if on_disk else None, **asked)
    with _progress("reading", quiet) as tell:
        for start in range(0, len(rows), _BLOCK):
            end = min(start + _BLOCK, len(rows))
            index.add(rows[start:end], None if names is None else names[start:end])
            tell(end, len(rows))
    with _progress("building", quiet) as tell:
        index.build(threads, seed, tell)
    if not on_disk:
        index.save(out)
    answer = {"index": str(out), "rows": len(index), "fingerprint": index.fingerprint, "bytes": out.stat().st_size}
    if as_json:
        _print_json(answer)
    else:
        click.echo(f"{out}: {len(index)} rows, {answer['bytes']} bytes, fingerprint {index.fingerprint}")


@commands.command(epilog=_EPILOG)
@click.argument("index", type=_file)
@click.argument("queries", type=_file)
@click.option("-k", type=int, default=10, show_default=True, help="Neighbours of each query.")
@click.option("--effort", type=int, help="Trades time for recall. [default: the index's]")
@click.option("--allowed", type=_file, help="Ids that may be returned: one a line, or .npy.")
@click.option("--exclude", type=_file, help="Ids that may not be returned.")
@click.option("--array", help="Which array of an .npz file.")
@click.option("--memory", type=click.Choice(["map", "warm", "copy", "lock"]), default="map", show_default=True)
@click.option("--out", type=_file, help="Write .npz (ids, distances), .ivecs (ids) or .tsv instead of printing.")
@_threads
@_as_json
def query(
    index: Path,
    queries: Path,
    k: int,
    effort: int | None,
    allowed: Path | None,
    exclude: Path | None,
    array: str | None,
    memory: Any,
    out: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find the nearest rows of each of QUERIES: a line of query, id and distance for each, nearest first.

    What --out names is replaced in one step: a crash or a full disk leaves the old file whole.
    """
    if out is not None and out.suffix not in (".npz", ".ivecs", ".tsv"):
        raise click.UsageError(f"--out takes .npz, .ivecs or .tsv, not {out.name}")
    opened = _searchable(constann.open(index, memory=memory), index)
    ids, distances = opened.search(
        vector_files.read(queries, array),
        k,
        effort,
        threads,
        _named(opened, _ids_of(allowed)),
        _named(opened, _ids_of(exclude)),
    )
    if out is not None and out.suffix == ".npz":
        whole = io.BytesIO()
        np.savez(whole, ids=ids, distances=distances)
        storage.write_atomically(out, [whole.getbuffer()])
    elif out is not None and out.suffix == ".ivecs":
        vector_files.write_ivecs(out, ids)
    else:
        names = opened.labels(ids).tolist() if opened._id_kind == _STRINGS else ids.tolist()
        if as_json and out is None:
            return _print_json({"ids": names, "distances": distances.tolist()})
        lines = (
            f"{number}\t{name}\t{distance!r}\n"
            for number, row in enumerate(names)
            for name, distance in zip(row, distances[number].tolist(), strict=True)
            if name is not None and not (name == -1 and math.isinf(distance))
        )
        if out is None:
            click.echo("".join(lines), nl=False)
        else:
            storage.write_atomically(out, ["".join(lines).encode()])
    if as_json:
        _print_json({"out": str(out), "queries": len(ids), "k": k})
    return None


_STRINGS = 2


def _named(index: constann.Index, ids: Any) -> Any:
    """Ids as the index has them: lines of a file are numbers unless it has strings."""
    if not isinstance(ids, list) or index._id_kind == _STRINGS:
        return ids
    try:
        return np.array([int(each) for each in ids], np.int64)
    except ValueError as error:
        raise click.UsageError(f"the index has integer ids: {error}") from None


@commands.command(epilog=_EPILOG)
@click.argument("index", type=_file)
@_as_json
def info(index: Path, as_json: bool) -> None:
    """Say what INDEX holds: kind, metric, rows, parameters, sections, fingerprint."""
    opened: Any = constann.open(index)
    kinds = ("row numbers", "int64", "strings")
    answer: dict[str, Any] = {"index": str(index), "kind": type(opened).__name__.lower()}
    if isinstance(opened, constann.PairMap):
        answer |= {"dtype": str(opened.dtype), "pairs": len(opened), "users": len(opened.users())}
    else:
        answer |= {"metric": opened.metric, "dim": opened.dim, "rows": len(opened)}
        answer |= {"ids": kinds[opened._id_kind], "seed": opened.seed}
    answer |= {"bytes": index.stat().st_size, "fingerprint": opened.fingerprint}
    own = ("trees", "effort", "leaf_capacity", "code_bits")
    answer |= {name.replace("_", " "): getattr(opened, name) for name in own if hasattr(opened, name)}
    answer |= {
        "format version": _core.format_version,
        "arithmetic revision": _core.arithmetic_revision,
        "sections": {name: len(content) for name, content in opened._contents()},
    }
    if as_json:
        return _print_json(answer)
    for name, value in answer.items():
        if name == "sections":
            for section, length in value.items():
                click.echo(f"{'  ' + section:20}{length} bytes")
        else:
            click.echo(f"{name:20}{value}")
    return None


@commands.command(epilog=_EPILOG)
@click.argument("indexes", type=_file, nargs=-1, required=True)
@_as_json
def verify(indexes: Sequence[Path], as_json: bool) -> None:
    """Read every byte of each of INDEXES and check it. Exit status 1 where one is damaged."""
    found: dict[str, str | None] = {}
    for path in indexes:
        try:
            constann.open(path, verify=True)
            found[str(path)] = None
        except constann.FileFormatError as error:
            found[str(path)] = str(error)
    if as_json:
        _print_json({"whole": not any(found.values()), "indexes": found})
    else:
        for name, problem in found.items():
            click.echo(problem or f"{name}: whole")
    sys.exit(NO if any(found.values()) else WELL)


@commands.command(epilog=_EPILOG)
@click.argument("source", metavar="IN", type=_file)
@click.argument("out", type=_file)
@click.option("--dim", type=int, help="Annoy's f, which its files do not say.")
@click.option("--metric", type=click.Choice(["angular", *workload.METRICS]), help="Annoy's metric.")
@_as_json
def convert(source: Path, out: Path, dim: int | None, metric: str | None, as_json: bool) -> None:
    """Turn Annoy's file IN (.ann) into an index, or an index IN into OUT (.ann) for Annoy."""
    annoy = import_module("constann.annoy")
    if out.suffix == ".ann":
        opened = constann.open(source)
        if not isinstance(opened, constann.Forest):
            raise click.UsageError(f"{source} is no forest: Annoy's files hold trees")
        annoy.write(opened, out)
    elif dim is None or metric is None:
        raise click.UsageError("Annoy's files do not say their f and metric: give --dim and --metric")
    else:
        annoy.read(source, dim, metric).save(out)
    if as_json:
        _print_json({"in": str(source), "out": str(out), "bytes": out.stat().st_size})
    else:
        click.echo(f"{out}: {out.stat().st_size} bytes")


@commands.command(epilog=_EPILOG)
@click.argument("index", type=_file)
@click.argument("queries", type=_file)
@click.option("-k", type=int, default=10, show_default=True)
@click.option("--array", help="Which array of an .npz file.")
@click.option("--efforts", default="0.1,0.3,1,3,10", show_default=True, help="As multiples of the index's own effort.")
@_threads
@_as_json
def bench(
    index: Path, queries: Path, k: int, array: str | None, efforts: str, threads: int | None, as_json: bool
) -> None:
    """Measure recall against exact search, and queries a second, at several efforts."""
    opened = _searchable(constann.open(index), index)
    rows = vector_files.read(queries, array)
    exact = constann.Exact(opened.dim, opened.metric)  # type: ignore[arg-type]
    exact.add(opened._stored_rows(np.arange(len(opened))))
    exact.build()
    number = opened._ids()
    true = (
        [{*found} for found in number[exact.search(rows, k)[0]].tolist()]
        if opened._id_kind != _STRINGS
        else [{*found} for found in exact.search(rows, k)[0].tolist()]
    )
    try:
        factors = [float(each) for each in efforts.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--efforts: {error}") from None
    measured = []
    tried = [max(1, int(opened.effort * each)) for each in factors] if hasattr(opened, "effort") else [None]
    for effort in tried:
        started = time.perf_counter()
        ids, _ = opened.search(rows, k, effort, threads)
        seconds = time.perf_counter() - started
        hits = sum(len(expected & {*found}) for expected, found in zip(true, ids.tolist(), strict=True))
        measured.append(
            {"effort": effort, "recall": hits / max(sum(map(len, true)), 1), "queries a second": len(rows) / seconds}
        )
    if as_json:
        return _print_json({"index": str(index), "k": k, "measured": measured})
    click.echo(f"{'effort':>12} {'recall@' + str(k):>10} {'queries/s':>12}")
    for each in measured:
        click.echo(f"{each['effort'] or 'all':>12} {each['recall']:>10.4f} {each['queries a second']:>12.0f}")
    return None


@commands.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def doctor(arguments: tuple[str, ...]) -> None:
    """Examine this machine and this installation: CPU, numpy, the extension, kernels, known answers."""
    sys.exit(import_module("constann.doctor.report").main(list(arguments)))


commands.add_command(recording_commands.record)
commands.add_command(recording_commands.compare)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    try:
        commands.main(None if arguments is None else list(arguments), prog_name="constann", standalone_mode=False)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing must be written to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (click.exceptions.Exit, SystemExit) as stop:
        code = stop.exit_code if isinstance(stop, click.exceptions.Exit) else stop.code
        return code if isinstance(code, int) else WELL
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except (OSError, ValueError, TypeError, LookupError) as error:
        click.echo(f"Error: {error}", err=True)
        if isinstance(error, OSError):
            return IO_ERROR
        return NO if isinstance(error, constann.FileFormatError) else USAGE
    return WELL
