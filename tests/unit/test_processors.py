"""`threads=None` means the CPUs this process may use: its affinity and its container's quota."""

import os
from pathlib import Path

import pytest

from constann import processors


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("_CGROUP_V2", "_CGROUP_V1_QUOTA", "_CGROUP_V1_PERIOD"):
        monkeypatch.setattr(processors, name, tmp_path / name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def test_without_a_container_it_is_the_affinity(quota: Path) -> None:
    assert processors.available() == 8


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", 8), ("250000 100000", 3), ("1000 100000", 1), ("broken", 8)]
)
def test_a_container_quota_is_rounded_up(quota: Path, text: str, expected: int) -> None:
    (quota / "_CGROUP_V2").write_text(text)
    assert processors.available() == expected


@pytest.mark.parametrize(("period", "expected"), [("100000", 4), ("0", 8)])
def test_the_older_kind_of_container_is_understood(quota: Path, period: str, expected: int) -> None:
    (quota / "_CGROUP_V1_QUOTA").write_text("400000\n")
    (quota / "_CGROUP_V1_PERIOD").write_text(period)
    assert processors.available() == expected


def test_no_quota_in_the_older_kind(quota: Path) -> None:
    (quota / "_CGROUP_V1_QUOTA").write_text("-1\n")
    (quota / "_CGROUP_V1_PERIOD").write_text("100000\n")
    assert processors.available() == 8
