"""Asks auditwheel whether a wheel keeps a policy such as manylinux_2_17_x86_64. Changes nothing.

Run as a program of its own, for auditwheel changes the folder of the process.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from auditwheel.error import AuditwheelError  # type: ignore[import-untyped]
from auditwheel.wheel_abi import analyze_wheel_abi  # type: ignore[import-untyped]

from ci.wheel_file import WheelError


def judge(wheel: Path, tag: str) -> str:
    """Return the policy that the wheel keeps: this one, or with "auto" the strictest there is.

    Nothing is ever grafted in: what a wheel needs besides the C library is to be linked statically.

    Raises
    ------
    WheelError
        When the wheel does not keep the policy; the text says which symbols and libraries it asks for.
    """
    try:
        abi = analyze_wheel_abi(None, None, wheel, frozenset(), disable_isa_ext_check=False, allow_graft=False)
        policy = abi.overall_policy if tag == "auto" else abi.policies.get_policy_by_name(tag)
    except (AuditwheelError, LookupError) as error:
        raise WheelError(f"{wheel.name} cannot be {tag}: auditwheel says: {error}") from error
    if policy > abi.overall_policy:
        raise WheelError(
            f"{wheel.name} cannot be {tag}: auditwheel finds {abi.overall_policy.name}; it needs symbols"
            f" {_spell_symbols(abi.versioned_symbols)} and, besides the C library,"
            f" {', '.join(sorted(abi.external_refs[policy.name].libs)) or 'no library'}"
        )
    return str(policy.name)


def _spell_symbols(symbols: Mapping[str, Iterable[str]]) -> str:
    return ", ".join(sorted({version for versions in symbols.values() for version in versions}))


def main(wheel: str, tag: str) -> int:
    """Print the policy, or say what is wrong on standard error."""
    try:
        print(judge(Path(wheel).absolute(), tag))
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
