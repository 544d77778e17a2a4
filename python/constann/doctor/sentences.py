"""Turns the end of a child process into one sentence: what is wrong, and what to do. It looks at nothing itself."""

import re

from constann.doctor.children import Ended
from constann.doctor.machine import X86_64_V2, Cpu

__all__ = ["REINSTALL", "explain_core", "explain_numpy", "missing_versions", "new_enough", "release"]

_LEAST_NUMPY = (1, 26)
_SPELLED = {"sse3": "SSE3", "ssse3": "SSSE3", "sse4_1": "SSE4.1", "sse4_2": "SSE4.2", "popcnt": "POPCNT"}
_REINSTALL_NUMPY = "python -m pip install --force-reinstall --only-binary :all: numpy"
REINSTALL = "python -m pip install --force-reinstall --no-index --no-deps WHEEL (the file of a wheel for this machine)"

# What the loader says when a file cannot be loaded: pattern, then what it means. \1 is the pattern's group, {file}
# the file's own words, {again} the command that installs the package anew.
_LOADING = [
    (
        r"version `(GLIBC_[\d.]+)' not found",
        r"this system's C library lacks \1: it is older than the one that {what} was built for. Install a wheel for "
        r"this system ({again}), or run on a newer system",
    ),
    (
        r"version `((?:GLIBCXX|CXXABI)_[\d.]+)' not found",
        r"this system's libstdc++ lacks \1: {what} was built with a newer compiler. Install a prebuilt wheel "
        r"({again}), or a newer libstdc++ (apt-get install libstdc++6; conda install libstdcxx-ng)",
    ),
    (
        r"(libstdc\+\+\.so\.6|libgcc_s\.so\.1): cannot open shared object file",
        r"\1 is missing, which {what} needs: install it (Debian, Ubuntu: apt-get install libstdc++6; Alpine: apk add "
        r"libstdc++)",
    ),
    (
        r"([\w.+-]+): cannot open shared object file",
        r"\1 is missing, which {what} needs: install the system package that has it, or a prebuilt wheel ({again})",
    ),
    (
        r"Error loading shared library ([^\s:]+)",
        r"\1 is missing, which {what} needs: was a glibc (manylinux) wheel put on a musl system such as Alpine? "
        r"{again}",
    ),
    (
        r"(wrong ELF class|invalid ELF header|[Ee]xec format error|incompatible architecture|file too short)",
        r"{what} was built for another machine, or its file is damaged (the loader says: \1): {again}",
    ),
    (
        r"undefined symbol: (\S+)|symbol not found in flat namespace '?([^\s']+)|Error relocating \S+ (\S+): symbol",
        r"{what} does not fit this Python or these libraries (the loader misses the symbol \1\2\3): {again}",
    ),
]
_NUMPY_ABI = (
    "compiled using NumPy 1.x|numpy.dtype size changed|module compiled against ABI version|multiarray failed to import"
)


def release(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def new_enough(numpy: str) -> bool:
    """Return whether this version of numpy is one that constann works with."""
    return release(numpy) >= _LEAST_NUMPY


def explain_numpy(ended: Ended, version: str | None, cpu: Cpu) -> str:
    """Say why numpy does not work here."""
    numpy = f"numpy {version}" if version else "numpy"
    if version and not new_enough(version):
        return f"{numpy} is older than 1.26, which constann needs: pip install -U 'numpy>=1.26'"
    if ended.signal == "SIGILL" or "built with baseline optimizations" in ended.errors:
        return _numpy_and_cpu(numpy, version, cpu, ended)
    if "No module named 'numpy'" in ended.errors:
        return "numpy is missing: pip install 'numpy>=1.26'"
    if re.search(r"No module named '?numpy\.", ended.errors):
        return f"{numpy} is not whole, or is for another Python or machine: {_REINSTALL_NUMPY}"
    return _loading(ended, numpy, _REINSTALL_NUMPY) or _death(ended, numpy, _REINSTALL_NUMPY)


def _numpy_and_cpu(numpy: str, version: str | None, cpu: Cpu, ended: Ended) -> str:
    lacking = cpu.lacks(X86_64_V2) if cpu.architecture == "x86_64" else []
    if version and release(version) >= (2, 4) and lacking:
        return f"{numpy} needs x86-64-v2; this CPU lacks {_spell(lacking)}: pip install 'numpy<2.4'"
    how = "died of SIGILL (illegal instruction)" if ended.signal == "SIGILL" else "refuses to run"
    if version and release(version) >= (2, 4) and cpu.architecture == "x86_64":
        return (
            f"{numpy} {how}: numpy from 2.4 on needs x86-64-v2 (SSE4.2), which this process does not seem to have: "
            "pip install 'numpy<2.4'"
        )
    return f"{numpy} {how}: it was built for a newer CPU than this one. Install numpy's own wheel: {_REINSTALL_NUMPY}"


def explain_core(ended: Ended, cpu: Cpu) -> str:
    """Say why Constann's extension does not work here."""
    what = "constann's extension"
    if ended.signal == "SIGILL":
        return (
            f"{what} died of SIGILL (illegal instruction) on {cpu.model} ({cpu.architecture}): it was compiled for a "
            f"newer CPU than this one. Wheels run on any CPU of their platform: {REINSTALL}. If this is one, please "
            "report it with this page"
        )
    if found := re.search(r"^ValueError: (CONSTANN_KERNELS: .*)", ended.errors, re.MULTILINE):
        return f"{found[1]}; name one of these, or unset CONSTANN_KERNELS"
    if re.search(_NUMPY_ABI, ended.errors):
        said = ended.last_line
        return f"{what} and numpy do not fit each other ({said}): pip install -U 'numpy>=1.26', then {REINSTALL}"
    return _loading(ended, what, REINSTALL) or _death(ended, what, REINSTALL)


def missing_versions(library: str, file: str, missing: list[str]) -> str:
    """Say that a library of this system does not define the versions that the extension needs."""
    newer = "a newer system" if library.startswith(("libc.", "libm.", "ld-")) else f"a newer {library}"
    return (
        f"{file or library} lacks {', '.join(missing)}, which constann's extension needs: install a wheel for this "
        f"system ({REINSTALL}), or use {newer}"
    )


def _loading(ended: Ended, what: str, again: str) -> str:
    for pattern, meaning in _LOADING:
        if found := re.search(pattern, f"{ended.errors}\n{ended.reason}"):
            return re.sub(r"\\(\d)", lambda group: found[int(group[1])] or "", meaning.format(what=what, again=again))
    return ""


def _death(ended: Ended, what: str, again: str) -> str:
    """Say how it ended, where nothing more is known of the cause."""
    if ended.reason:
        return f"{what} could not be tried: {ended.reason}"
    if ended.signal:
        return f"{what} died of {ended.signal}: {again}"
    if ended.status == 0:
        return f"{what} could not be tried: the child process ended without an answer"
    return f"{what} does not work: {ended.last_line or f'exit status {ended.status}'}"


def _spell(features: list[str]) -> str:
    return ", ".join(f"{_SPELLED[name]} ({name})" if name in _SPELLED else name for name in features)
