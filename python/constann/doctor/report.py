"""Prints the examination, as text for people or as JSON; the exit status says whether all is well."""

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from constann.doctor.examination import examine

__all__ = ["main"]

_WIDTH = 14


def main(arguments: Sequence[str]) -> int:
    """Examine this machine and print what was found; return 0 where all is well and 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="constann doctor",
        description="Examine this machine and this installation of constann, and say what is wrong and what to do.",
        epilog="CONSTANN_LAUNCHER: what child processes are started through, for example 'qemu-x86_64-static -cpu "
        "qemu64'. Needed only where an emulator runs Python and how it was started cannot be found.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return _print_json() if parser.parse_args(arguments).json else _print_text()


def _print_text() -> int:
    problems: list[str] = []
    for section in examine():
        # Flushed at once: what stands is read even where the next part hangs.
        for title, line in zip([section.name, *[""] * len(section.lines)], section.lines, strict=False):
            print(f"{title:<{_WIDTH}}{line}", flush=True)
        for problem in section.problems:
            print(textwrap.indent(f"WRONG: {problem}", " " * _WIDTH), flush=True)
        problems += section.problems
    print(
        "\nall is well"
        if not problems
        else f"\n{len(problems)} wrong: see WRONG above, and docs/errors.md in constann's sources"
    )
    return 1 if problems else 0


def _print_json() -> int:
    sections = list(examine())
    problems = [problem for section in sections for problem in section.problems]
    facts: dict[str, Any] = {section.name.replace(" ", "_").lower(): section.facts for section in sections}
    print(json.dumps({"ok": not problems, "problems": problems, **facts}, indent=1))
    return 1 if problems else 0
