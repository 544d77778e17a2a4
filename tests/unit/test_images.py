"""Images are rebuilt when what goes into them changes, and reach the network as the computer around them does."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci import host, images, network, platforms, rootfs


def test_the_name_changes_with_each_input(tmp_path: Path) -> None:
    known, facts = platforms.load(), platforms.load_images()
    x86 = known["linux-x86_64"]

    def tag(platform: platforms.Platform, python: str, shared: platforms.Images) -> str:
        return images.tag(platform, python, shared, None)

    emulator = tmp_path / "qemu"
    emulator.write_bytes(b"another version")
    names = [
        images.tag(x86, "3.11", facts, emulator),
        tag(x86, "3.11", facts),
        tag(x86, "3.13", facts),
        tag(known["linux-aarch64"], "3.11", facts),
        tag(x86, "3.11", replace(facts, packages=("python3",))),
        tag(x86, "3.11", replace(facts, pip="1.0")),
        tag(replace(x86, machines=x86.machines[:1]), "3.11", facts),
        tag(replace(x86, container=replace(x86.container, image="other:{python}")), "3.11", facts),
    ]
    assert len(set(names)) == len(names)
    assert tag(x86, "3.11", facts) == names[1]
    renamed = replace(x86, wheel=replace(x86.wheel, tag="manylinux_2_28_x86_64"))
    assert tag(renamed, "3.11", facts) == names[1], "what is not in an image must not rebuild it"


def test_an_engine_of_no_platform_is_named() -> None:
    engine: Any = SimpleNamespace(architecture="riscv64", local=True)
    with pytest.raises(images.ImageError, match="riscv64, which no file"):
        images.prepare(engine, list(platforms.load().values()), platforms.load_images())


def test_an_official_image_of_the_wrong_architecture_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = list(platforms.load().values())
    image = SimpleNamespace(attrs={"Architecture": "s390x"})
    pulled: Any = SimpleNamespace(client=SimpleNamespace(images=SimpleNamespace(pull=lambda *_, **__: image)))
    monkeypatch.setattr(images, "_registry_answers", lambda *_: True)
    monkeypatch.setattr(images, "_from_packages", lambda engine, platform, *_: f"packages of {platform.name}")
    bases = images._bases(pulled, known, "3.11", platforms.load_images())
    assert bases == {each.name: f"packages of {each.name}" for each in known}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, images.ImageError])
def test_what_runs_beside_an_error_is_ended(stop: type[BaseException]) -> None:
    first, *others = platforms.load().values()
    ended = threading.Event()

    def work(platform: platforms.Platform) -> None:
        if platform is first:
            raise stop
        assert ended.wait(30), "nobody ended what runs"

    with pytest.raises(stop):
        images._together(work, [first, *others], end=ended.set)


def test_pip_is_told_each_tag_of_the_other_platform() -> None:
    options = images.foreign_options(platforms.load()["linux-aarch64"], "3.11", "2.36")
    assert {"manylinux_2_17_aarch64", "manylinux_2_28_aarch64", "manylinux_2_36_aarch64"} < set(options)
    assert "manylinux_2_37_aarch64" not in options


DEB822 = """\
Types: deb
# a snapshot
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

# the archive
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("sources.list.d/debian.sources", DEB822, "http://mirror.example/debian"),
        (
            "sources.list.d/debian.sources",
            DEB822.replace("Suites: bookworm b", "Enabled: no\nSuites: bookworm b"),
            None,
        ),
        (
            "sources.list",
            "deb [arch=amd64] http://mirror.example/debian bookworm main\n",
            "http://mirror.example/debian",
        ),
        ("sources.list", "# deb http://mirror.example/debian bookworm main\n", None),
        ("sources.list", "deb http://other.example/apt bookworm main\n", None),
        ("sources.list", "deb cdrom:[Debian]/debian bookworm main\n", None),
        (
            "sources.list",
            "deb http://snapshot.example/archive/debian/20250101T000000Z/ bookworm main\n",
            "http://snapshot.example/archive/debian/20250101T000000Z/",
        ),
    ],
)
def test_the_mirror_of_this_computer_is_found(tmp_path: Path, name: str, text: str, expected: str | None) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / name).write_text(text)
    assert rootfs.configured_mirror(tmp_path) == expected


def test_a_named_mirror_goes_before_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "distribution", lambda: "debian")
    (tmp_path / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    facts = platforms.load_images()
    debian, ubuntu = facts.release("3.11"), facts.release("3.12")
    assert debian and ubuntu
    named = {"CONSTANN_DEBIAN_MIRROR": "http://named.example/debian"}
    assert list(rootfs.mirrors(debian, named, tmp_path)) == ["http://named.example/debian"]
    assert list(rootfs.mirrors(debian, {}, tmp_path)) == ["http://mirror.example/debian", None]
    assert list(rootfs.mirrors(ubuntu, named, tmp_path)) == [None]


def test_pip_in_containers_has_this_computers_indexes_and_proxies(tmp_path: Path) -> None:
    environment = {
        "https_proxy": "http://proxy.example:3128",
        "NO_PROXY": "localhost",
        "PIP_EXTRA_INDEX_URL": "file:///srv/wheels https://extra.example/simple",
        "HOME": "/home/somebody",
    }
    settings = {"global.index-url": "https://index.example/simple", "global.find-links": "/srv/wheels"}
    assert network.pip_environment(environment, settings) == {
        "https_proxy": "http://proxy.example:3128",
        "NO_PROXY": "localhost",
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://extra.example/simple",
    }
    bundle = tmp_path / "bundle.pem"
    assert network.certificates({"SSL_CERT_FILE": str(bundle)}, {}) is None, "a file that is not there is no bundle"
    bundle.write_text("")
    assert network.certificates({"SSL_CERT_FILE": str(bundle)}, {}) == bundle
    assert network.certificates({}, {"global.cert": str(bundle)}) == bundle
