"""Runs a recording's workload here under one kernel set and thread count after another, until one answers differently.

Each run is a process of its own, so that nothing of one is left for the next.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from constann import kernels, processors
from constann.comparison.comparing import Comparison, compare
from constann.comparison.reading import Recorded, RecordingError, read_recording
from constann.comparison.tolerances import Tolerances
from constann.doctor import machine

__all__ = ["Trial", "bisect", "run_here", "settings_here"]

Setting = tuple[str, int]
_TIMEOUT = 3600.0


@dataclass
class Trial:
    """One run here, compared with the recording."""

    kernels: str
    threads: int
    found: Comparison

    @property
    def sentence(self) -> str:
        """What came of it."""
        first = self.found.first
        said = "agrees" if first is None else f"differs first at {first.name}: {first.differences[0].sentence}"
        return f"kernels {self.kernels}, {self.threads} thread{'s' if self.threads > 1 else ''}: {said}"


def settings_here() -> list[Setting]:
    """List kernel sets and thread counts, the plainest first."""
    counts = sorted({1, 2, processors.available()})
    return [(each.name, count) for each in kernels.available() for count in counts]


def bisect(
    recorded: Recorded,
    tolerances: Tolerances,
    settings: list[Setting],
    run: Callable[[Recorded, str, int], Recorded],
) -> Iterator[Trial]:
    """Yield the trials up to the first that differs from the recording.

    Parameters
    ----------
    recorded
        Of `constann record`.
    tolerances
        As for `compare`.
    settings
        Kernel sets and thread counts, tried in this order.
    run
        Runs the workload here; `run_here` but in tests.

    Raises
    ------
    ValueError
        The recording does not say its workload.
    """
    if recorded.workload is None:
        raise ValueError("it is no recording of `constann record`: only its workloads can be run again here")
    for name, threads in settings:
        trial = Trial(name, threads, compare([recorded, run(recorded, name, threads)], tolerances))
        yield trial
        if not trial.found.agrees:
            return


def run_here(recorded: Recorded, kernel_set: str, threads: int) -> Recorded:
    """Record the workload of a recording in a process of its own."""
    launcher = machine.launcher()
    command = [*(launcher.command if launcher else ()), sys.executable, "-m", "constann", "record", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "here.rec")
        command += ["--kernels", kernel_set, "--threads", str(threads), "--name", f"here, {kernel_set}, {threads}"]
        command += [*_options(recorded, Path(folder)), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        if done.returncode != 0 or not out.exists():
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise RecordingError(f"the workload did not run here with kernels {kernel_set}: {last}")
        return read_recording(out)


def _options(recorded: Recorded, folder: Path) -> list[str]:
    recipe = recorded.workload or {}
    if recipe.get("name") == "standard":
        return []
    if recipe.get("name") == "ones-then-random" and isinstance(recipe.get("dim"), int):
        return ["--preset", "ones-then-random", "--dim", str(recipe["dim"])]
    if recipe.get("name") != "own":
        raise ValueError(f"there is no workload {str(recipe.get('name'))[:40]!r} in this version")
    options = ["-k", str(int(recipe.get("k", 10)))]
    for what in ("vectors", "queries"):
        stage = recorded.stages.get(f"input/own/{what}")
        if stage is None or stage.array is None:
            raise ValueError(f"the recording does not hold all its {what}: record with a larger --keep")
        np.save(folder / f"{what}.npy", stage.array)
        options += [f"--{what}", str(folder / f"{what}.npy")]
    for option, many in (("--metric", recipe.get("metrics")), ("--kind", recipe.get("kinds"))):
        options += [part for each in many or () for part in (option, str(each))]
    return options
