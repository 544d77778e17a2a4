"""Says which extensions a 64-bit Arm instruction needs beyond Armv8.0-A with Advanced SIMD. Decodes with Capstone.

Sets are called as Linux calls them in /proc/cpuinfo. Capstone's own groups are incomplete, so the tables below say what
Armv8.0 has; an instruction that they do not know counts as beyond it, never as harmless. They were checked against
LLVM's assembler on three million random words (docs/auditing.md).
"""

import re
from collections.abc import Iterator, Sequence

import capstone  # type: ignore[import-untyped]

from ci.audit.binaries import Section

_WORD = 4

# Armv8.0-A: the base instructions, Advanced SIMD and floating point, and the names that a disassembler prefers.
_EVERYWHERE = frozenset(
    ["abs", "adc", "adcs", "add", "addhn", "addhn2", "addp", "adds", "addv", "adr", "adrp", "and", "ands", "asr", "at", "b", "bfc", "bfi", "bfxil", "bic", "bics", "bif", "bit", "bl", "blr", "br", "brk", "bsl", "cbnz", "cbz", "ccmn", "ccmp", "cinc", "cinv", "clrex", "cls", "clz", "cmeq", "cmge", "cmgt", "cmhi", "cmhs", "cmle", "cmlt", "cmn", "cmp", "cmtst", "cneg", "cnt", "csel", "cset", "csetm", "csinc", "csinv", "csneg", "dcps1", "dcps2", "dcps3", "dmb", "drps", "dsb", "dup", "eon", "eor", "eret", "ext", "extr", "hint", "hlt", "hvc", "ic", "ins", "isb", "fabd", "fabs", "facge", "facgt", "fadd", "faddp", "fccmp", "fccmpe", "fcmeq", "fcmge", "fcmgt", "fcmle", "fcmlt", "fcmp", "fcmpe", "fcsel", "fcvt", "fcvtas", "fcvtau", "fcvtl", "fcvtl2", "fcvtms", "fcvtmu", "fcvtn", "fcvtn2", "fcvtns", "fcvtnu", "fcvtps", "fcvtpu", "fcvtxn", "fcvtxn2", "fcvtzs", "fcvtzu", "fdiv", "fmadd", "fmax", "fmaxnm", "fmaxnmp", "fmaxnmv", "fmaxp", "fmaxv", "fmin", "fminnm", "fminnmp", "fminnmv", "fminp", "fminv", "fmla", "fmls", "fmov", "fmsub", "fmul", "fmulx", "fneg", "fnmadd", "fnmsub", "fnmul", "frecpe", "frecps", "frecpx", "frinta", "frinti", "frintm", "frintn", "frintp", "frintx", "frintz", "frsqrte", "frsqrts", "fsqrt", "fsub", "ld1", "ld1r", "ld2", "ld2r", "ld3", "ld3r", "ld4", "ld4r", "ldar", "ldarb", "ldarh", "ldaxp", "ldaxr", "ldaxrb", "ldaxrh", "ldnp", "ldp", "ldpsw", "ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "ldrsw", "ldtr", "ldtrb", "ldtrh", "ldtrsb", "ldtrsh", "ldtrsw", "ldur", "ldurb", "ldurh", "ldursb", "ldursh", "ldursw", "ldxp", "ldxr", "ldxrb", "ldxrh", "lsl", "lslv", "lsr", "lsrv", "madd", "mla", "mls", "mneg", "mov", "movi", "movk", "movn", "movz", "msub", "mul", "mvn", "mvni", "neg", "negs", "ngc", "ngcs", "nop", "not", "orn", "orr", "pmul", "pmull", "pmull2", "prfm", "prfum", "raddhn", "raddhn2", "rbit", "ret", "rev", "rev16", "rev32", "rev64", "ror", "rorv", "rshrn", "rshrn2", "rsubhn", "rsubhn2", "saba", "sabal", "sabal2", "sabd", "sabdl", "sabdl2", "sadalp", "saddl", "saddl2", "saddlp", "saddlv", "saddw", "saddw2", "sbc", "sbcs", "sbfiz", "sbfm", "sbfx", "scvtf", "sdiv", "sev", "sevl", "shadd", "shl", "shll", "shll2", "shrn", "shrn2", "shsub", "sli", "smaddl", "smax", "smaxp", "smaxv", "smc", "smin", "sminp", "sminv", "smlal", "smlal2", "smlsl", "smlsl2", "smnegl", "smov", "smsubl", "smulh", "smull", "smull2", "sqabs", "sqadd", "sqdmlal", "sqdmlal2", "sqdmlsl", "sqdmlsl2", "sqdmulh", "sqdmull", "sqdmull2", "sqneg", "sqrdmulh", "sqrshl", "sqrshrn", "sqrshrn2", "sqrshrun", "sqrshrun2", "sqshl", "sqshlu", "sqshrn", "sqshrn2", "sqshrun", "sqshrun2", "sqsub", "sqxtn", "sqxtn2", "sqxtun", "sqxtun2", "srhadd", "sri", "srshl", "srshr", "srsra", "sshl", "sshll", "sshll2", "sshr", "ssra", "ssubl", "ssubl2", "ssubw", "ssubw2", "st1", "st2", "st3", "st4", "stlr", "stlrb", "stlrh", "stlxp", "stlxr", "stlxrb", "stlxrh", "stnp", "stp", "str", "strb", "strh", "sttr", "sttrb", "sttrh", "stur", "sturb", "sturh", "stxp", "stxr", "stxrb", "stxrh", "sub", "subhn", "subhn2", "subs", "suqadd", "svc", "sxtb", "sxth", "sxtl", "sxtl2", "sxtw", "sys", "sysl", "tbl", "tbnz", "tbx", "tbz", "tlbi", "trn1", "trn2", "tst", "uaba", "uabal", "uabal2", "uabd", "uabdl", "uabdl2", "uadalp", "uaddl", "uaddl2", "uaddlp", "uaddlv", "uaddw", "uaddw2", "ubfiz", "ubfm", "ubfx", "ucvtf", "udf", "udiv", "uhadd", "uhsub", "umaddl", "umax", "umaxp", "umaxv", "umin", "uminp", "uminv", "umlal", "umlal2", "umlsl", "umlsl2", "umnegl", "umov", "umsubl", "umulh", "umull", "umull2", "uqadd", "uqrshl", "uqrshrn", "uqrshrn2", "uqshl", "uqshrn", "uqshrn2", "uqsub", "uqxtn", "uqxtn2", "urecpe", "urhadd", "urshl", "urshr", "ursqrte", "ursra", "ushl", "ushll", "ushll2", "ushr", "usqadd", "usra", "usubl", "usubl2", "usubw", "usubw2", "uxtb", "uxth", "uxtl", "uxtl2", "uxtw", "uzp1", "uzp2", "wfe", "wfi", "xtn", "xtn2", "yield", "zip1", "zip2"]
) | {
    f"b.{condition}"
    for condition in ("eq", "ne", "hs", "lo", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le")
    + ("al", "nv")
}

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
_REGISTERS = frozenset(
    ["tpidr_el0", "tpidrro_el0", "nzcv", "fpcr", "fpsr", "ctr_el0", "dczid_el0", "cntvct_el0", "cntfrq_el0", "cntpct_el0", "daif"]
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
    if _HINTS.fullmatch(mnemonic):
        return ""
    if mnemonic in _EVERYWHERE:
        if mnemonic in _GENERAL_ONLY_LATER and _ON_GENERAL.match(operands):
            return "cssc"
        if mnemonic.startswith("pmull") and ".1q" in operands:
            return "pmull"
        if _ON_FLOATS.match(mnemonic) and mnemonic not in _HALF_CONVERSIONS:
            if _HALF_VECTOR.search(operands):
                return "asimdhp"
            return "fphp" if _HALF_SCALAR.search(operands) else ""
        return ""
    if found := _ANY_EXTENSION.fullmatch(mnemonic):
        return next(_EXTENSIONS[int(name[1:])][1] for name, text in found.groupdict().items() if text is not None)
    if re.fullmatch(r"(cnt|inc|dec|[su]q(inc|dec))[bhwd]|addvl|addpl|rdvl|setffr|ctermeq|ctermne", mnemonic):
        return "sve"
    return f"unknown ({mnemonic})"


def _of_system(mnemonic: str, operands: str) -> frozenset[str]:
    words = [word.strip().lower() for word in operands.split(",")]
    if mnemonic == "dc":
        found = "" if words[0] in _CACHES else _LATER_CACHES.get(words[0], f"unknown (dc {words[0]})")
    else:
        register = words[-1] if mnemonic == "mrs" else words[0]
        if register in _REGISTERS or register.startswith("s3_3_c13_c0_"):  # the thread's own, by its number
            found = ""
        elif re.fullmatch(r"id_\w+|midr_el1|mpidr_el1|revidr_el1", register):
            found = "cpuid"  # Linux answers in the CPU's place
        else:
            found = _LATER_REGISTERS.get(register, f"unknown (register {register})")
    return frozenset({found}) if found else frozenset()
