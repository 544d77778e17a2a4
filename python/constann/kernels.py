"""Which kernel sets this CPU can run, and which one is in use.

A kernel set is the same arithmetic compiled for other instructions: it changes the time a search takes, never
its answer. The environment variable CONSTANN_KERNELS forces one by name for the whole process.
"""

import os
from typing import NamedTuple

from constann import _core

__all__ = ["Implementation", "available", "cpu_features", "current", "use"]


class Implementation(NamedTuple):
    """A kernel set that this CPU can run."""

    name: str
    description: str


def available() -> list[Implementation]:
    """List the kernel sets this CPU can run, from the plainest to the fastest."""
    return [Implementation(name, what) for name, what, lacking in _core.kernel_implementations() if not lacking]


def current() -> str:
    """Name the kernel set that searches and builds use now."""
    return _core.kernel_in_use()


def use(name: str | None) -> None:
    """Force a kernel set for this process, from the next call on.

    Parameters
    ----------
    name : str or None
        A name of `available`; None returns to the fastest.

    Raises
    ------
    ValueError
        There is no set of this name, or this CPU cannot run it.
    """
    if name is None:
        _core.use_fastest_kernels()
    else:
        _core.use_kernels(name)


def cpu_features() -> list[str]:
    """List the CPU features this process sees, by the names Linux gives them."""
    return _core.cpu_features()


def _force_from_environment() -> None:
    name = os.environ.get("CONSTANN_KERNELS")
    if not name:
        return
    try:
        use(name)
    except ValueError as error:
        raise ValueError(f"CONSTANN_KERNELS: {error}") from None


_force_from_environment()
