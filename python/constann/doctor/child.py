"""What the doctor tries in child processes. Nothing here may be called in the doctor's own process: it may die."""

import contextlib
import json
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["main"]


def main(probe: str, argument: Any) -> None:
    """Run one probe and print what it found as the last line, in JSON."""
    _leave_no_core_file()
    print("\n" + json.dumps(_PROBES[probe](argument)), flush=True)


def _leave_no_core_file() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        resource = import_module("resource")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _features(_: Any) -> list[str]:
    return import_module("constann._core").cpu_features()  # type: ignore[no-any-return]


def _numpy(_: Any) -> dict[str, str]:
    numpy = import_module("numpy")
    # A product too: much of numpy is first run when it is first used.
    product = numpy.ones((32, 32)) @ numpy.ones((32, 32))
    if product.tolist() != [[32.0] * 32] * 32:
        raise ArithmeticError("numpy multiplies matrices wrongly")
    return {"version": numpy.__version__, "file": numpy.__file__}


def _core(_: Any) -> dict[str, Any]:
    core = import_module("constann._core")
    return {
        "file": core.__file__,
        "compiler": core.compiler,
        "planted_faults": core.planted_faults,
        "tuned_for": core.tuned_for,
        "format_version": core.format_version,
        "arithmetic_revision": core.arithmetic_revision,
        "builder_revision": core.builder_revision,
        "cpu_features": core.cpu_features(),
    }


def _kernels(_: Any) -> dict[str, Any]:
    core, kernels = import_module("constann._core"), import_module("constann.kernels")
    sets = [
        {"name": name, "description": what, "lacking": lacking} for name, what, lacking in core.kernel_implementations()
    ]
    return {"sets": sets, "current": kernels.current(), "forced": os.environ.get("CONSTANN_KERNELS") or None}


def _answers(_: Any) -> dict[str, Any]:
    return import_module("constann.doctor.known_answers").run()  # type: ignore[no-any-return]


def _libraries(wanted: Any) -> dict[str, dict[str, str]]:
    return import_module("constann.doctor.libraries").load(wanted)  # type: ignore[no-any-return]


_PROBES: dict[str, Callable[[Any], Any]] = {
    "features": _features,
    "numpy": _numpy,
    "core": _core,
    "kernels": _kernels,
    "answers": _answers,
    "libraries": _libraries,
}
