"""Records this computer with one of a release's wheels, so that it joins the gate of that release (`--with`).

It judges nothing, and uses neither this checkout's library nor one that is installed.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from ci.progress import step

# What the command `constann` takes besides the wheel.
_PACKAGES = ("numpy", "click", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `./ci/run record`."""
    parser.add_argument("recording", type=Path, metavar="FILE", help="what to write, such as recordings/mac.rec")
    parser.add_argument(
        "--wheels",
        type=Path,
        default=Path("dist"),
        metavar="FOLDER",
        help="the wheels of the release, one of which is for this computer (default: dist)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Install the wheel for this computer into a fresh environment and record the standard workload with it."""
    recording = arguments.recording.absolute()
    recording.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="constann-record-") as work:
        venv.create(work, with_pip=True)
        python = str(Path(work, "bin", "python"))
        pip = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # No index beside the folder: a namesake there with a higher version would win. And no build of an sdist there.
        ours = ["--no-index", "--no-deps", "--only-binary", ":all:", "--find-links", str(arguments.wheels.absolute())]
        try:
            with step(f"Python {sys.version.split()[0]} with {', '.join(_PACKAGES)} and a wheel of {arguments.wheels}"):
                subprocess.run([*pip, *ours, "constann"], check=True)
                subprocess.run([*pip, *_PACKAGES], check=True)
        except subprocess.CalledProcessError as error:
            print(f"error: `{' '.join(error.cmd)}` failed, see above", file=sys.stderr)
            return 2
        # Isolated, as pip is above: neither PYTHONPATH nor the folder may bring another package.
        return subprocess.run([python, "-I", "-m", "constann", "record", recording], cwd=work, check=False).returncode
