"""Writes carried-data.json, the known answers of the carried slice: run it where a change of them is meant.

    python tests/golden/make.py

It refuses revisions from 1 on: those are frozen. Until then a change of answers or bytes has its line in CHANGELOG.md.
That exact answers are right is not this file's word: tests/unit/test_golden.py compares them with the reference.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from constann import _core

HERE = Path(__file__).resolve().parent
WORKLOAD = HERE.parent / "conformance" / "workload.py"
DATA = HERE.parent / "conformance" / "data"
REVISIONS = {"arithmetic_revision": _core.arithmetic_revision, "builder_revision": _core.builder_revision}


def main() -> None:
    """Run the workload here and keep its digests."""
    if any(REVISIONS.values()):
        sys.exit(f"revisions {REVISIONS} are frozen: known answers of a released revision never change")
    with tempfile.TemporaryDirectory() as folder:
        files = ["--vectors", DATA / "gloss-vectors.npy", "--queries", DATA / "gloss-queries.npy", "--output", folder]
        subprocess.run([sys.executable, WORKLOAD, *files, "--rows", "2000"], check=True)
        answers = json.loads(Path(folder, "answers.json").read_text())
    known = {**REVISIONS, "answers": answers["built"]}
    (HERE / "carried-data.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
