"""Builds the core, or a program over it, by CMake alone. Installs nothing and knows nothing of Python."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(folder: Path, target: str, entries: Mapping[str, str], variables: Mapping[str, str] | None = None) -> Path:
    """Build one of CMake's targets in a folder, which may hold a build with other entries; return where it is."""
    given = [f"-D{name}={value}" for name, value in entries.items()]
    configure = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, *given]
    environment = {**os.environ, **(variables or {})}
    for command in (configure, ["cmake", "--build", folder, "--target", target]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / target
