"""Small wheels with true names, tags and metadata and nothing in them: all that a resolver looks at."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from ci import platforms

METADATA = "Metadata-Version: 2.4\nName: constann\nVersion: {version}\nRequires-Python: >=3.11\n"


def stand_in(folder: Path, target: platforms.Target, python: str = "311", version: str = "0.1.0") -> Path:
    """Write the wheel of one platform and Python."""
    tag = f"cp{python}-cp{python}-{target.wheel.tag}"
    path = folder / f"constann-{version}-{tag}.whl"
    information = f"constann-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{information}/METADATA", METADATA.format(version=version))
        archive.writestr(f"{information}/WHEEL", f"Wheel-Version: 1.0\nGenerator: a test\nTag: {tag}\n")
        archive.writestr(f"{information}/RECORD", "")
    return path


def stand_ins(folder: Path, without: Iterable[str] = ()) -> list[Path]:
    """Write one wheel for each platform, but for those named."""
    return [stand_in(folder, target) for name, target in platforms.load_targets().items() if name not in without]
