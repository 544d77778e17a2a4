"""Writes a comparison as one HTML page that needs no network: matrix, groups, what parts them, stage by stage.

All figures stand in the page without its script, which only moves the focus; the same JSON as `--json` is embedded.
"""

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources

from constann.comparison.as_json import as_json
from constann.comparison.comparing import Comparison, StageResult
from constann.comparison.differences import Difference
from constann.comparison.neighbours import Neighbours
from constann.comparison.text import group_names, neighbours_sentence, shown, verdict

__all__ = ["html"]

_COLUMNS = 24  # more stages than this are columns by the part of their names before the first slash
_STAGES = 150
_FACTS = 30
_NEIGHBOURS = 50


def html(found: Comparison, title: str = "constann compare") -> str:
    """Return the page."""
    style, script = (
        resources.files("constann.comparison").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    embedded = json.dumps(as_json(found), ensure_ascii=True).replace("<", "\\u003c")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style}</style></head><body>'
    )
    body = "\n".join(_body(found, title))
    data = f'<script type="application/json" id="comparison">{embedded}</script><script>{script}</script>'
    return f"{head}{body}{data}</body></html>\n"


def _body(found: Comparison, title: str) -> Iterator[str]:
    differing = [each for each in found.stages if not each.agrees]
    state = "good" if found.agrees else "bad"
    yield f'<header class="{state}"><p class="mark">{"AGREE" if found.agrees else "DIFFER"}</p>'
    yield f"<h1>{escape(title)}</h1><p>{escape(verdict(found))}</p></header><main>"
    counts = (
        ("machines", len(found.machines)),
        ("groups", len(found.groups)),
        ("stages", len(found.stages)),
        ("that differ", len(differing)),
    )
    yield '<ul class="counts">'
    yield from (f'<li><b data-count="{name}">{count}</b> {name}</li>' for name, count in counts)
    yield "</ul>"
    yield from _matrix(found)
    yield from _parts(found)
    yield from _parting(found)
    yield from _stages(found, differing)
    yield "</main>"


def _shade(stage: int, found: Comparison) -> str:
    """Return the class of a cell: the earlier machines part, the stronger."""
    return f"d{4 - min(4, 5 * stage // max(1, len(found.stages)))}"


def _matrix(found: Comparison) -> Iterator[str]:
    yield '<section aria-labelledby="matrix"><h2 id="matrix">Machine by machine</h2>'
    yield "<p>Each cell has the number of the first stage on which two machines differ; = where they agree on all. "
    yield "The stronger the colour, the earlier. Arrow keys move between cells, Enter opens the stage.</p>"
    yield '<div class="scroll"><table class="matrix"><thead><tr><th scope="col">machine</th><th scope="col">group</th>'
    yield from (f'<th scope="col" title="{escape(label)}">{n}</th>' for n, label in enumerate(found.labels, 1))
    yield "</tr></thead><tbody>"
    for a, label in enumerate(found.labels):
        group = next(number for number, members in enumerate(found.groups) if a in members)
        yield f'<tr><th scope="row"><span class="number">{a + 1}</span> {escape(label)}</th>'
        yield f'<td><span class="group g{group % 6}">{_letter(group)}</span></td>'
        for b, stage in enumerate(found.matrix[a]):
            if stage is None:
                yield f'<td class="same" tabindex="-1" title="{escape(found.labels[b])}: agree">=</td>'
            else:
                said = f"{label} and {found.labels[b]}: {found.stages[stage].name}"
                yield f'<td class="{_shade(stage, found)}" title="{escape(said)}">'
                yield f'<a href="#stage-{stage + 1}">{stage + 1}</a></td>'
        yield "</tr>"
    yield "</tbody></table></div></section>"


def _letter(group: int) -> str:
    return chr(65 + group) if group < 26 else str(group + 1)


def _columns(found: Comparison) -> list[tuple[str, list[StageResult]]]:
    if len(found.stages) <= _COLUMNS:
        return [(each.name, [each]) for each in found.stages]
    columns: dict[str, list[StageResult]] = {}
    for each in found.stages:
        columns.setdefault(each.name.partition("/")[0], []).append(each)
    return list(columns.items())[:100]


def _parts(found: Comparison) -> Iterator[str]:
    columns = _columns(found)
    yield '<section aria-labelledby="parts"><h2 id="parts">Stage by stage</h2>'
    yield "<p>For each machine how many stages of a part differ from those of the largest group.</p>"
    yield '<div class="scroll"><table class="parts"><thead><tr><th scope="col">machine</th>'
    yield from (f'<th scope="col">{escape(name)}</th>' for name, _ in columns)
    yield "</tr></thead><tbody>"
    for machine, label in enumerate(found.labels):
        yield f'<tr><th scope="row">{escape(label)}</th>'
        for _, stages in columns:
            apart = sum(each.group_of(machine) != 0 for each in stages)
            kind = "same" if not apart else f"d{min(4, 1 + 4 * apart // len(stages))}"
            yield f'<td class="{kind}">{f"{apart}/{len(stages)}" if apart else "="}</td>'
        yield "</tr>"
    yield "</tbody></table></div></section>"


