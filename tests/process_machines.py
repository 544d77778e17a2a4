"""Machines that are plain processes of this computer: the matrix's tests run the real workload on them."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ci.machines import Outcome, Run, describe_status
from ci.platforms import Machine


class ProcessMachines:
    """Runs each machine's Python here; `pythons` gives some machines an interpreter of their own, or none at all."""

    def __init__(self, pythons: Mapping[str, str] | None = None) -> None:
        self.pythons = dict(pythons or {})

    def run(
        self,
        machine: Machine,
        arguments: Sequence[str],
        mounts: Mapping[Path, str],
        environment: Mapping[str, str],
        timeout: float,
    ) -> Run:
        outside = {inside.removesuffix(":ro"): str(path) for path, inside in mounts.items()}
        python = self.pythons.get(machine.name, sys.executable)
        command = [python, *(outside.get(argument, argument) for argument in arguments)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError as error:
            return _run(machine, Outcome.COULD_NOT_START, None, reason=str(error))
        except subprocess.TimeoutExpired:
            return _run(machine, Outcome.TIMED_OUT, None, reason=f"no end in {timeout:g} s")
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return _run(machine, Outcome.FINISHED, status, done.stdout, done.stderr, describe_status(status))

    def close(self) -> None:
        """Nothing to end: a run is over when it returns."""


def _run(
    machine: Machine,
    outcome: Outcome,
    status: int | None,
    output: str = "",
    errors: str = "",
    reason: str = "",
) -> Run:
    return Run(
        machine=machine,
        outcome=outcome,
        exit_status=status,
        output=output,
        errors=errors,
        seconds=0.0,
        reason=reason,
    )
