"""Fetches all that a gate takes from the network into one folder, so that `gate --offline` runs without one.

The folder is a cache like the harness's own (ci/cache.py), with the images of an engine that is not ours beside it.
What a gate would install on the computer itself must be there already, and the harness's own environment.
"""

import argparse
import tempfile
from pathlib import Path

from ci import builders, engine, gate, images, offline, other_builds, trees
from ci.data_set import CARRIED_DATA, find_data
from ci.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m ci fetch`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="where it goes, for `gate --offline DIR`")
    parser.add_argument(
        "--engine", choices=("docker", "qemu-user"), default="docker", help="for which way to run machines"
    )


def run(arguments: argparse.Namespace) -> int:
    """Fetch it: build everything once with that folder as the cache, and make the images or trees."""
    offline.use(arguments.folder)
    with tempfile.TemporaryDirectory(prefix="constann-fetch-") as work:
        fetched = gate.Work(find_data(CARRIED_DATA), Path(work), ["audit"])
        gate.build_wheels(fetched)
        wanted = {
            row.wheel
            for platform in fetched.platforms.values()
            for row in platform.machines
            if row.built_by not in ("", "cibuildwheel")
        }
        _, problems = other_builds.build(wanted, fetched.platforms, fetched.targets, gate.ROOT, may_install=True)
        for problem in problems:
            say(f"will not run offline: {problem}")
    if arguments.engine == "qemu-user":
        trees.prepare(fetched.platforms, fetched.facts)
    else:
        _prepare_images(fetched)
    print(f"all is in {arguments.folder}; without a network: ./ci/gate --offline {arguments.folder}")
    return 1 if problems else 0


def _prepare_images(fetched: gate.Work) -> None:
    known = list(fetched.platforms.values())
    with engine.running(known) as found:
        tags = {*images.prepare(found, known, fetched.facts).values()}
        tags |= {*builders.prepare(found, known, fetched.facts, fetched.facts.python).values()}
        if found.log is None:
            offline.save_images(found, tags)
