"""Takes back what the harness did to this computer: containers, images, engine and caches."""

import shutil
import subprocess
from pathlib import Path

from docker.errors import DockerException

from ci import cache, containers, engine, foreign_programs, host, images
from ci.progress import say


def undo() -> None:
    """Remove it all, saying each thing; packages stay, and the line that removes them is printed."""
    try:
        with engine.existing() as found:
            containers.remove_leftovers(found, everything=True)
            say(f"removed {images.remove(found)} images")
    except (engine.EngineError, DockerException) as error:
        say(f"no images to remove: {error}")
    engine.stop()
    foreign_programs.undo()
    host.undo()
    top = cache.root()
    for folder in (top, engine.socket_folder()):
        _unmount_below(folder)
    shutil.rmtree(engine.socket_folder(), ignore_errors=True)
    if cache.remove():
        say(f"removed the cache {top}")


def _unmount_below(top: Path) -> None:
    """Unmount what a killed engine left: to remove through a mount would empty what is mounted."""
    table = Path("/proc/self/mounts")
    if not table.exists():
        return
    points = [line.split()[1] for line in table.read_text().splitlines()]
    for point in reversed(points):
        if Path(point).is_relative_to(top):
            done = subprocess.run(["umount", point], capture_output=True, text=True, check=False)
            if done.returncode:
                raise cache.CacheError(f"{point} is mounted still, so nothing is removed: {done.stderr.strip()}")
