"""An install that compiles, or finds another numpy than promised, is seen. No container is started here."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ci import oldest_system, platforms
from ci.containers import Done

WHEEL = Path("constann-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl")
NUMPY = "https://index.example/numpy-2.2.6-cp311-cp311-manylinux_2_17_x86_64.whl"


class Old:
    """Stands in for the system: answers as told."""

    def __init__(self, **answers: object) -> None:
        self.answers: dict[str, Any] = {
            "compilers": "",
            "status": 0,
            "urls": [f"file:///tmp/{WHEEL.name}", NUMPY],
            "used": "2.2.6",
            **answers,
        }
        self.options: tuple[str, ...] = ()

    def install(self, wheel: Path, *options: str) -> Done:
        self.options = options
        return Done(self.answers["status"], "", "ERROR: metadata-generation-failed", 1.0)

    def run(self, *arguments: str, **variables: str) -> Done:
        code = arguments[-1]
        if "shutil" in code:
            return Done(0, f"{self.answers['compilers']}\n", "", 1.0)
        if "report" in code:
            install = [{"download_info": {"url": url}} for url in self.answers["urls"]]
            return Done(0, json.dumps({"install": install}), "", 1.0)
        return Done(0, f"{self.answers['used']}\n", "", 1.0)


def problems(system: Any, foreign: platforms.Platform | None = None) -> list[str]:
    return list(oldest_system.check_install(system, WHEEL, "2.2.6", foreign))


def test_an_install_from_wheels_alone_passes() -> None:
    system = Old()
    assert problems(system) == []
    assert system.options == ("--prefer-binary",)


def test_for_another_architecture_pip_is_told_the_old_tags_alone() -> None:
    system = Old()
    system.python = "3.13"  # type: ignore[attr-defined]
    assert problems(system, platforms.load()["linux-aarch64"]) == []
    given = [tag for option, tag in pairwise(system.options) if option == "--platform"]
    assert given == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert system.options[:2] == ("--only-binary", ":all:")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"urls": ["https://index.example/numpy-2.4.6.tar.gz"]}, "pip took sources: .*numpy-2.4.6.tar.gz"),
        ({"used": "2.4.6"}, "pip installed numpy 2.4.6, but .* says 2.2.6"),
        ({"status": 1}, "could not install .*metadata-generation-failed"),
        ({"compilers": "gcc"}, "the image has a compiler"),
    ],
    ids=["sources", "another numpy", "no install", "a compiler"],
)
def test_anything_else_is_a_problem(answers: dict[str, object], words: str) -> None:
    (problem,) = problems(Old(**answers))
    assert re.search(words, problem, re.DOTALL)


def test_pip_is_told_of_an_old_library_by_the_standard_way() -> None:
    namespace: dict[str, Any] = {}
    exec(oldest_system.MANYLINUX.format(glibc=(2, 17)), namespace)
    compatible = namespace["manylinux_compatible"]
    assert compatible(2, 17, "x86_64") and compatible(2, 5, "x86_64") and not compatible(2, 28, "x86_64")
