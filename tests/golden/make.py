"""Writes the known answers of the reference, or says whether they are what lies here; README.md says what they are.

    python tests/golden/make.py [--check | --drift-pin]

Answers of revision 0 may be made anew, with a line in CHANGELOG.md. What names a revision from 1 on is frozen: it is
never written over. The answers never come from constann itself; only the drift pin, carried-data.json, does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

import reference_file  # noqa: E402
from golden import answers  # noqa: E402

INDEX_SUFFIX = ".constann"
Made = Mapping[str, bytes]


class FrozenError(Exception):
    """Known answers of a released revision would change."""


def revisions(name: str, content: bytes) -> dict[str, int]:
    """The revisions that these answers are of, as they say themselves."""
    if name.endswith(INDEX_SUFFIX):
        return reference_file.revisions(content)
    found = {key: value for key, value in json.loads(content).items() if key.endswith(("_revision", "_version"))}
    if not found:
        raise ValueError(f"{name} names no revision: it is not a file of known answers")
    return found


def refuse_frozen(folder: Path, made: Made) -> None:
    """Raise where a file of a frozen revision would change."""
    for name, content in made.items():
        path = folder / name
        if not path.exists() or (old := path.read_bytes()) == content:
            continue
        if frozen := {key: value for key, value in revisions(name, old).items() if value >= 1}:
            raise FrozenError(
                f"{path} is frozen at {frozen}: known answers of a released revision never change. "
                "Leave it as it is, add a new revision, and give that one files of its own"
            )


def write(folder: Path, made: Made) -> None:
    """Write all answers, or none where one is frozen."""
    refuse_frozen(folder, made)
    for name, content in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def first_difference(name: str, old: bytes, new: bytes) -> str:
    """Where two contents part: a line of JSON, a byte of an index file."""
    if name.endswith(INDEX_SUFFIX):
        at = next(i for i, (one, other) in enumerate(zip_longest(old, new)) if one != other)
        return f"{name} differs from byte {at} on"
    pairs = enumerate(zip_longest(old.decode().splitlines(), new.decode().splitlines()), start=1)
    at, (one, other) = next((line, pair) for line, pair in pairs if pair[0] != pair[1])
    return f"{name}: line {at} is not the reference's\n  here:      {one}\n  reference: {other}"


def check(folder: Path, made: Made) -> list[str]:
    """What in the folder is not what the reference makes."""
    problems = []
    for name, content in made.items():
        path = folder / name
        if not path.exists():
            problems.append(f"{name} is missing")
        elif (old := path.read_bytes()) != content:
            problems.append(first_difference(name, old, content))
    strays = {f"files/{path.name}" for path in folder.glob(f"files/*{INDEX_SUFFIX}")} - made.keys()
    for name in sorted(strays):
        if not any(revisions(name, (folder / name).read_bytes()).values()):
            problems.append(f"{name} is of revision 0 and nothing makes it: remove it")
    return problems


def drift_pin() -> dict[str, bytes]:
    """Digests of what the installed constann answers on the carried slice: they show a change, not that it is right."""
    from constann import _core  # noqa: PLC0415 - the rest of this file must not see it

    conformance = TESTS / "conformance"
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, conformance / "workload.py", "--output", output, "--rows", "2000"]
        for what in ("vectors", "queries"):
            command += [f"--{what}", conformance / "data" / f"gloss-{what}.npy"]
        subprocess.run(command, check=True)
        found = json.loads(Path(output, "answers.json").read_text())
    revision = {"arithmetic_revision": _core.arithmetic_revision, "builder_revision": _core.builder_revision}
    return {"carried-data.json": (json.dumps({**revision, "answers": found["built"]}, indent=1) + "\n").encode()}


def main(arguments: list[str] | None = None, folder: Path = HERE) -> None:
    """Make, or check and exit with status 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="change nothing; say what is not the reference's")
    choice.add_argument("--drift-pin", action="store_true", help="write carried-data.json from the installed constann")
    options = parser.parse_args(arguments)
    if options.check:
        if problems := check(folder, answers.everything()):
            sys.exit("\n".join(problems))
        print("the known answers are those of the reference")
        return
    made = drift_pin() if options.drift_pin else answers.everything()
    try:
        write(folder, made)
    except FrozenError as error:
        sys.exit(str(error))
    print("\n".join(f"wrote {name}, {len(content)} bytes" for name, content in made.items()))


if __name__ == "__main__":
    main()
