"""Finds which functions of a compiled file need which instruction sets. Judges nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ci.audit.binaries import Binary, Function
from ci.wheel_file import WheelError

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Use:
    """One function and the instruction sets it needs beyond the first 64-bit CPUs of its kind."""

    function: Function
    sets: Mapping[str, int]
    """How many instructions need each."""
    first: Mapping[str, int]
    """The address of the first of each."""


def scan(binary: Binary) -> tuple[Use, ...]:
    """Disassemble all the code of a file, and return the functions with instructions beyond the oldest CPUs.

    Those are x86-64 with SSE2, and Armv8.0-A with Advanced SIMD. What belongs to no function is counted under its
    section's name; what cannot be decoded needs the set "unknown".
    """
    found: dict[Function, dict[frozenset[str], list[int]]] = {}
    since = until = 0
    for address, sets in _instructions(binary):
        if not since <= address < until:
            function, until = binary.owner_of(address)
            since, places = address, found.setdefault(function, {})
        places.setdefault(sets, []).append(address)
    return tuple(_use(function, found[function]) for function in sorted(found, key=lambda function: function.start))


def _use(function: Function, places: Mapping[frozenset[str], Sequence[int]]) -> Use:
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for sets, addresses in places.items():
        for each in sets:
            counts[each] += len(addresses)
            first[each] = min(addresses[0], first.get(each, addresses[0]))
    return Use(function, dict(sorted(counts.items())), first)


def named_apart(uses: Iterable[Use]) -> dict[str, Use]:
    """Return the functions by their titles, with their places where several have one: local ones of several files."""
    uses = list(uses)
    count = Counter(use.function.title for use in uses)
    titles = (
        f"{use.function.title} at {use.function.start:#x}" if count[use.function.title] > 1 else use.function.title
        for use in uses
    )
    return dict(zip(titles, uses, strict=True))


def _instructions(binary: Binary) -> Iterator[tuple[int, frozenset[str]]]:
    known = _knowledge_of(binary.architecture)
    starts = [function.start for function in binary.functions]
    for section in binary.sections:
        if binary.architecture == "x86_64":
            yield from known.scan(section, starts)
        else:
            yield from known.scan(section, binary.data)


def _knowledge_of(architecture: str) -> Any:
    """Return x86.py or arm.py: on Arm there may be no disassembler for x86-64, and its own wheels need none."""
    try:
        return import_module("ci.audit.x86" if architecture == "x86_64" else "ci.audit.arm")
    except ModuleNotFoundError as error:
        raise WheelError(
            f"the disassembler for {architecture} is missing ({error.name}): there is no wheel of iced-x86 for this"
            " machine; `pip install iced-x86` compiles it, which takes Rust, or audit the wheel on an x86-64 machine"
        ) from None


def closure(sets: Iterable[str], architecture: str) -> frozenset[str]:
    """Return the sets with all that a CPU which has them has as well."""
    implied = _knowledge_of(architecture).IMPLIED
    found: set[str] = set()
    waiting = list(sets)
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(implied.get(each, ()))
    return frozenset(found)
