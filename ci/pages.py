"""Writes the gate's report as one HTML page that needs no network, as Markdown, and as JUnit XML. It judges nothing."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from ci.report import Grid, Report, grids

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 80rem; margin: auto; padding: 1rem }
header { border-left: .6rem solid #2a9d5c; padding-left: 1rem } header.FAIL { border-color: #d1383d }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0; font-size: .85rem }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #8884 }
td.bad { background: #d1383d; color: white } td.number { text-align: right }
li.bad { color: light-dark(#a3161b, #ff8a8d) } code, td.long { overflow-wrap: anywhere }
td:not(.long), th { white-space: nowrap }
"""
_BAD = ("NO", "FAIL")


def write(report: Report, folder: Path) -> None:
    """Write all of them: gate.html, gate.md and gate.xml."""
    for name, render in (("gate.html", html), ("gate.md", markdown), ("gate.xml", junit)):
        (folder / name).write_text(render(report), encoding="utf-8")


def html(report: Report) -> str:
    """Return one self-contained page, without a script."""
    said = "PASS" if report.passed else "FAIL"
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The gate: {said}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head>'
    )
    return f"{head}<body>{''.join(_body(report, said))}</body></html>\n"


def _body(report: Report, said: str) -> Iterator[str]:
    yield f'<header class="{said}"><h1>The gate: {said}</h1>'
    yield "".join(f"<p><code>{escape(line)}</code></p>" for line in report.data) + "</header><main>"
    if failures := report.failures():
        yield f"<h2>What failed</h2><ul>{''.join(f'<li class=bad>{escape(each)}</li>' for each in failures)}</ul>"
    yield f"<h2>What is known</h2><ul>{''.join(f'<li>{escape(each)}</li>' for each in report.remarks)}</ul>"
    for grid in grids(report):
        yield f"<h2>{escape(grid.title)}</h2>" if grid.title else ""
        yield '<div class="scroll" tabindex="0"><table><thead><tr>'
        yield "".join(f'<th scope="col">{escape(each)}</th>' for each in grid.headings) + "</tr></thead><tbody>"
        for row in grid.rows:
            yield "<tr>" + "".join(_cell(grid, *each) for each in zip(grid.headings, row, strict=True)) + "</tr>"
        yield "</tbody></table></div>"
    yield "</main>"


def _cell(grid: Grid, heading: str, text: str) -> str:
    kind = "bad" if text.startswith(_BAD) else "number" if heading in grid.numbers else "long" if len(text) > 40 else ""
    return f"<td{f' class={kind}' if kind else ''}>{escape(text)}</td>"


def markdown(report: Report) -> str:
    """Return it as a workflow's page shows it ($GITHUB_STEP_SUMMARY)."""
    lines = [f"# The gate: {'PASS' if report.passed else 'FAIL'}", ""]
    lines += [f"- **FAILED** {_plain(each)}" for each in report.failures()]
    lines += [f"- {_plain(each)}" for each in report.remarks]
    for grid in grids(report):
        lines += ["", f"## {grid.title}" if grid.title else "", ""]
        lines += [_line(grid.headings), _line(["---"] * len(grid.headings)), *map(_line, grid.rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def junit(report: Report) -> str:
    """Return a test case for each row and stage, and one for what failed besides."""
    cases = [
        (name, row.machine.full_name, [row.failure] if row.failure else row.differences)
        for name, rows in report.stages.items()
        for row in rows
    ]
    cases += [("stages", check.name, check.problems) for check in report.checks]
    cases.append(("gate", "all else", report.problems))
    top = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        top, "testsuite", name="gate", tests=str(len(cases)), failures=str(sum(bool(each[2]) for each in cases))
    )
    for where, name, problems in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=where, name=name)
        if problems:
            text = "\n".join(_printable(each) for each in problems)
            ElementTree.SubElement(case, "failure", message=text.splitlines()[0]).text = text
    return ElementTree.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """Leave out what XML cannot hold."""
    return "".join(each for each in text if each.isprintable() or each in "\n\t")
