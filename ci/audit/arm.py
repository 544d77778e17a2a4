"""Says which extensions a 64-bit Arm instruction needs beyond Armv8.0-A with Advanced SIMD. Decodes with Capstone.

Sets are called as Linux calls them in /proc/cpuinfo. Capstone's own groups are incomplete, so the tables below say what
Armv8.0 has; an instruction that they do not know counts as beyond it, never as harmless. They were checked against
LLVM's assembler on three million random words (docs/auditing.md).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import capstone  # type: ignore[import-untyped]

from ci.audit.binaries import Section

_WORD = 4

_EVERYWHERE = frozenset(
    word
    for line in Path(__file__).with_name("armv8.0.txt").read_text(encoding="ascii").splitlines()
    if not line.startswith("#")
    for word in line.split()
)

# Encoded as hints: CPUs without the extension do nothing for them.
_HINTS = re.compile(r"(pac|aut)i[ab](sp|z|1716)|xpaclri|bti|csdb|esb|psb|tsb|dgh|clearbhb|gcsb")

_EXTENSIONS: Sequence[tuple[str, str]] = (
    (r"(cas|swp|(ld|st)(add|clr|eor|set|[su](max|min)))(a|l|al)?[bh]?|casp(a|l|al)?", "atomics"),
    (r"[su]dot", "asimddp"),
    (r"crc32c?[bhwx]", "crc32"),
    (r"aes(e|d|mc|imc)", "aes"),
    (r"sha1(c|h|m|p|su0|su1)", "sha1"),
    (r"sha256(h|h2|su0|su1)", "sha2"),
    (r"sha512(h|h2|su0|su1)", "sha512"),
    (r"eor3|rax1|xar|bcax", "sha3"),
    (r"sm3\w+", "sm3"),
    (r"sm4\w+", "sm4"),
    (r"sqrdml[as]h", "asimdrdm"),
    (r"usdot|sudot|smmla|ummla|usmmla", "i8mm"),
    (r"bf(dot|mmla|mlalb|mlalt|cvt|cvtn|cvtn2)", "bf16"),
    (r"fml[as]l2?", "asimdfhm"),
    (r"fcadd|fcmla", "fcma"),
    (r"fjcvtzs", "jscvt"),
    (r"ldapr[bh]?", "lrcpc"),
    (r"ldapur(s?[bh]|sw)?|stlur[bh]?", "ilrcpc"),
    (r"ldlar[bh]?|stllr[bh]?", "lor"),
    (r"cfinv|rmif|setf(8|16)", "flagm"),
    (r"axflag|xaflag", "flagm2"),
    (r"frint(32|64)[xz]", "frint"),
    (r"pacga", "pacg"),
    (r"(pac|aut)[id][ab]z?|xpac[id]|ldra[ab]|(ret|eret|bra|blra)a?[ab]z?", "paca"),
    (r"addg|subg|irg|gmi|ldgm?|stgm?|stgp|st2g|stzgm?|stz2g|subps?|cmpp", "mte"),
    (r"cpyf?[pme]\w*|setg?[pme]\w*", "mops"),
    (r"wfet|wfit", "wfxt"),
    (r"ld64b|st64bv?0?", "ls64"),
    (r"sb", "sb"),
    (r"tstart|ttest|tcommit|tcancel", "tme"),
    (r"bc\.\w+", "hbc"),
    (r"ctz", "cssc"),
    (r"(cnt|inc|dec|[su]q(inc|dec))[bhwd]|addvl|addpl|rdvl|setffr|ctermeq|ctermne", "sve"),
)
_ANY_EXTENSION = re.compile("|".join(f"(?P<_{number}>{pattern})" for number, (pattern, _) in enumerate(_EXTENSIONS)))

# Vectors and predicates of no fixed length, and the arrays of the matrix extension.
_SCALABLE = re.compile(r"\b(z\d+|p\d+|pn\d+|za[\d.\[]*|zt0|ffr)\b")
# Of the same mnemonics as Armv8.0's, with general registers.
_ON_GENERAL = re.compile(r"[wx](\d|zr)")
_GENERAL_ONLY_LATER = frozenset({"abs", "cnt", "smax", "smin", "umax", "umin"})
# Arithmetic in half precision; conversion from and to it is as old as Armv8.0.
_HALF_SCALAR, _HALF_VECTOR = re.compile(r"\bh\d+\b"), re.compile(r"\.[48]h\b|\.h\[")
_HALF_CONVERSIONS = frozenset({"fcvt", "fcvtl", "fcvtl2", "fcvtn", "fcvtn2"})
_ON_FLOATS = re.compile(r"f|[su]cvtf")

# System registers that programs may use everywhere, and operations on caches.
_REGISTERS = re.compile(
    r"(tpidr|tpidrro|ctr|dczid|cntvct|cntpct|cntfrq)_el0|nzcv|fpcr|fpsr|daif|s3_3_c13_c0_\d"  # the last: by its number
)
_LATER_REGISTERS = {"dit": "dit", "ssbs": "ssbs", "rndr": "rng", "rndrrs": "rng", "svcr": "sme", "tpidr2_el0": "sme"}
_CACHES = {"zva", "cvac", "cvau", "civac", "ivac", "isw", "csw", "cisw"}
_LATER_CACHES = {"cvap": "dcpop", "cvadp": "dcpodp", "gva": "mte", "gzva": "mte"}

_known: dict[tuple[str, str], frozenset[str]] = {}

# What a CPU with one set has as well.
IMPLIED = {"sve2": {"sve"}, "sve": {"asimdhp", "fcma"}, "asimdhp": {"fphp"}, "asimdfhm": {"asimdhp"}}


def scan(section: Section, data: Sequence[tuple[int, int]] = ()) -> Iterator[tuple[int, frozenset[str]]]:
    """Give the place of each instruction beyond Armv8.0 and what it needs; "unknown" for what is none.

    `data` are the stretches that the file itself says are no code.
    """
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    for start, code in _stretches(section, data):
        place = start
        while (done := place - start) < len(code):
            for address, _, mnemonic, operands in decoder.disasm_lite(code[done:], place):
                if sets := sets_of(mnemonic, operands):
                    yield address, sets
                place = address + _WORD
            # Capstone stops before what it does not know: name it and go on behind.
            done = place - start
            if done < len(code):
                yield place, frozenset({_undecoded(int.from_bytes(code[done : done + _WORD], "little"))})
                place += _WORD


def _undecoded(word: int) -> str:
    """Return what a word needs that Capstone does not know."""
    # smstart and smstop; addsvl and addspl; rdsvl.
    of_sme = ((0xFFFFF8FF, 0xD503407F), (0xFFA0F800, 0x04205800), (0xFFFFF800, 0x04BF5800))
    return "sme" if any(word & mask == bits for mask, bits in of_sme) else "unknown"


def _stretches(section: Section, data: Sequence[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    place, end = section.address, section.address + len(section.content)
    for first, last in [*(each for each in data if place <= each[0] < end), (end, end)]:
        if place < first:
            yield place, section.content[place - section.address : first - section.address]
        place = last


def sets_of(mnemonic: str, operands: str) -> frozenset[str]:
    """Return what an instruction needs beyond Armv8.0, as the disassembler writes it."""
    if mnemonic in ("mrs", "msr", "dc"):
        return _of_system(mnemonic, operands)
    shape = re.sub(r"\d+", "1", operands)
    key = (mnemonic, shape)
    if key not in _known:
        found = _needed(mnemonic, operands)
        _known[key] = frozenset({found}) if found else frozenset()
    return _known[key]


def _needed(mnemonic: str, operands: str) -> str:
    if _SCALABLE.search(operands):
        return "sme" if re.search(r"\bz[at]", operands) else "sve"
    if mnemonic in _EVERYWHERE:
        return _by_operands(mnemonic, operands)
    if found := _ANY_EXTENSION.fullmatch(mnemonic):
        return next(_EXTENSIONS[int(name[1:])][1] for name, text in found.groupdict().items() if text is not None)
    return "" if _HINTS.fullmatch(mnemonic) else f"unknown ({mnemonic})"


def _by_operands(mnemonic: str, operands: str) -> str:
    """Return what an instruction needs whose mnemonic is as old as Armv8.0, but not with all operands."""
    if mnemonic in _GENERAL_ONLY_LATER and _ON_GENERAL.match(operands):
        return "cssc"
    if mnemonic.startswith("pmull") and ".1q" in operands:
        return "pmull"
    if _ON_FLOATS.match(mnemonic) and mnemonic not in _HALF_CONVERSIONS:
        if _HALF_VECTOR.search(operands):
            return "asimdhp"
        return "fphp" if _HALF_SCALAR.search(operands) else ""
    return ""


def _of_system(mnemonic: str, operands: str) -> frozenset[str]:
    words = [word.strip().lower() for word in operands.split(",")]
    if mnemonic == "dc":
        found = "" if words[0] in _CACHES else _LATER_CACHES.get(words[0], f"unknown (dc {words[0]})")
    else:
        register = words[-1] if mnemonic == "mrs" else words[0]
        if _REGISTERS.fullmatch(register):
            found = ""
        elif re.fullmatch(r"id_\w+|midr_el1|mpidr_el1|revidr_el1", register):
            found = "cpuid"  # Linux answers in the CPU's place
        else:
            found = _LATER_REGISTERS.get(register, f"unknown (register {register})")
    return frozenset({found}) if found else frozenset()
