"""Writes a comparison as Markdown, for the page of a workflow or an issue. What recordings say is escaped."""

import re
from collections.abc import Iterator

from constann.comparison.comparing import Comparison
from constann.comparison.text import element_sentence, group_names, neighbours_sentence, verdict

__all__ = ["markdown"]

_STAGES, _FACTS = 50, 20


def markdown(found: Comparison) -> str:
    """Return the page."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Comparison) -> Iterator[str]:
    yield f"## {'✅' if found.agrees else '❌'} {_safe(verdict(found))}"
    yield ""
    yield "| machine | group | first difference from group 1 |"
    yield "|---|---|---|"
    reference = found.groups[0][0]
    for number, label in enumerate(found.labels):
        place = next(place for place, members in enumerate(found.groups, 1) if number in members)
        stage = found.matrix[number][reference]
        yield f"| {_safe(label)} | {place} | {'none' if stage is None else _safe(found.stages[stage].name)} |"
    if found.first is None:
        return
    yield ""
    yield f"### First: {_safe(found.first.name)}"
    yield ""
    for group, each in zip(found.first.groups[1:], found.first.differences, strict=True):
        yield f"{_safe(group_names(found, group))} against {_safe(group_names(found, found.first.groups[0]))}:"
        yield ""
        yield from (f"    {line}" for line in element_sentence(found, each))
        yield ""
    yield from (f"- {_safe(neighbours_sentence(each))}" for each in found.first.neighbours)
    yield from _parting(found)
    yield ""
    yield "### Every stage that differs"
    yield ""
    differing = [each for each in found.stages if not each.agrees]
    yield from (f"- {_safe(each.name)}: {_safe(each.differences[0].sentence)}" for each in differing[:_STAGES])
    if len(differing) > _STAGES:
        yield f"- and {len(differing) - _STAGES} more"


def _parting(found: Comparison) -> Iterator[str]:
    assert found.first is not None
    if not found.parting:
        return
    yield (
        "| what parts them | " + " | ".join(f"{_safe(group_names(found, each))}" for each in found.first.groups) + " |"
    )
    yield "|---" * (len(found.first.groups) + 1) + "|"
    for each in found.parting[:_FACTS]:
        values = " | ".join(_safe(" or ".join(value)) for value in each.values)
        yield f"| {_safe(each.fact)} | {values} |"


def _safe(said: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#!@])", r"\\\1", said)
