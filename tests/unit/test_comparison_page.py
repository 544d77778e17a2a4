"""The HTML page in a real browser: no script error, no request, and the figures of the JSON."""

import html as entities
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from constann import comparison, recorder
from constann.comparison import Comparison, Recorded, Stage

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND"]
# Put after the page's own script: what it threw, and what keys do, end up in the page's text.
PROBE = """\
<script>
const say = (name, value) => document.body.setAttribute("data-" + name, value);
say("errors", window.constannErrors.join("; "));
say("requests", performance.getEntriesByType("resource").length);
const cells = document.querySelectorAll(".matrix td.same");
if (cells.length) {
  cells[0].focus();
  cells[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  say("focus", document.activeElement.textContent);
}
const link = document.querySelector(".matrix a");
if (link) say("target", Boolean(document.querySelector(link.getAttribute("href"))));
say("overflow", document.documentElement.scrollWidth > document.documentElement.clientWidth);
</script></body>"""
WATCH = "<script>window.constannErrors = []; addEventListener('error', e => constannErrors.push(e.message));</script>"


def machine(label: str, seed: int) -> Recorded:
    stages = {}
    generator = np.random.default_rng(3)
    for name in ("1 pixels", "2 resized", "3 embedding", "4 normalised"):
        array = generator.standard_normal((40, 8)).astype(np.float32)
        if seed and name > f"{seed + 1}":
            array += generator.standard_normal((40, 8)).astype(np.float32) * np.float32(1e-6 * seed)
        else:
            generator.standard_normal((40, 8))
        stages[name] = Stage(name, array.dtype, array.shape, recorder.digest(array), array)
    for name, array in (
        ("search/ids", np.array([[1, 2, 3 + (seed > 1)]])),
        ("search/distances", np.array([[1, 2, 3 + (seed > 1)]], np.float32)),
    ):
        of = {"name": "search"}
        stages[name] = Stage(name, array.dtype, array.shape, recorder.digest(array), array, role=name[7:], of=of)
    facts = {"kernels": ("avx2", "neon", "avx512")[seed], "cpu_features": "avx2 fma" if seed != 1 else "asimd"}
    facts["libraries"] = {"libjpeg": {"soname": "libjpeg.so.62", "version": f"62.{seed}", "sha256": f"{seed}" * 64}}
    return Recorded(label, stages, facts)


MACHINES = ["laptop", "cloud-1", "cloud-2", "raspberry-pi", "jetson", "a machine with quite a long name"]


def differing() -> Comparison:
    return comparison.compare([machine(label, seed) for label, seed in zip(MACHINES, (0, 0, 0, 1, 1, 2), strict=True)])


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    said = "no browser: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(said)
    pytest.skip(said)


def opened(browser: str, page: Path, profile: Path, *flags: str) -> str:
    """The page as the browser has it when its scripts have run."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout


def figure(dom: str, name: str) -> str:
    found = re.search(rf'data-{name}="([^"]*)"', dom)
    assert found is not None, dom[-2000:]
    return entities.unescape(found[1])


@pytest.mark.parametrize("agree", [False, True])
def test_a_browser_shows_the_figures_of_the_json_without_an_error(agree: bool, browser: str, tmp_path: Path) -> None:
    found = comparison.compare([machine("a", 0), machine("b", 0)]) if agree else differing()
    page = tmp_path / "page.html"
    text = comparison.html(found)
    assert text.count("</body>") == 1
    # The policy of the page lets no other script in but its own inline ones; both are such.
    page.write_text(text.replace("<style>", f"{WATCH}<style>", 1).replace("</body>", PROBE))
    dom = opened(browser, page, tmp_path / "profile", "--window-size=1200,900")
    assert figure(dom, "errors") == "" and figure(dom, "requests") == "0"
    embedded = re.search(r'<script type="application/json" id="comparison">(.*?)</script>', dom, re.DOTALL)
    assert embedded is not None
    told = json.loads(embedded[1])
    assert told == json.loads(json.dumps(comparison.as_json(found)))
    counts = dict(re.findall(r'data-count="([^"]+)">(\d+)<', dom))
    differ = [each for each in told["stages"] if not each["agrees"]]
    assert counts == {
        "machines": str(len(told["machines"])),
        "groups": str(len(told["groups"])),
        "stages": str(len(told["stages"])),
        "that differ": str(len(differ)),
    }
    body = re.search(r'<table class="matrix">.*?<tbody>(.*?)</tbody>', dom, re.DOTALL)
    assert body is not None
    cells = re.findall(r'<td class="(?:same|d\d)"[^>]*>(?:\s*<a[^>]*>)?([=\d]+)', body[1])
    assert cells == ["=" if each is None else str(each + 1) for row in told["matrix"] for each in row]
    for each in differ:
        for bits in each["differences"][0]["bits"] or []:
            assert bits in dom
    assert figure(dom, "focus") == cells[1]
    assert agree or figure(dom, "target") == "true"


def test_the_page_fits_a_phone(browser: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    frame = comparison.html(differing()).replace("<style>", f"{WATCH}<style>", 1).replace("</body>", PROBE)
    page.write_text(frame)
    # Headless windows have a least width, so that a frame plays the phone.
    phone = tmp_path / "phone.html"
    phone.write_text(
        f'<body><iframe id="f" src="{page.as_uri()}" width="360" height="700"></iframe>'
        '<script>f.onload = () => document.body.setAttribute("data-width", f.clientWidth)</script></body>'
    )
    outside = opened(browser, phone, tmp_path / "profile", "--allow-file-access-from-files")
    assert figure(outside, "width") == "360"
    dom = opened(browser, page, tmp_path / "profile", "--window-size=500,900")
    assert figure(dom, "overflow") == "false"


if __name__ == "__main__":  # to look at it: python tests/unit/test_comparison_page.py page.html
    import sys

    Path(sys.argv[1]).write_text(comparison.html(differing()))
