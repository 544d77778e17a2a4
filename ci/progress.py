"""Tells the person waiting what happens, and how long it took. Nothing here decides anything."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_START = time.monotonic()


def say(text: str) -> None:
    """Print one line with the seconds since the start, on standard error, so that results stay alone on the other."""
    print(f"[{time.monotonic() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce something that takes a while, and say how long it took or that it failed."""
    say(f"{text} ...")
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{text}: failed after {time.monotonic() - begin:.1f} s")
        raise
    say(f"{text}: done in {time.monotonic() - begin:.1f} s")
