"""Installing as users do: one Dockerfile that compiles nothing, and answers that are equal whatever built the image.

The containers themselves are the gate's (ci/installing.py); here is what can be seen without them.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import ContainerError

from ci import foreign_programs, host, installing, platforms
from ci.engine import EngineError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "docker"
ARM = platforms.load()["linux-aarch64"]


def engine(architecture: str, starts: Iterable[bool] = ()) -> Any:
    """An engine whose containers start, or cannot start, in this order."""

    each = iter(starts)

    def run(*_: object, **__: object) -> None:
        if not next(each):
            raise ContainerError("x", 1, "/bin/true", "image", b"exec format error")

    client = SimpleNamespace(containers=SimpleNamespace(run=run))
    return SimpleNamespace(architecture=architecture, local=True, client=client)


def test_the_program_of_the_image_builds_an_index_and_opens_it_again(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLE / "neighbours.py", tmp_path / "catalogue.constann"]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] and len(json.loads(runs[0])["fingerprint"]) == 64


def commands(dockerfile: str) -> list[str]:
    return re.findall(r"^RUN (pip .*)$", dockerfile, re.M)


def compiling_or_bare(dockerfile: str) -> list[str]:
    """Commands that may compile, or that may take our package from elsewhere than the files."""
    return [
        line
        for line in commands(dockerfile)
        if "--only-binary :all:" not in line or ("constann" in line and not {"--no-index"} <= set(line.split()))
    ]


def test_the_dockerfile_compiles_nothing_and_is_no_platforms_own() -> None:
    text = (EXAMPLE / "Dockerfile").read_text()
    assert len(commands(text)) == 2 and compiling_or_bare(text) == []
    assert re.search(r"^FROM \$\{PYTHON_IMAGE\}$", text, re.M)
    assert compiling_or_bare(f"{text}\nRUN pip install numpy\n") == ["pip install numpy"]


def test_an_engine_builds_for_its_own_platform_in_two_ways() -> None:
    names = [each.name for each in installing.variants(engine("x86_64"))]
    assert names == ["linux/amd64", "linux/amd64 under QEMU, CPU max", "linux/arm64"]
    assert [each.name for each in installing.variants(engine("aarch64"))][-1] == "linux/amd64"


def test_the_image_runs_on_old_cpus() -> None:
    models = installing._models(platforms.load()["linux-x86_64"])
    assert {"Haswell", "Nehalem", "core2duo", "qemu64"} <= set(models)
    assert models["core2duo"][1:3] == ["-cpu", "core2duo"]


def test_what_was_installed_from_source_before_is_compared_and_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    base = {"image": "arm"}
    compiled: list[str] = []

    def install(engine: object, made: object, sdist: Path, program: Path, row: str) -> str:
        compiled.append(row)
        return '{"fingerprint": "aa", "kernels": "neon"}'

    monkeypatch.setattr(installing.images, "bases", lambda found, wanted, *_: {wanted[0].name: base["image"]})
    monkeypatch.setattr(installing.foreign_programs, "runnable", lambda *_: nullcontext())
    monkeypatch.setattr(installing.containers, "container", lambda *_, **__: nullcontext())
    monkeypatch.setattr(installing, "_install_from_source", install)
    sdist = tmp_path / "constann-0.1.0.tar.gz"
    arm = platforms.load()["linux-aarch64"]

    def check(*, kept_too: bool = True) -> dict[str, str]:
        answers: dict[str, str] = {}
        assert installing.check_source_build(engine("x86_64"), arm, sdist, answers, kept_too=kept_too) == []
        return answers

    sdist.write_bytes(b"sources")
    first = check()
    assert check() == first == {"linux/arm64, from source": install(0, 0, sdist, sdist, "here")}
    assert len(compiled) == 2
    check(kept_too=False)
    assert len(compiled) == 3
    base["image"] = "newer"
    check()
    assert len(compiled) == 4
    sdist.write_bytes(b"changed")
    check()
    assert len(compiled) == 5


def test_the_kernels_alone_may_differ() -> None:
    rows = {name: json.dumps({"fingerprint": "f", "ids": [1], "kernels": name}) for name in ("avx2", "neon")}
    assert installing.differences(rows) == []
    wrong = rows | {"old": json.dumps({"fingerprint": "f", "ids": [2], "kernels": "old"})}
    assert installing.differences(wrong) == ["old answers differently than avx2"]
    assert installing.differences(rows | {"mute": "Segmentation fault"}) == [
        "mute: no answer, but 'Segmentation fault'"
    ]
    assert installing.differences({}) == ["the example ran nowhere"]


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("Collecting numpy==2.3.5\nSuccessfully installed numpy-2.3.5", None),
        (
            "Building wheels for collected packages: constann\n  Building wheel for constann (pyproject.toml)",
            "Building wheel",
        ),
        ("  Preparing metadata (pyproject.toml): started", "Preparing metadata (pyproject.toml)"),
    ],
)
def test_a_build_from_source_is_seen_in_pips_output(log: str, found: str | None) -> None:
    assert installing.compiled(log) == found


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the kernel's, on a computer that has QEMU and where we are root."""
    folder = tmp_path / "binfmt_misc"
    folder.mkdir()
    (folder / "register").write_text("")
    monkeypatch.setattr(foreign_programs, "_HANDLERS", folder)
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "is_root", lambda: True)
    monkeypatch.setattr(host, "program", lambda name: f"/usr/bin/{name}")
    return folder


