"""A killed run does not break the next, and no program but our own engine is ever taken for it."""

import gc
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci import cache, engine, host, platforms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    return cache.folder("docker")


def test_another_program_with_the_same_number_is_not_our_engine(folder: Path) -> None:
    pidfile = folder / "dockerd.pid"
    pidfile.write_text(str(os.getpid()))
    assert engine._own_process(folder) is None
    engine.stop()  # and it is not stopped: we still run
    engine._forget_killed(pidfile, folder / "missing.pid")
    assert not pidfile.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK forgets to close its socket
def test_an_engine_that_is_named_but_silent_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with (
        pytest.raises(engine.EngineError, match=r"DOCKER_HOST is .*none\.sock"),
        engine.running(list(platforms.load().values())),
    ):
        pass
    gc.collect()


def test_only_settings_about_registries_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    assert engine._kept_settings(path) == {}
    path.write_text(json.dumps({"registry-mirrors": ["https://mirror.example"], "hosts": ["tcp://0.0.0.0:2375"]}))
    assert engine._kept_settings(path) == {"registry-mirrors": ["https://mirror.example"]}


def test_sockets_have_a_path_that_a_socket_can_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / ("long" * 20)))
    assert len(str(engine.socket_folder() / "exec/containerd/containerd-debug.sock.ttrpc")) < 108


def test_without_root_one_line_tells_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "is_root", lambda: False)
    monkeypatch.setattr(host, "distribution", lambda: "debian")
    monkeypatch.setattr(host, "program", lambda name: None)
    monkeypatch.setenv("CONSTANN_PYTHON", "/a python")
    for words, line in {
        "gate --data ./mine": f"{ROOT}/ci/gate --data ./mine",
        "machines prepare": f"{ROOT}/ci/run machines prepare",
    }.items():
        monkeypatch.setattr(sys, "argv", ["-c", *words.split()])
        with pytest.raises(host.HostError) as error:
            host.prepare(list(platforms.load().values()))
        assert f"\n    sudo --preserve-env 'CONSTANN_PYTHON=/a python' {line}\n" in str(error.value)


@pytest.mark.parametrize(
    ("options", "rootless", "remaps"),
    [
        (None, False, False),
        (["name=seccomp,profile=builtin", "name=cgroupns"], False, False),
        (["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"], True, False),
        (["name=userns"], False, True),
    ],
)
def test_whose_the_files_of_a_container_are_is_known(options: list[str] | None, rootless: bool, remaps: bool) -> None:
    information = {"OSType": "linux", "Architecture": "x86_64", "SecurityOptions": options}
    client: Any = SimpleNamespace(info=lambda: information)
    found = engine._describe(client, local=True, log=None)
    assert (found.rootless, found.remaps_users) == (rootless, remaps)


def test_elsewhere_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "distribution", lambda: None)
    with pytest.raises(host.HostError, match="Install Docker"):
        host.prepare(list(platforms.load().values()))


def test_changes_are_remembered_from_run_to_run() -> None:
    changes = host.Changes.load()
    assert changes == host.Changes()
    changes.packages.append("docker.io")
    changes.save()
    assert host.Changes.load() == host.Changes(packages=["docker.io"])
