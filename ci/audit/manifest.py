"""Writes down which functions of a wheel use which instruction sets. The wheel carries it, and doctor shows it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ci.audit.binaries import Binary
from ci.audit.rules import allowed_sets, kernel_set_of
from ci.audit.scan import Use, closure, named_apart
from ci.platforms import Target

NAME = "constann/instruction_sets.json"
"""Where it lies in a wheel."""


def manifest_of(binaries: Mapping[Binary, Sequence[Use]], target: Target) -> dict[str, Any]:
    """Return what the audit found beyond the platform's baseline, the same for the same code.

    Parameters
    ----------
    binaries
        Each compiled file with what `scan` found in it.
    target
        The platform.
    """
    baseline = closure(target.baseline, target.architecture)
    return {
        "format": 1,
        "platform": target.name,
        "architecture": target.architecture,
        "baseline": sorted(target.baseline),
        "files": {binary.name: _of_file(uses, baseline, target) for binary, uses in binaries.items()},
    }


def to_text(manifest: Mapping[str, Any]) -> str:
    """Return the text of the file."""
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def summary(binaries: Mapping[Binary, Sequence[Use]], target: Target) -> str:
    """Return the sets found and where, in one line: such as "avx, avx2 in kernels avx2 (11 functions)"."""
    baseline = closure(target.baseline, target.architecture)
    sets: dict[str, set[str]] = {}
    functions: Counter[str] = Counter()
    for use in (use for uses in binaries.values() for use in uses):
        if beyond := set(use.sets) - baseline:
            kernels = kernel_set_of(use.function.names, target)
            allowed = allowed_sets(use.function.names, target)
            place = f"kernels {kernels}" if kernels else "allowed" if allowed else "other functions"
            sets.setdefault(place, set()).update(beyond)
            functions[place] += 1
    found = (f"{', '.join(sorted(sets[place]))} in {place} ({functions[place]} functions)" for place in sorted(sets))
    return "; ".join(found) or "none beyond the baseline"


def _of_file(uses: Sequence[Use], baseline: frozenset[str], target: Target) -> dict[str, Any]:
    functions: dict[str, Any] = {}
    for title, use in named_apart(uses).items():
        beyond = sorted(set(use.sets) - baseline)
        if beyond:
            kernels = kernel_set_of(use.function.names, target)
            functions[title] = {"sets": beyond, **({"kernels": kernels} if kernels else {})}
    return functions
