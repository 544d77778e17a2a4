"""The gate's report as a page, as Markdown and as JUnit XML says what its JSON says, and nothing in it is markup."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ci import matrix, pages
from ci.platforms import Machine
from ci.report import Check, Report

EVIL = "<script>alert(1)</script> | \x00"


@pytest.fixture
def report() -> Report:
    machine = Machine("max", "2.4.6", "max", "avx2", platform="linux-x86_64")
    facts = {"kernels": "avx2", "cpu_features": ["avx2"], "page_size": 4096}
    row = matrix.Row(machine, True, Path("/nowhere"), answers={"rows": 2000, "facts": facts, "built": {}})
    died = matrix.Row(machine, True, Path("/nowhere"), failure=EVIL)
    checks = [Check("wheels", "every wheel"), Check("audit", "nothing else", [EVIL])]
    return Report(["gloss  SHA-256 00"], {"slice": [row, died]}, checks=checks, remarks=["NOT PROVEN rosetta"])


def test_the_page_shows_the_verdict_first_and_all_figures_as_text(report: Report) -> None:
    page = pages.html(report)
    assert page.index("The gate: FAIL") < page.index("What failed") < page.index("NOT PROVEN rosetta")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(src|href)=(?!"data:)', page), "it needs nothing from elsewhere"
    assert page.count("linux-x86_64/max") >= 2 and '<td class="bad">NO</td>' in page.replace("class=bad", 'class="bad"')


def test_junit_counts_a_failure_for_each_row_and_stage_that_failed(report: Report) -> None:
    suite = ElementTree.fromstring(pages.junit(report)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("5", "2")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["linux-x86_64/max", "audit"]


def test_markdown_has_one_line_for_each_row(report: Report) -> None:
    text = pages.markdown(report)
    assert text.startswith("# The gate: FAIL") and "<script" not in text
    assert len([line for line in text.splitlines() if line.startswith("| linux-x86_64/max |")]) == 2


def test_all_is_written_and_a_pass_says_so(report: Report, tmp_path: Path) -> None:
    passed = Report([], {}, checks=[Check("wheels", "every wheel")], rows_wanted=False)
    pages.write(passed, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate.html", "gate.md", "gate.xml"]
    assert "The gate: PASS" in (tmp_path / "gate.html").read_text()
