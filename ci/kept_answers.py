"""Keeps what machines answered, so that a gate repeats only what changed and goes on where an earlier one stopped.

An answer stands for a run only where the build, the machine, its image, the workload and all data are the same, byte
for byte. Failures are never kept, and what was kept is compared anew like everything else.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ci import cache, matrix
from ci.machines import Outcome, Run
from ci.platforms import Machine

_KEPT_DAYS = 30  # without use


class KeptAnswers:
    """Machines that answer from what is kept where they can.

    Parameters
    ----------
    machines
        Run what is not kept.
    identify
        Returns all that a machine is, besides its facts in platforms/: its build, its image, the CPU below.
    folder
        Where answers are kept.
    again
        Run everything, and keep it anew.
    """

    def __init__(
        self,
        machines: matrix.Machines,
        identify: Callable[[Machine], Sequence[str]],
        folder: Path,
        *,
        again: bool = False,
    ) -> None:
        self._machines = machines
        self._identify = identify
        self._folder = folder
        self._again = again
        oldest = time.time() - _KEPT_DAYS * 86_400
        for path in folder.iterdir():
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str],
        environment: Mapping[str, str],
        timeout: float,
    ) -> Run:
        """Give the kept answer of the same run, or run it and keep what it answers."""
        given = {
            inside: cache.digest_of(_read_by_runs(path)) for path, inside in mounts.items() if inside.endswith(":ro")
        }
        (output,) = (path for path, inside in mounts.items() if not inside.endswith(":ro"))
        facts = [asdict(machine), *self._identify(machine), list(arguments), sorted(given.items()), dict(environment)]
        entry = self._folder / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}.json"
        kept = None if self._again else self._restore(entry, output)
        if kept:
            return Run(machine, Outcome.FINISHED, 0, kept["output"], "", kept["seconds"], kept=kept["date"])
        run = self._machines.run(machine, arguments, mounts, environment, timeout)
        if run.ok:
            self._keep(entry, output, run)
        return run

    def close(self) -> None:
        """End what runs, at once."""
        self._machines.close()

    def _keep(self, entry: Path, output: Path, run: Run) -> None:
        files = {}
        for path in sorted(output.rglob("*")):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                files[path.relative_to(output).as_posix()] = digest
                if not (self._folder / digest).exists():
                    with cache.whole(self._folder / digest) as place:
                        shutil.copyfile(path, place)
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
        facts = {"files": files, "output": run.output, "seconds": run.seconds, "date": date}
        with cache.whole(entry) as place:
            place.write_text(json.dumps(facts))

    def _restore(self, entry: Path, output: Path) -> dict[str, Any] | None:
        """Put the files of a kept answer into place; None where there is none that is whole."""
        if not entry.exists():
            return None
        kept: dict[str, Any] = json.loads(entry.read_text())
        for name, digest in kept["files"].items():
            source = self._folder / digest
            if not source.exists() or hashlib.sha256(source.read_bytes()).hexdigest() != digest:
                with suppress(FileNotFoundError):
                    source.unlink()
                return None
            place = output / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
            os.utime(source)  # the day of its last use
        os.utime(entry)
        return kept


def _read_by_runs(path: Path) -> list[Path]:
    """Return what a workload reads of a mount: of another row's folder the index files, not how long it took."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix in (".constann", ".f32"))
