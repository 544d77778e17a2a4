"""The command line of the harness: `./ci/run COMMAND`. It reads arguments and calls the modules, no more."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from docker.errors import DockerException

from ci import (
    cache,
    cibuildwheel,
    data_set,
    engine,
    fetch,
    finish,
    gate,
    host,
    images,
    index_page,
    machines,
    macos_kernels,
    platforms,
    project,
    python_headers,
    record,
    recordings,
    reproduce,
    rootfs,
    undo,
    upstream,
    wheels,
)
from ci.audit import command as audit
from ci.wheel_file import WheelError
from ci.zig import ToolchainError

Command = Callable[[argparse.Namespace], int]


def list_machines(_: argparse.Namespace) -> int:
    """Print every row that platforms/ describes."""
    for platform in platforms.load().values():
        for machine in platform.machines:
            cpu = machine.model or "the engine's own CPU, each kernel set forced"
            numpy = f"numpy {machine.numpy}" if machine.numpy else "no Python"
            print(f"{machine.full_name:36} {numpy:14} {machine.built_by or 'zig':14} {machine.kernels or '':10} {cpu}")
    return 0


def prepare_machines(arguments: argparse.Namespace) -> int:
    """Get an engine and make the images, so that the next run starts at once."""
    with _machines(arguments.python) as ready:
        for machine in ready.expected():
            print(machine.full_name)
    return 0


def run_machine(arguments: argparse.Namespace) -> int:
    """Run Python on one machine and pass on what it prints and its exit status."""
    with _machines(arguments.python) as ready:
        machine = platforms.find(arguments.name, ready.expected())
        run = ready.run(machine, arguments.program, timeout=arguments.timeout)
    print(run.output, end="")
    print(run.errors, end="", file=sys.stderr)
    if not run.ok:
        print(f"{machine.full_name}: {run.outcome}: {run.reason}", file=sys.stderr)
    return 0 if run.ok else run.exit_status or 1


def undo_all(_: argparse.Namespace) -> int:
    """Take back what the harness did to this computer."""
    undo.undo()
    return 0


@contextmanager
def _machines(python: str | None) -> Iterator[machines.Machines]:
    known = platforms.load(python=python)
    with engine.running(list(known.values())) as found:
        prepared = images.prepare(found, list(known.values()), platforms.load_images())
        with machines.Machines(found, known, prepared) as ready:
            yield ready


def _parser() -> argparse.ArgumentParser:
    """Every command is registered here, and nowhere else."""
    parser = argparse.ArgumentParser(prog="./ci/run", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    group = commands.add_parser("machines", help="the machines a release must have run on")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    _register(actions, "list", list_machines)
    prepare = _register(actions, "prepare", prepare_machines)
    run = _register(actions, "run", run_machine)
    run.add_argument("name", help="such as linux-aarch64/a64fx; `machines prepare` prints them all")
    run.add_argument("--timeout", type=float, default=600.0, help="seconds (default: 600)")
    run.epilog = "What follows -- follows `python` there: machines run linux-aarch64/max -- -c 'print(1)'"
    for each in (prepare, run):
        each.add_argument("--python", help="the Python version in the images (default: platforms/images.toml's)")

    wheels.add_arguments(_register(commands, "wheels", wheels.run))
    wheels.add_sdist_arguments(_register(commands, "sdist", wheels.run_sdist))
    reproduce.add_arguments(_register(commands, "reproduce", reproduce.run))
    cibuildwheel.add_arguments(_register(commands, "cibuildwheel", cibuildwheel.run))
    finish.add_arguments(_register(commands, "finish", finish.run))
    audit.add_arguments(_register(commands, "audit", audit.run))
    index_page.add_arguments(_register(commands, "index", index_page.run))
    upstream.add_arguments(_register(commands, "upstream", upstream.run))
    record.add_arguments(_register(commands, "record", record.run))
    macos_kernels.add_arguments(_register(commands, "macos", macos_kernels.run))
    gate.add_arguments(_register(commands, "gate", gate.run))
    fetch.add_arguments(_register(commands, "fetch", fetch.run))
    _register(commands, "undo", undo_all)
    return parser


def _register(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, command: Command
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=(command.__doc__ or "").partition("\n")[0], description=command.__doc__)
    parser.set_defaults(command=command)
    return parser


def _terminate(number: int, _: FrameType | None) -> None:
    # As Ctrl-C does, so that containers and the engine are not left behind.
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    # Split here: argparse takes positional arguments in one go and would miss those after an option.
    end = words.index("--") if "--" in words else len(words)
    chosen = _parser().parse_args(words[:end], argparse.Namespace(program=words[end + 1 :]))
    signal.signal(signal.SIGTERM, _terminate)
    try:
        command: Command = chosen.command
        return command(chosen)
    except (
        cache.CacheError,
        platforms.PlatformError,
        host.HostError,
        engine.EngineError,
        images.ImageError,
        python_headers.HeadersError,
        rootfs.RootError,
        data_set.DataError,
        gate.GateError,
        project.ProjectError,
        recordings.RecordingsError,
        index_page.IndexPageError,
        WheelError,
        ToolchainError,
        DockerException,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"error: {error}: if another user made it (root, under sudo), run this as that user", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
