"""Names a wheel for a policy such as manylinux_2_17_x86_64, once auditwheel has found that it keeps it.

Run as a program of its own, for auditwheel changes the folder, and takes dates and file modes from the process.
The command `auditwheel repair` offers only the policies of the machine it runs on: hence its functions.
"""

import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from auditwheel.error import AuditwheelError  # type: ignore[import-untyped]
from auditwheel.patcher import ElfPatcher  # type: ignore[import-untyped]
from auditwheel.policy import Policy  # type: ignore[import-untyped]
from auditwheel.repair import repair_wheel  # type: ignore[import-untyped]
from auditwheel.wheel_abi import WheelAbIInfo, analyze_wheel_abi  # type: ignore[import-untyped]

from ci.wheel_file import WheelError


def name_by_policy(wheel: Path, tag: str, output: Path) -> Path:
    """Write the wheel anew with the policy's tag in its name and metadata, and return it.

    Nothing is ever grafted in: what a wheel needs besides the C library is to be linked statically.

    Raises
    ------
    WheelError
        When the wheel does not keep the policy; the text says which symbols and libraries it asks for.
    """
    abi, policy = _judge(wheel, tag)
    output.mkdir(parents=True, exist_ok=True)
    named: Path = repair_wheel(
        abi,
        wheel,
        abis=[policy.name, *policy.aliases],
        lib_sdir=".libs",
        out_dir=output,
        update_tags=True,
        patcher=ElfPatcher.get_patcher("none", policy.name),
        strip=False,
        zip_compression_level=zlib.Z_DEFAULT_COMPRESSION,
    )
    return named


def _judge(wheel: Path, tag: str) -> tuple[WheelAbIInfo, Policy]:
    """Return what auditwheel finds out about the wheel, and the policy of this tag, which the wheel has to keep."""
    try:
        abi = analyze_wheel_abi(None, None, wheel, frozenset(), disable_isa_ext_check=False, allow_graft=False)
        policy = abi.policies.get_policy_by_name(tag)
    except (AuditwheelError, LookupError) as error:
        raise WheelError(f"{wheel.name} cannot be {tag}: auditwheel says: {error}") from error
    if policy > abi.overall_policy:
        raise WheelError(
            f"{wheel.name} cannot be {tag}: auditwheel finds {abi.overall_policy.name}; it needs symbols"
            f" {_spell_symbols(abi.versioned_symbols)} and, besides the C library,"
            f" {', '.join(sorted(abi.external_refs[policy.name].libs)) or 'no library'}"
        )
    return abi, policy


def _spell_symbols(symbols: Mapping[str, Iterable[str]]) -> str:
    return ", ".join(sorted({version for versions in symbols.values() for version in versions}))


def main(wheel: str, tag: str, output: str) -> int:
    """Name the wheel; say what is wrong on standard error."""
    try:
        name_by_policy(Path(wheel).absolute(), tag, Path(output).absolute())
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
