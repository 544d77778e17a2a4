"""What the system says of this machine, without computing anything on it: CPU, system, C library, Python."""

import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from constann.doctor import binaries

__all__ = [
    "X86_64_V2",
    "Cpu",
    "Launcher",
    "LauncherError",
    "c_library",
    "cpu",
    "launcher",
    "running_machine",
    "word_size",
]

# By the names Linux gives them, except that its "pni" is called sse3 here, as the extension does.
X86_64_V2 = ("sse3", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm")
_RELEVANT = {
    *(*X86_64_V2, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "sse2"),
    *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_vpopcntdq"),
    *("fp", "asimd", "atomics", "fphp", "asimdhp", "asimddp", "asimdfhm", "asimdrdm", "crc32", "sve"),
}
_MAC_FEATURES = {"FEAT_DotProd": "asimddp", "FEAT_LSE": "atomics", "AdvSIMD": "asimd", "floatingpoint": "fp"}
_MAC_FEATURES |= {"FEAT_FP16": "asimdhp", "FEAT_FHM": "asimdfhm", "avx1_0": "avx", "avx2_0": "avx2", "fma": "fma"}
_MAC_FEATURES |= {"FEAT_RDM": "asimdrdm", "FEAT_CRC32": "crc32", "armv8_crc32": "crc32"}
_MAC_FEATURES |= {"sse3": "sse3", "supplementalsse3": "ssse3", "sse4_1": "sse4_1", "sse4_2": "sse4_2"}


class LauncherError(ValueError):
    """Child processes would not run on the machine that this process runs on; the text says what to do."""


@dataclass(frozen=True)
class Cpu:
    """The CPU as the system describes it."""

    model: str
    architecture: str
    features: frozenset[str] | None
    """Those that matter here; None where nobody says."""
    told: frozenset[str] = frozenset(_RELEVANT)
    """The names that `features` would hold if the CPU had them: the absence of another says nothing."""

    def lacks(self, wanted: tuple[str, ...]) -> list[str]:
        """Return which of these features are missing; none where they are not known."""
        return [] if self.features is None else [each for each in wanted if each in self.told - self.features]

    def as_seen_by_the_extension(self, features: Iterable[str] | None) -> "Cpu":
        """Return the CPU that the extension found, in a child process; its list has no cx16 and lahf_lm."""
        found = None if features is None else frozenset(features)
        return replace(self, features=found, told=self.told - {"cx16", "lahf_lm"})


@dataclass(frozen=True)
class Launcher:
    """What a child process of Python is started with, so that it runs on the same (emulated) CPU."""

    command: tuple[str, ...]
    """Nothing where the kernel starts the emulator, for children as for this process."""
    name: str
    source: str


def launcher() -> Launcher | None:
    """Find what children must be started through: CONSTANN_LAUNCHER, or the emulator that runs this process.

    Raises
    ------
    LauncherError
        An emulator runs this process, and how it was started cannot be found.
    """
    if given := os.environ.get("CONSTANN_LAUNCHER"):
        return Launcher(tuple(shlex.split(given)), given, "CONSTANN_LAUNCHER")
    # QEMU shows its guest a command line without QEMU in /proc/self, but not in that of the thread.
    try:
        task = Path(f"/proc/self/task/{threading.get_native_id()}/cmdline")
        command = os.fsdecode(task.read_bytes()).split("\0")[:-1]
    except OSError:
        return None
    return launcher_in(command, sys.orig_argv)


def launcher_in(command: Sequence[str], python: Sequence[str]) -> Launcher | None:
    """Return the launcher that a command line names before Python's own; see `emulator_in` for the error."""
    found = emulator_in(command, python)
    if not found:
        return None
    name = shlex.join(found)
    if shutil.which(found[0]):
        return Launcher(found, name, "the emulator that runs this process")
    # A container whose programs the kernel starts through an emulator (binfmt) need not hold it, as the kernel has it
    # open, and no process in there can start it.
    return Launcher((), name, "the emulator that the kernel runs this process through")


def emulator_in(command: Sequence[str], python: Sequence[str]) -> tuple[str, ...]:
    """Return what stands before Python's own command line where that is QEMU, otherwise nothing.

    Raises
    ------
    LauncherError
        It is QEMU, and what follows is not Python's command line.
    """
    if not command or not Path(command[0]).name.startswith("qemu"):
        return ()
    before = len(command) - len(python)
    # The program's own name may be given to it in another way.
    if before < 1 or list(command[before + 1 :]) != list(python[1:]):
        raise LauncherError(
            f"this Python runs under {Path(command[0]).name}: its child processes would run on another CPU. Set "
            "CONSTANN_LAUNCHER to what stands before python, for example 'qemu-x86_64-static -cpu qemu64'"
        )
    return tuple(command[:before])


def cpu() -> Cpu:
    """Describe the CPU, by /proc/cpuinfo, sysctl or `platform`."""
    if sys.platform == "linux":
        try:
            return cpu_of_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
        except OSError:
            pass
    if sys.platform == "darwin":
        return cpu_of_sysctl(_sysctl("hw", "machdep.cpu"))
    return Cpu(platform.processor() or "unknown", running_machine(), None)


def cpu_of_cpuinfo(text: str) -> Cpu:
    """Read Linux's /proc/cpuinfo: the first processor's fields."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    model = fields.get("model name") or fields.get("hardware")
    if not model and "cpu implementer" in fields:
        model = f"implementer {fields['cpu implementer']}, part {fields.get('cpu part', '?')}"
    named = fields.get("flags") or fields.get("features")
    features = {"sse3" if name == "pni" else name for name in named.split()} if named else None
    return Cpu(model or "unknown", running_machine(), None if features is None else frozenset(features & _RELEVANT))


def _sysctl(*names: str) -> str:
    done = subprocess.run(["/usr/sbin/sysctl", *names], capture_output=True, text=True, check=False, errors="replace")
    return done.stdout


def cpu_of_sysctl(text: str) -> Cpu:
    """Read what macOS's sysctl prints of hw and machdep.cpu."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    told = {_MAC_FEATURES.get(name.rpartition(".")[2], ""): value.strip() == "1" for name, value in fields.items()}
    features = frozenset(name for name, there in told.items() if name and there)
    model = fields.get("machdep.cpu.brand_string", "unknown")
    return Cpu(model, running_machine(), features or None, frozenset(told))


def running_machine() -> str:
    """Name the machine whose programs this Python can load: its own file's, which a 64-bit kernel does not tell."""
    try:
        machines = binaries.read(Path(sys.executable)).machines
    except (OSError, binaries.BinaryError):
        machines = ()
    # A universal file runs as what the system says.
    return machines[0] if len(machines) == 1 else platform.machine()


def c_library() -> str:
    """Name the C library and its version, as far as it says."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        if found := os.confstr("CS_GNU_LIBC_VERSION"):
            return found
    except (ValueError, OSError, AttributeError):
        pass
    if any(Path("/lib").glob("ld-musl-*")):
        return " ".join(platform.libc_ver()).strip() or "musl"
    return "unknown"


def word_size() -> int:
    """Return the bits of this Python's pointers."""
    return struct.calcsize("P") * 8
