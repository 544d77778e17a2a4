"""How many CPUs this process may use: what `threads=None` means. It counts, and touches no data."""

import math
import os
from pathlib import Path

__all__ = ["available"]

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def available() -> int:
    """Count the CPUs this process may use: its affinity, and its container's quota rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def _container_quota() -> float | None:
    try:
        quota, period = _CGROUP_V2.read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = _CGROUP_V1_QUOTA.read_text().strip(), _CGROUP_V1_PERIOD.read_text().strip()
        except OSError:
            return None
    if quota == "max" or not quota.isdecimal() or int(period) <= 0:
        return None
    return int(quota) / int(period)
