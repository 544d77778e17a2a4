"""Judges the machine code of our own wheels: only a kernel named for it goes beyond the baseline. Reads no files."""

import re
from collections.abc import Iterable, Iterator, Sequence

from ci.audit.binaries import Binary
from ci.audit.scan import UNKNOWN, Use, closure
from ci.platforms import KernelSet, Target

# A kernel set's functions, by the rules of the C++ ABI (Itanium): in the namespace constann::kernels::NAME, also where
# they are lambdas or clones (.cold, .part.0) of one.
_KERNEL = re.compile(r"_ZZ*N[KVRO]*8constann7kernels(?P<length>\d+)(?P<rest>[a-z]\w*)")


def find_faults(binary: Binary, uses: Sequence[Use], target: Target) -> list[str]:
    """Return where a file breaks the rule of its platform, one sentence each.

    Parameters
    ----------
    binary
        The file.
    uses
        What `scan` found in it.
    target
        The platform, whose baseline, kernel sets and allowed functions are the rule.
    """
    faults = [*_weak_kernels(binary, target), *_data_amid_code(binary)]
    for use in uses:
        beyond = set(use.sets) - closure(target.baseline, target.architecture)
        if beyond:
            faults += _judge(binary, use, beyond, target)
    return faults


def kernel_set_of(names: Iterable[str], target: Target) -> str | None:
    """Return the kernel set that a function belongs to by all of its names, or None."""
    found = {_set_in(name, target) for name in names}
    return found.pop() if len(found) == 1 else None


def allowed_sets(names: Iterable[str], target: Target) -> frozenset[str]:
    """Return what a function may use that tests the CPU by itself, by all of its names."""
    each = [
        frozenset[str]().union(
            *(rule.sets for rule in target.allowed if any(re.fullmatch(each, name) for each in rule.functions))
        )
        for name in names
    ]
    return frozenset[str]().union(*each).intersection(*each) if each else frozenset()


def fatal_sets(use: Use, target: Target, processor: frozenset[str]) -> frozenset[str]:
    """Return what a function of ours needs and a CPU lacks that would come to call it.

    Kernels are called only where the CPU has all that their set asks for; allowed functions ask for what they are
    allowed.
    """
    kernels = _named(kernel_set_of(use.function.names, target), target)
    if kernels and not kernels.flags <= processor:
        return frozenset()
    return frozenset(use.sets) - processor - allowed_sets(use.function.names, target)


def _named(name: str | None, target: Target) -> KernelSet | None:
    return next((each for each in target.kernels if each.name == name), None)


def _judge(binary: Binary, use: Use, beyond: set[str], target: Target) -> Iterator[str]:
    names, title = use.function.names, use.function.title
    kernels = _named(kernel_set_of(names, target), target)
    flags = closure(kernels.flags, target.architecture) if kernels else frozenset[str]()
    excess = sorted(beyond - flags - allowed_sets(names, target))
    if not excess:
        return
    where = f"{binary.name}: {title} at {use.first[excess[0]]:#x}"
    if UNKNOWN in excess:
        yield f"{where} cannot be disassembled: no instruction that the audit knows"
    elif kernels:
        yield f"{where} needs {', '.join(excess)}, which the kernel set {kernels.name} does not ask the CPU for"
    else:
        yield (
            f"{where} needs {', '.join(excess)}, which not every {target.architecture} CPU has, and it is no function"
            " of a kernel set made for that"
        )


def _weak_kernels(binary: Binary, target: Target) -> Iterator[str]:
    for function in binary.functions:
        kernels = kernel_set_of(function.names, target) if function.names else None
        if function.weak and kernels:
            yield (
                f"{binary.name}: {function.title} of the kernel set {kernels} is weak: the linker may put it in"
                " place of a function that every CPU runs"
            )


def _data_amid_code(binary: Binary) -> Iterator[str]:
    """Refuse what is marked as no code: instructions written as `.word` would pass unseen."""
    for start, end in binary.data:
        title = binary.function_at(start).title
        yield f"{binary.name}: {title} at {start:#x} has {end - start} bytes amid its code that are marked as data"


def _set_in(name: str, target: Target) -> str | None:
    found = _KERNEL.match(name)
    if not found:
        return None
    namespace = found["rest"][: int(found["length"])]
    return namespace if namespace in {each.name for each in target.kernels} else None
