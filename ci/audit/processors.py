"""Says which instruction sets a CPU model has. The facts are archspec's; here are only those it lacks."""

from collections.abc import Mapping
from dataclasses import dataclass

import archspec.cpu  # type: ignore[import-untyped]

from ci.audit.scan import closure
from ci.wheel_file import WheelError

# Names of QEMU, of clouds and of compilers, for what archspec calls otherwise.
_ALIASES = {
    "core2duo": "core2",
    "x86_64_v1": "x86_64",
    "westmere_v1": "westmere",
    "skylake_client": "skylake",
    "skylake_server": "skylake_avx512",
    "icelake_server": "icelake",
    "opteron_g5": "piledriver",
    "epyc": "zen",
    "epyc_rome": "zen2",
    "epyc_milan": "zen3",
    "epyc_genoa": "zen4",
    "graviton": "cortex_a72",
    "graviton1": "cortex_a72",
    "graviton2": "neoverse_n1",
    "graviton3": "neoverse_v1",
    "graviton4": "neoverse_v2",
    "apple_m1": "m1",
    "armv8_a": "aarch64",
    "armv8": "aarch64",
    "armv8.0_a": "aarch64",
}

# CPUs that archspec does not know. QEMU's default; Armv8.0-A with the optional CRC (Raspberry Pi 3); and what each
# version of Arm's architecture demands.
_ARMV8_1 = frozenset({"crc32", "atomics", "asimdrdm", "lor"})
_ARMV8_2 = _ARMV8_1 | {"dcpop"}
_ARMV8_3 = _ARMV8_2 | {"fcma", "jscvt", "lrcpc", "paca"}
_ARMV8_4 = _ARMV8_3 | {"asimddp", "dit", "flagm", "ilrcpc"}
_OTHERS: Mapping[str, tuple[str, frozenset[str]]] = {
    "qemu64": ("x86_64", frozenset({"sse3", "cx16", "lahf_lm"})),
    "penryn": ("x86_64", frozenset({"ssse3", "sse4_1", "cx16", "lahf_lm"})),
    "cortex_a53": ("aarch64", frozenset({"crc32", "cpuid"})),
    "cortex_a76": ("aarch64", _ARMV8_2 | {"asimddp", "asimdhp", "fphp", "lrcpc", "cpuid"}),
    "armv8.1_a": ("aarch64", _ARMV8_1),
    "armv8.2_a": ("aarch64", _ARMV8_2),
    "armv8.3_a": ("aarch64", _ARMV8_3),
    "armv8.4_a": ("aarch64", _ARMV8_4),
}

# What archspec leaves out because compilers do not choose by it, for a CPU and its successors.
_LEFT_OUT: Mapping[str, frozenset[str]] = {
    "x86_64": frozenset({"3dnowprefetch"}),  # without it, CPUs take prefetchw for a nop
    "core2": frozenset({"cx16", "lahf_lm"}),
    "nehalem": frozenset({"rdtscp"}),
    "k10": frozenset({"rdtscp", "cx16", "lahf_lm"}),
}


@dataclass(frozen=True)
class Processor:
    """A CPU model and what it can run beyond the first 64-bit CPUs of its kind."""

    name: str
    architecture: str
    """x86_64 or aarch64."""
    sets: frozenset[str]

    def runs(self, architecture: str) -> bool:
        """Whether machine code for this architecture can run here at all."""
        return {"arm64": "aarch64"}.get(architecture, architecture) == self.architecture


def find_processor(name: str) -> Processor:
    """Return a CPU model by its name in QEMU, in a compiler's -march or -mcpu, or in archspec.

    Raises
    ------
    WheelError
        When nobody knows it; the text lists those there are.
    """
    key = name.lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key in _OTHERS:
        architecture, sets = _OTHERS[key]
    elif key in archspec.cpu.TARGETS and str(archspec.cpu.TARGETS[key].family) in ("x86_64", "aarch64"):
        target = archspec.cpu.TARGETS[key]
        architecture, sets = str(target.family), frozenset(target.features)
        for each in (key, *(str(parent) for parent in target.ancestors)):
            sets |= _LEFT_OUT.get(each, frozenset())
    else:
        raise WheelError(f"no CPU model {name!r} is known; there are: {', '.join(known_processors())}")
    sets |= _LEFT_OUT.get(architecture, frozenset())
    return Processor(name, architecture, closure(sets, architecture))


def known_processors() -> list[str]:
    """Return every name that `find_processor` takes, in one spelling."""
    families = {name: str(target.family) for name, target in archspec.cpu.TARGETS.items()}
    of_archspec = {name for name, family in families.items() if family in ("x86_64", "aarch64")}
    return sorted(name.replace("_", "-") for name in of_archspec | set(_ALIASES) | set(_OTHERS))
