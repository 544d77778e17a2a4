"""Finds which functions of a compiled file need which instruction sets. Judges nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ci.audit import arm, x86
from ci.audit.binaries import Binary, Function

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
    starts = [function.start for function in binary.functions]
    for section in binary.sections:
        yield from x86.scan(section, starts) if binary.architecture == "x86_64" else arm.scan(section, binary.data)


def closure(sets: Iterable[str], architecture: str) -> frozenset[str]:
    """Return the sets with all that a CPU which has them has as well."""
    implied = x86.IMPLIED if architecture == "x86_64" else arm.IMPLIED
    found: set[str] = set()
    waiting = list(sets)
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(implied.get(each, ()))
    return frozenset(found)