def _parting(found: Comparison) -> Iterator[str]:
    if found.first is None:
        return
    yield '<section aria-labelledby="parting"><h2 id="parting">What parts them</h2>'
    if not found.parting:
        yield "<p>No recorded fact parts these groups: the same environment gave different results.</p></section>"
        return
    yield f"<p>Facts that differ as the groups of <b>{escape(found.first.name)}</b> do, the most telling first.</p>"
    yield '<div class="scroll"><table class="facts"><thead><tr><th scope="col">fact</th>'
    for group in found.first.groups:
        yield f'<th scope="col">{escape(group_names(found, group))}</th>'
    yield "</tr></thead><tbody>"
    for each in found.parting[:_FACTS]:
        values = "".join(f"<td>{escape(' or '.join(value))}</td>" for value in each.values)
        yield f'<tr><th scope="row">{escape(each.fact)}</th>{values}</tr>'
    yield "</tbody></table></div>"
    if len(found.parting) > _FACTS:
        yield f"<p>And {len(found.parting) - _FACTS} more, in the JSON.</p>"
    yield "</section>"


def _stages(found: Comparison, differing: Sequence[StageResult]) -> Iterator[str]:
    yield '<section aria-labelledby="stages"><h2 id="stages">What differs</h2>'
    if not differing:
        yield "<p>Nothing.</p>"
    numbers = {each.name: number for number, each in enumerate(found.stages, 1)}
    for place, stage in enumerate(differing[:_STAGES]):
        opened = " open" if place == 0 else ""
        yield f'<details id="stage-{numbers[stage.name]}"{opened}><summary>stage {numbers[stage.name]}: '
        yield f"<b>{escape(stage.name)}</b> <small>{escape(stage.differences[0].sentence)}</small></summary>"
        yield f"<p>Tolerance: {escape(str(stage.tolerance))}</p>"
        for group, each in zip(stage.groups[1:], stage.differences, strict=True):
            yield f"<h3>{escape(group_names(found, group))} against {escape(group_names(found, stage.groups[0]))}</h3>"
            yield from _difference(found, each)
        for neighbours in stage.neighbours:
            yield from _neighbours(neighbours)
        yield "</details>"
    if len(differing) > _STAGES:
        yield f"<p>And {len(differing) - _STAGES} more, in the JSON.</p>"
    yield "</section>"


def _difference(found: Comparison, each: Difference) -> Iterator[str]:
    yield f"<p>{escape(each.sentence)}</p>"
    if each.values is None or each.bits is None or each.element is None:
        return
    yield f'<div class="scroll"><table><caption>First at {escape(str(list(each.element)))}</caption><tbody>'
    for machine, value, bits in zip(each.machines, each.values, each.bits, strict=True):
        yield f'<tr><th scope="row">{escape(found.labels[machine])}</th><td>{escape(shown(value))}</td>'
        yield f"<td><code>{escape(bits)}</code></td></tr>"
    yield "</tbody></table></div>"
    if each.ulp is None:
        return
    yield f"<p>{each.ulp} ULP apart, relative error {each.relative:.3g}; largest {each.largest_ulp} ULP, "
    yield f"{each.largest_relative:.3g} relative, |Δ| {each.largest_delta:.3g}.</p>"
    most = max(count for _, count in each.histogram)
    yield '<table class="histogram"><caption>Elements by ULP</caption><tbody>'
    for name, count in each.histogram:
        bar = f'<span class="bar" style="width:{100 * count // most}%"></span>'
        yield f'<tr><th scope="row">{escape(name)}</th><td class="bars">{bar}</td><td>{count}</td></tr>'
    yield "</tbody></table>"


def _neighbours(each: Neighbours) -> Iterator[str]:
    yield f"<p>{escape(neighbours_sentence(each))}</p>"
    if not each.found:
        return
    yield '<div class="scroll"><table><thead><tr><th scope="col">query</th><th scope="col">rank</th>'
    yield '<th scope="col">ids</th><th scope="col">distances</th><th scope="col">kind</th></tr></thead><tbody>'
    for one in each.found[:_NEIGHBOURS]:
        distances = ", ".join(shown(value) for value in one.distances)
        yield f"<tr><td>{one.query}</td><td>{one.rank}</td><td>{one.ids[0]}, {one.ids[1]}</td>"
        yield f"<td>{distances}</td><td>{one.kind}</td></tr>"
    yield "</tbody></table></div>"
