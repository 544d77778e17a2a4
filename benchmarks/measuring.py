"""What the comparisons with peers share: time on the CPU, the speed at a recall, the name of the machine."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np


def cpu_time(work: Callable[[], Any]) -> float:
    """Seconds on the CPU, of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def speed_at(points: Sequence[tuple[float, float]], target: float) -> float:
    """Queries a second at a recall, from (recall, speed) by rising effort; 0 where it is not reached.

    Between two efforts by the logarithm of the speed.
    """
    found = [qps for reached, qps in points[:1] if reached >= target]
    for (low, fast), (high, slow) in pairwise(points):
        if low < target <= high:
            share = (target - low) / (high - low)
            found.append(float(np.exp(np.log(fast) * (1 - share) + np.log(slow) * share)))
    return max(found, default=0.0)


def cpu_name() -> str:
    """The CPU as the system calls it."""
    with open("/proc/cpuinfo") as file:
        return next((line.split(": ")[1].strip() for line in file if line.startswith("model name")), "unknown CPU")
