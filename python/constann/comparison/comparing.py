"""The comparison itself: which machines agree on which stage, where they first part, and on what. It prints nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from constann.comparison.differences import Difference, agree, difference
from constann.comparison.environments import Parting, parting_facts
from constann.comparison.neighbours import Neighbours, classify
from constann.comparison.reading import Recorded
from constann.comparison.tolerances import Tolerance, Tolerances

__all__ = ["Comparison", "Difference", "Parting", "StageResult", "compare"]

Group = tuple[int, ...]


@dataclass
class StageResult:
    """Which machines agree on one stage."""

    name: str
    tolerance: Tolerance
    groups: tuple[Group, ...]
    """Numbers of the machines that agree, the largest group first."""
    equal_bits: bool
    """Whether all have the same digest: agreement without use of the tolerance."""
    differences: list[Difference] = field(default_factory=list)
    """Of each other group from the first."""
    neighbours: list[Neighbours] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether all machines agree."""
        return len(self.groups) == 1

    def group_of(self, machine: int) -> int:
        """Return the number of a machine's group."""
        return next(number for number, group in enumerate(self.groups) if machine in group)


@dataclass
class Comparison:
    """All that was found of several machines' recordings."""

    machines: list[Recorded]
    stages: list[StageResult]
    groups: tuple[Group, ...]
    """Machines that agree on every stage, the largest group first."""
    parting: list[Parting]
    """Facts on which the groups of the first differing stage part, most telling first."""
    matrix: list[list[int | None]]
    """For each two machines the number of the first stage on which they differ; None where they agree on all."""

    @property
    def agrees(self) -> bool:
        """Whether all machines agree on every stage."""
        return len(self.groups) == 1

    @property
    def first(self) -> StageResult | None:
        """The first stage that differs."""
        return next((each for each in self.stages if not each.agrees), None)

    @property
    def labels(self) -> list[str]:
        """What the machines are called, each its own name."""
        return [each.label for each in self.machines]


def compare(machines: Sequence[Recorded], tolerances: Tolerances | None = None) -> Comparison:
    """Compare what several machines recorded.

    Parameters
    ----------
    machines
        Two or more. Of equal labels all but the first get a number.
    tolerances
        For each stage; without them every bit counts.

    Raises
    ------
    ValueError
        There are fewer than two, or they have no stages.
    """
    tolerances = tolerances or Tolerances()
    if len(machines) < 2:
        raise ValueError("a comparison needs two recordings or more")
    named = _distinct(machines)
    names = _stage_names(named)
    if not names:
        raise ValueError("the recordings have no stages")
    stages = [_compare_stage(named, name, tolerances) for name in names]
    groups = _groups_over(stages, len(named))
    matrix = _matrix(stages, len(named))
    result = Comparison(named, stages, groups, [], matrix)
    if result.first is not None:
        result.parting = parting_facts(named, result.first.groups, result.first.name)
    return result


def _distinct(machines: Sequence[Recorded]) -> list[Recorded]:
    seen: dict[str, int] = {}
    named = []
    for each in machines:
        seen[each.label] = seen.get(each.label, 0) + 1
        label = each.label if seen[each.label] == 1 else f"{each.label} ({seen[each.label]})"
        named.append(Recorded(label, each.stages, each.facts, each.workload))
    return named


def _stage_names(machines: Sequence[Recorded]) -> list[str]:
    """List the stages in the order of the machine that has most; others' stand after what precedes them there."""
    names = list(max(machines, key=lambda each: len(each.stages)).stages)
    known = {*names}
    for machine in machines:
        before: str | None = None
        for name in machine.stages:
            if name not in known:
                names.insert(names.index(before) + 1 if before is not None else 0, name)
                known.add(name)
            before = name
    return names


def _compare_stage(machines: Sequence[Recorded], name: str, tolerances: Tolerances) -> StageResult:
    stages = [each.stages.get(name) for each in machines]
    tolerance = tolerances.of(name)
    near = _tie_tolerance(machines, name, tolerances)
    groups: list[list[int]] = []
    for number in range(len(stages)):
        for group in groups:
            if _agree((machines[group[0]], machines[number]), name, tolerance, near):
                group.append(number)
                break
        else:
            groups.append([number])
    ordered = tuple(tuple(group) for group in sorted(groups, key=lambda each: (-len(each), each[0])))
    digests = {each.sha256 if each else None for each in stages}
    result = StageResult(name, tolerance or near, ordered, len(digests) == 1)
    for members in ordered[1:]:
        pair = ordered[0][0], members[0]
        labels = machines[pair[0]].label, machines[pair[1]].label
        first, other = stages[pair[0]], stages[pair[1]]
        result.differences.append(difference(name, (first, other), pair, labels, tolerance))
        if first is not None and first.role == "ids":
            classed = classify(machines[pair[0]], machines[pair[1]], first, pair, near)
            result.neighbours += [classed] if classed else []
    return result


def _tie_tolerance(machines: Sequence[Recorded], name: str, tolerances: Tolerances) -> Tolerance:
    """Return the tolerance of near ties: that of the ids' stage, or else of the distances of the same search."""
    for machine in machines:
        ids = machine.stages.get(name)
        if ids is None or ids.role != "ids" or tolerances.of(name):
            continue
        for each in machine.stages.values():
            if each.role == "distances" and each.of.get("name") == ids.of.get("name"):
                return tolerances.of(each.name)
    return tolerances.of(name)


def _agree(pair: tuple[Recorded, Recorded], name: str, tolerance: Tolerance, near: Tolerance) -> bool:
    first, other = (each.stages.get(name) for each in pair)
    if agree(first, other, tolerance):
        return True
    if first is None or first.role != "ids" or not near:
        return False
    classed = classify(*pair, first, (0, 1), near)
    return classed is not None and classed.only_ties


def _groups_over(stages: Sequence[StageResult], count: int) -> tuple[Group, ...]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for machine in range(count):
        groups.setdefault(tuple(each.group_of(machine) for each in stages), []).append(machine)
    return tuple(tuple(group) for group in sorted(groups.values(), key=lambda each: (-len(each), each[0])))


def _matrix(stages: Sequence[StageResult], count: int) -> list[list[int | None]]:
    rows: list[list[int | None]] = [[None] * count for _ in range(count)]
    for number, stage in enumerate(stages):
        if stage.agrees:
            continue
        of = [stage.group_of(machine) for machine in range(count)]
        for a in range(count):
            for b in range(count):
                if rows[a][b] is None and of[a] != of[b]:
                    rows[a][b] = number
    return rows
