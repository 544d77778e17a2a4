"""Writes a comparison as text for people, and the sentences that the other reports share. It judges nothing."""

from collections.abc import Iterator
from typing import Any

from constann.comparison.comparing import Comparison, Difference, StageResult
from constann.comparison.neighbours import Neighbours

__all__ = ["element_sentence", "group_names", "neighbours_sentence", "shown", "text", "verdict"]

_FACTS = 12
_STAGES = 20


def verdict(found: Comparison) -> str:
    """Say the outcome in one sentence."""
    count = len(found.machines)
    if found.first is None:
        exact = all(each.equal_bits for each in found.stages)
        how = "in every bit" if exact else "within the tolerances"
        return f"all {count} machines agree {how}, on {len(found.stages)} stages"
    return f"{count} machines are {len(found.groups)} groups; the first stage that differs is {found.first.name}"


def group_names(found: Comparison, group: tuple[int, ...]) -> str:
    """Name the machines of a group."""
    return ", ".join(found.labels[each] for each in group)


def shown(value: Any) -> str:
    """Write a value so that floats of other bits look different."""
    return repr(value)


def element_sentence(found: Comparison, each: Difference) -> list[str]:
    """Say where the first differing element is and what both machines have there."""
    lines = [each.sentence]
    if each.values is None or each.bits is None or each.element is None:
        return lines
    where = f"row {each.element[0]}, element {list(each.element)}" if each.element else "the only element"
    lines.append(f"first at {where}:")
    width = max(len(found.labels[machine]) for machine in each.machines)
    for machine, value, bits in zip(each.machines, each.values, each.bits, strict=True):
        lines.append(f"  {found.labels[machine]:{width}}  {shown(value)}  {bits}")
    if each.ulp is not None:
        lines.append(f"  {each.ulp} ULP apart, relative error {each.relative:.3g}")
        lines.append(
            f"largest: {each.largest_ulp} ULP, relative {each.largest_relative:.3g}, |Δ| {each.largest_delta:.3g}"
        )
        lines.append("ULP: " + "; ".join(f"{name}: {count}" for name, count in each.histogram))
    elif each.largest_delta is not None:
        lines.append(f"largest |Δ| {each.largest_delta:g}")
    return lines


def neighbours_sentence(each: Neighbours) -> str:
    """Count the kinds of differing neighbours, and say what they do to recall."""
    how = "canonical" if each.canonical else "recorded"
    said = (
        f"neighbours: {each.tie_swaps} tie swaps ({how} distances bit-equal), {each.near_ties} near ties (within "
        f"{each.tolerance}), {each.true_misses} true misses, in {each.queries} queries; {each.overlap:.4f} in common"
    )
    if each.recall is not None:
        said += f"; recall {each.recall[0]:.4f} and {each.recall[1]:.4f}"
    return said


def text(found: Comparison) -> str:
    """Write the comparison for a terminal."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Comparison) -> Iterator[str]:
    yield verdict(found)
    if found.first is None:
        return
    for number, group in enumerate(found.groups, 1):
        yield f"  group {number}: {group_names(found, group)}"
    for stage in [each for each in found.stages if not each.agrees][:1]:
        yield ""
        yield from _stage_lines(found, stage)
    yield ""
    yield from _parting_lines(found)
    later = [each for each in found.stages if not each.agrees][1:]
    if later:
        yield ""
        yield f"{len(later)} later stages differ too, which may follow from the first:"
        for each in later[:_STAGES]:
            yield f"  {each.name}: {each.differences[0].sentence}"
            yield from (f"    {neighbours_sentence(part)}" for part in each.neighbours)
        if len(later) > _STAGES:
            yield f"  and {len(later) - _STAGES} more"


def _stage_lines(found: Comparison, stage: StageResult) -> Iterator[str]:
    number = found.stages.index(stage) + 1
    yield f"stage {number} of {len(found.stages)}, {stage.name} (tolerance: {stage.tolerance})"
    for group, each in zip(stage.groups[1:], stage.differences, strict=True):
        yield f"  {group_names(found, group)} against {group_names(found, stage.groups[0])}:"
        yield from (f"    {line}" for line in element_sentence(found, each))
    yield from (f"    {neighbours_sentence(each)}" for each in stage.neighbours)


def _parting_lines(found: Comparison) -> Iterator[str]:
    assert found.first is not None
    if not found.parting:
        yield "no recorded fact parts these groups"
        return
    yield "what parts them, most telling first:"
    for each in found.parting[:_FACTS]:
        yield f"  {each.fact}: " + " | ".join(" or ".join(values) for values in each.values)
    if len(found.parting) > _FACTS:
        yield f"  and {len(found.parting) - _FACTS} more facts (--json has all)"
