"""Every example runs as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_the_example_runs(example: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / example], check=True, cwd=tmp_path)
