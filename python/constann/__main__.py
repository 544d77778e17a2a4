"""The command line: `python -m constann COMMAND`, or `constann COMMAND`.

`doctor` must run where numpy, the extension or click cannot, so it is found here; all other commands are click's.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["doctor"]:
        return int(import_module("constann.doctor.report").main(given[1:]))
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        print(
            f"constann's command line needs {' and '.join(missing)}: pip install 'click>=8.1' 'rich>=13'\n"
            "(`constann doctor`, which examines this installation, needs nothing)",
            file=sys.stderr,
        )
        return 2
    return int(import_module("constann.command_line").main(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
