"""Every example runs as it stands."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_the_example_runs(example: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / example], check=True, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("qemu-x86_64-static") is None,
    reason="needs qemu-x86_64-static on x86-64 (Debian, Ubuntu: apt-get install qemu-user-static)",
)
def test_an_old_cpu_runs_constann_and_answers_as_this_one(tmp_path: Path) -> None:
    folder = Path(os.environ.get("CONSTANN_BUILT_WHEELS", tmp_path))  # ./ci/test has built one
    if folder == tmp_path:
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT]
        built = subprocess.run(build, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    (wheel,) = folder.glob("constann-*.whl")
    run = subprocess.run([EXAMPLES / "old_cpu.sh", wheel], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    blocks = dict(block.split("\n", 1) for block in run.stdout.split("$ ")[1:])
    here, old = (blocks[f"python with_constann.py    # on {cpu}"] for cpu in ("this CPU", "core2duo"))
    assert "kernels: baseline" in old and "exit status" not in here + old
    assert here.split()[-1] == old.split()[-1], "the fingerprint"
    assert "exit status" not in blocks["python with_annoy.py    # on this CPU"]
    if "avx2" in Path("/proc/cpuinfo").read_text():  # for which pip then compiled annoy
        assert "exit status" in blocks["python with_annoy.py    # on core2duo"]
