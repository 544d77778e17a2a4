"""One index page serves pip, uv and Poetry on every platform, from any machine; a missing wheel is noticed in time."""

from pathlib import Path

import pytest
from stand_in_wheels import stand_in, stand_ins

from ci import index_page, platforms, resolvers

LINUX_ARM = platforms.load()["linux-aarch64"]


def test_pip_uv_and_poetry_find_every_wheel_from_any_machine(tmp_path: Path) -> None:
    assert resolvers.check_resolvers(stand_ins(tmp_path)) == []


@pytest.mark.parametrize(
    "missing",
    [("macos-arm64",), pytest.param(("linux-aarch64", "musllinux-aarch64"), marks=pytest.mark.slow)],
    ids=" and ".join,
)
def test_a_platform_without_a_wheel_makes_pip_and_the_lock_fail(tmp_path: Path, missing: tuple[str, ...]) -> None:
    problems = resolvers.check_resolvers(stand_ins(tmp_path, without=missing))
    assert [problem.partition(":")[0] for problem in problems if "pip finds no wheel" in problem] == [*missing], (
        problems
    )
    assert any(problem.startswith("uv makes no lock file") for problem in problems), problems


@pytest.mark.slow
def test_pip_alone_notices_that_the_only_wheel_for_linux_is_for_musl(tmp_path: Path) -> None:
    # For uv any Linux will do: its lock is no proof of a wheel for glibc.
    problems = resolvers.check_resolvers(stand_ins(tmp_path, without=["linux-aarch64"]))
    assert [problem.partition(":")[0] for problem in problems] == ["linux-aarch64"]


def test_pip_is_not_given_a_wheel_of_another_c_library(tmp_path: Path) -> None:
    musl = stand_in(tmp_path, platforms.load_targets()["musllinux-aarch64"])
    index_page.make_index([musl], tmp_path / "simple")
    with index_page.serving(tmp_path / "simple") as url, pytest.raises(resolvers.ResolverError, match="No matching"):
        resolvers.pip_choice(LINUX_ARM, "3.11", "constann==0.1.0", url)


def test_wheels_of_two_releases_are_not_compared(tmp_path: Path) -> None:
    wheels = [stand_in(tmp_path, LINUX_ARM), stand_in(tmp_path, LINUX_ARM, version="0.2.0")]
    with pytest.raises(resolvers.ResolverError, match="one release"):
        resolvers.check_resolvers(wheels)
