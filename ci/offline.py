"""The folder with which a gate does without a network: takes it for the cache, and carries images into it and out."""

import os
from collections.abc import Iterable
from pathlib import Path

from ci import cache
from ci.engine import Engine
from ci.progress import step

_SAVED = "saved-images"


def use(folder: Path) -> None:
    """Take a folder for the harness's cache, in this process and all that it starts."""
    os.environ["CONSTANN_CI_CACHE"] = str(folder.expanduser().absolute())


def go_offline(folder: Path) -> None:
    """Use what was fetched, and let no pip look for more.

    Raises
    ------
    cache.CacheError
        Nothing was fetched there.
    """
    if not (folder / "wheels").is_dir():
        raise cache.CacheError(
            f"{folder} holds nothing that was fetched: run `./ci/run fetch {folder}` where there is a network"
        )
    use(folder)
    os.environ["PIP_NO_INDEX"] = "1"


def load_images(found: Engine) -> None:
    """Give the engine the images that were fetched for one that is not ours."""
    for path in sorted((cache.root() / _SAVED).glob("*.tar")):
        with step(f"loading {path.name}"), path.open("rb") as file:
            found.client.images.load(file)


def save_images(found: Engine, tags: Iterable[str]) -> None:
    """Save images of an engine that may not be the one of the offline run; our own keeps its images in the cache."""
    for tag in sorted(tags):
        place = cache.folder(_SAVED) / f"{tag.replace('/', '-').replace(':', '-')}.tar"
        if not place.exists():
            with step(f"saving {tag}"), cache.whole(place) as path, path.open("wb") as file:
                for chunk in found.client.images.get(tag).save(named=True):
                    file.write(chunk)
