"""Every Python block of the README and of docs runs; what a page only speaks of is made before it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# What a reader of the page has already.
BEFORE = {
    "comparing.md": """
import numpy as np, constann
pixels = np.zeros((4, 4, 3), np.uint8)
vectors = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
embedding = queries = vectors[:3]
index = constann.build(vectors, metric="euclidean")
model = lambda image: image.sum(axis=(1, 2, 3))
for name in ("a.rec", "b.rec"):
    with constann.recording(name) as rec:
        rec.stage("embedding", vectors)
""",
    "from-annoy.md": """
import constann.annoy
old = constann.annoy.AnnoyIndex(40, "angular")
old.add_item(0, [1.0] * 40)
old.build(1)
old.save("old.ann")
""",
    "memory.md": """
import constann, numpy as np
dim, blocks = 8, np.random.default_rng(0).standard_normal((2, 30, 8))
""",
    "pair-map.md": "import numpy as np",
}


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_blocks_of_the_page_run_one_after_another(page: Path, tmp_path: Path) -> None:
    ran = run("\n".join([BEFORE.get(page.name, ""), *blocks(page)]), tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_a_block_that_does_not_run_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nimport constann\n```\n\n```python\nconstann.built()\n```\n")
    assert len(blocks(page)) == 2
    assert "has no attribute 'built'" in run("\n".join(blocks(page)), tmp_path).stderr


def test_each_page_that_is_prepared_has_blocks() -> None:
    with_blocks = {page.name for page in PAGES if blocks(page)}
    assert BEFORE.keys() <= with_blocks and {"README.md", "index.md"} <= with_blocks
