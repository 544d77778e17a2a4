"""Starts the child processes in which the doctor tries what may die; never says what a death means (sentences.py)."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Ended", "Runner"]

_CODE = "import sys; sys.path[:] = {path!r}; from constann.doctor import child; child.main({probe!r}, {argument!r})"


@dataclass(frozen=True)
class Ended:
    """How a child process ended."""

    answer: Any
    """What it found; None where it did not get so far."""
    errors: str
    """What it printed on standard error."""
    status: int | None = None
    """None where it did not start or did not end in time."""
    signal: str | None = None
    reason: str = ""
    """Why there is no status."""

    @property
    def ok(self) -> bool:
        """Return whether it ran to its end and answered."""
        return self.status == 0 and self.answer is not None

    @property
    def last_line(self) -> str:
        """The last line of its errors: of a Python error, the error itself."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Runner:
    """Runs probes of child.py in processes of their own.

    Parameters
    ----------
    launcher
        What the Python of a child is started through, such as ("qemu-x86_64-static", "-cpu", "qemu64").
    timeout
        Seconds after which a child is ended.
    """

    def __init__(self, launcher: Sequence[str] = (), timeout: float = 300.0) -> None:
        self._launcher = list(launcher)
        self._timeout = timeout

    def run(self, probe: str, argument: Any = None) -> Ended:
        """Run one probe; whatever becomes of it is told in what is returned."""
        code = _CODE.format(path=sys.path, probe=probe, argument=argument)
        command = [*self._launcher, sys.executable, "-c", code]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ended(None, "", reason=f"it did not end in {self._timeout:g} s")
        except OSError as error:
            return Ended(None, "", reason=f"{command[0]} does not start: {error.strerror or error}")
        return Ended(_answer(done.stdout), done.stderr, done.returncode, _signal_of(done.returncode))


def _answer(output: str) -> Any:
    try:
        return json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return None


def _signal_of(status: int) -> str | None:
    """Name the signal that a status tells of: negative, or over 128 where a shell or emulator was in between."""
    number = -status if status < 0 else status - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return None
