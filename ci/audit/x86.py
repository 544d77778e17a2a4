"""Says which instruction sets an x86-64 instruction needs beyond the first 64-bit CPUs. Decodes with iced-x86."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from iced_x86 import Code, CpuidFeature, Decoder, Instruction

from ci.audit.binaries import Section

# What every x86-64 CPU has, and what older and newer ones alike take for "do nothing": marks for indirect jumps
# (endbr64) and reads of a shadow stack that is not there (rdssp) are among those hints.
_EVERYWHERE = frozenset(
    {
        "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "FPU", "FPU287", "FPU387", "CPUID", "CMOV",
        "CX8", "MMX", "SSE", "SSE2", "FXSR", "TSC", "MSR", "CLFSH", "MULTIBYTENOP", "PAUSE", "X64", "SYSCALL",
        "CET_IBT",
    }
)  # fmt: skip

# As Linux and archspec call them where iced has another name; all others are the same in small letters.
_NAMES = {
    "CMPXCHG16B": "cx16",
    "LZCNT": "abm",
    "SHA": "sha_ni",
    "AVX512_IFMA": "avx512ifma",
    "AVX512_VBMI": "avx512vbmi",
    "PREFETCHW": "3dnowprefetch",
    "CLFLUSHOPT": "clflushopt",
}

# `rep bsf`, which compilers write on purpose: CPUs without BMI1 read it as bsf, and only for 0 is that another answer.
_BIT_SCANS = frozenset(getattr(Code, name) for name in dir(Code) if name.startswith("TZCNT_"))
_FLAGS_TO_AH = frozenset({Code.LAHF, Code.SAHF})
_SHADOW_STACK_READS = frozenset({Code.RDSSPD_R32, Code.RDSSPQ_R64})

_FEATURES = {getattr(CpuidFeature, name): name for name in dir(CpuidFeature) if name[0].isupper()}
_known: dict[int, frozenset[str]] = {}

# What a CPU with one set has as well, on every CPU that was ever made.
IMPLIED = {
    "ssse3": {"sse3"},
    "sse4_1": {"ssse3"},
    "sse4_2": {"sse4_1", "popcnt"},
    "avx": {"sse4_2", "xsave"},
    "avx2": {"avx"},
    "fma": {"avx"},
    "f16c": {"avx"},
    "avx512f": {"avx2", "fma", "f16c"},
    "avx512bw": {"avx512f"},
    "avx512dq": {"avx512f"},
    "avx512vl": {"avx512f"},
    "avx512cd": {"avx512f"},
    "avx512_vnni": {"avx512f"},
}


def scan(section: Section, starts: Sequence[int] = ()) -> Iterator[tuple[int, frozenset[str]]]:
    """Give the place of each instruction beyond the baseline and the sets it needs; "unknown" for what is none.

    Instructions have many lengths: reading begins anew at each of `starts`, in order, so that bytes before a function
    (data, or planted there) cannot swallow its first instructions.
    """
    decoder = Decoder(64, section.content, ip=section.address)
    end = section.address + len(section.content)
    inside = [start for start in starts if section.address < start < end]
    for start, following in pairwise([section.address, *inside, end]):
        decoder.position, decoder.ip = start - section.address, start
        for instruction in decoder:
            code, place = instruction.code, instruction.ip
            if place >= following:
                break
            sets = _known.get(code)
            if sets is None:
                sets = _known[code] = _sets_of(instruction)
            if sets:
                yield place, sets


def _sets_of(instruction: Instruction) -> frozenset[str]:
    if instruction.code == Code.INVALID:
        return frozenset({"unknown"})
    if instruction.code in _BIT_SCANS or instruction.code in _SHADOW_STACK_READS:
        return frozenset()
    if instruction.code in _FLAGS_TO_AH:
        return frozenset({"lahf_lm"})
    names = {_FEATURES[feature] for feature in instruction.cpuid_features()} - _EVERYWHERE
    return frozenset(_NAMES.get(name, name.lower()) for name in names)