def test_what_starts_foreign_programs_already_is_left_alone(handlers: Path) -> None:
    with foreign_programs.runnable(engine("x86_64", [True]), ARM, "image"):
        pass
    with foreign_programs.runnable(engine("aarch64"), ARM, "image"):
        pass
    assert (handlers / "register").read_text() == "" and len(list(handlers.iterdir())) == 1


def test_a_handler_of_ours_goes_with_the_last_that_uses_it(handlers: Path) -> None:
    ours = handlers / "constann-aarch64"
    with foreign_programs.runnable(engine("x86_64", [False, True]), ARM, "image"):
        text = (handlers / "register").read_text()
        assert text.startswith(":constann-aarch64:M:0:") and text.endswith(":/usr/bin/qemu-aarch64-static:F")
        ours.write_text("enabled")  # as the kernel would
        with foreign_programs.runnable(engine("x86_64", [True]), ARM, "image"):
            pass
        assert ours.read_text() == "enabled", "another run still needs it"
    assert ours.read_text() == "-1"


def test_the_kernels_table_is_told_of_another_architecture_by_its_elf_header() -> None:
    entry = foreign_programs.entry("aarch64", "some-name", Path("/usr/bin/qemu-aarch64-static"))
    _, name, kind, offset, magic, mask, emulator, flags = entry.split(":")
    assert (name, kind, offset, emulator, flags) == ("some-name", "M", "0", "/usr/bin/qemu-aarch64-static", "F")
    assert magic.replace("\\x", "") == "7f454c460201010000000000000000000200b700"
    assert mask.replace("\\x", "") == "ffffffffffffff00fffffffffffffffffeffffff"


def test_what_a_killed_run_left_is_taken_back_and_anothers_handler_is_not(handlers: Path) -> None:
    for name in ("constann-aarch64", "qemu-aarch64"):
        (handlers / name).write_text("enabled")
    foreign_programs.undo()
    assert (handlers / "constann-aarch64").read_text() == "-1"
    assert (handlers / "qemu-aarch64").read_text() == "enabled"


def test_where_it_is_not_ours_to_change_the_error_says_what_to_do(
    handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "is_root", lambda: False)
    with (
        pytest.raises(EngineError, match="binfmt --install arm64"),
        foreign_programs.runnable(engine("x86_64", [False]), ARM, "image"),
    ):
        pass
    assert (handlers / "register").read_text() == ""
