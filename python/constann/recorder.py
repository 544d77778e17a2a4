"""Records the stages of a computation, so that `constann compare` can say where two machines begin to differ.

One file to copy onto a device that cannot install Constann: Python 3.6 or newer and numpy, nothing else.
It writes recordings and never reads one; no name of a user, host or folder goes into them.
"""

import hashlib
import json
import os
import platform
import re
import struct
import sys
import zipfile
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

__all__ = ["Recording", "canonical", "digest", "environment", "floating_point_mode", "random_unit", "recording"]

FORMAT = "constann recording"
VERSION = 1
CONTENTS = "recording.json"
BLOCKS = 256  # of a stage too large to keep: so many digests, each of some of its rows
KEPT_BYTES = 64 << 20  # stages up to this size are kept whole
SAMPLE_BYTES = 1 << 20  # of larger ones, evenly spaced rows up to this size
_DATE = (1980, 1, 1, 0, 0, 0)
_KNOWN: Dict[Tuple[str, int, int], Tuple[Optional[str], str]] = {}  # libraries that were read

# Variables that change what libraries compute. No other is read, for they may hold secrets.
_VARIABLES = (
    "CONSTANN_KERNELS", "CONSTANN_LAUNCHER", "FAISS_OPT_LEVEL", "FAISS_SIMD_LEVEL", "GLIBC_TUNABLES", "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED",
)  # fmt: skip


def canonical(array: Any) -> Any:
    """Return an array as it is recorded: C order, little-endian, numbers, bools or text of fixed width.

    Raises
    ------
    TypeError
        Its elements are of another kind: objects, dates, complex or long double.
    """
    array = np.asarray(array)
    if array.dtype.kind == "O" and all(isinstance(each, str) for each in array.ravel().tolist()):
        array = array.astype("U")
    if array.dtype.kind == "U":
        # The width of the longest text, not that of the array it came from.
        longest = max([len(each) for each in array.ravel().tolist()] + [1])
        array = array.astype("<U%d" % longest)
    elif array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            "a stage is an array of integers, float16/32/64, bools or strings, not %s: give a view of it, such as "
            "array.view('uint16') for bfloat16" % array.dtype
        )
    return np.require(array, dtype=array.dtype.newbyteorder("<"), requirements="C").reshape(array.shape)


def digest(array: Any) -> str:
    """Return the SHA-256, in hex, of a canonical array's dtype, shape and bytes."""
    total = hashlib.sha256(("%s %s\n" % (array.dtype.str, list(array.shape))).encode())
    total.update(_bytes(array))
    return total.hexdigest()


def _bytes(array: Any) -> Any:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def random_unit(shape: Sequence[int], seed: int = 0) -> Any:
    """Return float32 numbers from 0 to 1, the same everywhere: multiples of 2^-24 put together from integers."""
    count = 1
    for each in shape:
        count *= each
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = steps + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    draws = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
    return (draws.astype(np.float32) * np.float32(2.0**-24)).reshape(shape)  # exact: below 2^24, and a power of two


class Recording:
    """The stages of one run, in the order they came. Made by `recording`.

    Parameters
    ----------
    name : str, optional
        How reports call this machine; without it they use the file's name.
    keep : int
        Stages up to so many bytes are kept whole; of larger ones digests and a sample of the rows.
    """

    def __init__(self, name: Optional[str] = None, keep: int = KEPT_BYTES) -> None:
        self.facts: Dict[str, Any] = {}
        self.stages: List[Dict[str, Any]] = []
        self.workload: Optional[Dict[str, Any]] = None
        self._name = name
        self._keep = keep
        self._arrays: Dict[str, bytes] = {}
        self._modes: List[str] = []

    def stage(self, name: str, array: Any, role: Optional[str] = None, of: Optional[Dict[str, Any]] = None) -> None:
        """Record an array under a name that no other stage has. What becomes of the array later changes nothing.

        Parameters
        ----------
        name : str
            Up to 200 printable characters.
        array : array
            Integers, float16, float32, float64, bools or strings, of any shape.
        role, of : optional
            Set by `neighbours`.
        """
        if not name or len(name) > 200 or not name.isprintable():
            raise ValueError("a stage's name has 1 to 200 printable characters, not %r" % (name,))
        if any(each["name"] == name for each in self.stages):
            raise ValueError("there is a stage %r already: give each its own name" % (name,))
        mode = floating_point_mode()
        if mode not in self._modes:
            self._modes.append(mode)
        array = canonical(array)
        entry = {"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest(array)}
        entry["floating_point"] = mode
        if role is not None:
            entry["role"], entry["of"] = role, of
        if array.nbytes <= self._keep:
            entry["kept"], entry["member"] = "whole", self._hold(array)
        else:
            rows = array.reshape(array.shape[0], -1)
            step = -(-len(rows) // BLOCKS)
            entry["block_rows"] = step
            entry["blocks"] = [digest(rows[start : start + step]) for start in range(0, len(rows), step)]
            few = max(1, SAMPLE_BYTES // max(rows[0].nbytes, 1))
            entry["sample_step"] = max(1, -(-len(rows) // few))
            sample = rows[:: entry["sample_step"]]
            entry["kept"] = "sample" if sample.nbytes <= SAMPLE_BYTES else "digest"
            if entry["kept"] == "sample":
                entry["member"] = self._hold(sample)
        self.stages.append(entry)

    def _hold(self, array: Any) -> str:
        """Keep the bytes of an array, once for all stages that have the same; return the member's name."""
        content = array.tobytes()
        name = "arrays/" + hashlib.sha256(content).hexdigest()
        self._arrays[name] = content
        return name

    def neighbours(
        self,
        name: str,
        ids: Any,
        distances: Any,
        metric: Optional[str] = None,
        vectors: Optional[str] = None,
        queries: Optional[str] = None,
    ) -> None:
        """Record what a search returned, as the stages `name/ids` and `name/distances`.

        Parameters
        ----------
        name : str
            Of the search.
        ids, distances : array, shape (q, k)
            Nearest first; id -1 where there are fewer than k.
        metric : {"cosine", "euclidean", "manhattan", "dot", "hamming"}, optional
            With `vectors` and `queries`, lets `constann compare` compute canonical distances and recall.
        vectors, queries : str, optional
            Names of the stages that hold them; ids are row numbers of `vectors`.
        """
        of = {"name": name, "metric": metric, "vectors": vectors, "queries": queries}
        self.stage(name + "/ids", ids, "ids", of)
        self.stage(name + "/distances", distances, "distances", of)

    def ones_then_random(self, function: Callable[[Any], Any], shape: Sequence[int], name: str = "output") -> None:
        """Record what a function makes of all ones, then of random numbers from 0 to 1: a protocol often used."""
        for kind, given in (("ones", np.ones(shape, np.float32)), ("random", random_unit(shape))):
            self.stage("%s/input" % kind, given)
            self.stage("%s/%s" % (kind, name), function(given.copy()))

    def write(self, path: Any) -> None:
        """Write the recording to a file: the same stages and facts give the same bytes."""
        facts = environment()
        facts["floating_point"] = ", then ".join(self._modes or [floating_point_mode()])
        facts.update(self.facts)
        contents = {"format": FORMAT, "version": VERSION, "name": self._name, "workload": self.workload}
        contents["environment"], contents["stages"] = facts, self.stages
        text = json.dumps(contents, sort_keys=True, indent=1, ensure_ascii=True).encode()
        unfinished = "%s.%d.unfinished" % (os.fspath(path), os.getpid())
        try:
            with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as out:
                _add(out, CONTENTS, text)
                for name in sorted(self._arrays):
                    _add(out, name, self._arrays[name])
            os.replace(unfinished, os.fspath(path))
        except BaseException:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
            raise


def _add(out: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, _DATE)
    member.external_attr = 0o644 << 16
    member.create_system = 3
    out.writestr(member, content)


@contextmanager
def recording(path: Any, name: Optional[str] = None, keep: int = KEPT_BYTES) -> Iterator[Recording]:
    """Record the stages of what runs inside, into one file, which is written at the end unless an error came.

    Parameters
    ----------
    path : str or path-like
        The file; what is there is replaced.
    name, keep
        See `Recording`.

    Examples
    --------
    >>> with constann.recording("edge.rec") as rec:
    ...     rec.stage("1 pixels", image)
    ...     rec.stage("2 embedding", embedding)
    """
    made = Recording(name, keep)
    yield made
    made.write(path)


def floating_point_mode() -> str:
    """Say in which mode this thread computes, found by computing."""
    small, one = np.array([2.0**-126], np.float32), np.array([1.0], np.float32)
    tiny = np.array([2.0**-149], np.float32)
    with np.errstate(all="ignore"):
        flushes = (small * np.float32(0.5)).view(np.uint32)[0] == 0
        zeroes = (tiny * np.float32(2.0**100)).view(np.uint32)[0] == 0
        up = (one + np.float32(2.0**-30)).view(np.uint32)[0] != one.view(np.uint32)[0]
        down = (-one - np.float32(2.0**-30)).view(np.uint32)[0] != (-one).view(np.uint32)[0]
        nearest = (one + np.float32(0.75 * 2.0**-23)).view(np.uint32)[0] != one.view(np.uint32)[0]
    found = [said for said, there in (("flush-to-zero", flushes), ("denormals-are-zero", zeroes)) if there]
    rounding = "up" if up else "down" if down else "" if nearest else "to zero"
    return ", ".join(found + (["rounding " + rounding] if rounding else [])) or "plain"


def environment() -> Dict[str, Any]:
    """Return the facts of this process on which results may depend, by name; all of them strings, or dicts of them."""
    facts = {
        "architecture": platform.machine(),
        "system": " ".join((platform.system(), re.sub(r"[^\d.].*", "", platform.release()))).strip(),
        "c_library": " ".join(platform.libc_ver()).strip() or "unknown",
        "cpu": _cpu_model(),
        "cpu_features": " ".join(_cpu_features()),
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "python": "%s %s" % (platform.python_implementation(), platform.python_version()),
        "numpy": np.__version__,
        "numpy_cpu_features": " ".join(_numpy_features()),
        "variables": {each: os.environ[each] for each in _VARIABLES if each in os.environ},
        "packages": _packages(),
        "libraries": _libraries(),
    }
    facts.update(_constann_facts())
    return facts


def _constann_facts() -> Dict[str, Any]:
    """Return what Constann says of itself, where this process has loaded it."""
    core = sys.modules.get("constann._core")
    if core is None:
        return {}
    facts = {"kernels": core.kernel_in_use(), "compiler": core.compiler, "constann_cpu_features": core.cpu_features()}
    facts["constann_cpu_features"] = " ".join(facts["constann_cpu_features"])
    facts["planted_faults"] = core.planted_faults
    facts["tuned_for"] = core.tuned_for
    return facts


def _cpuinfo() -> Dict[str, str]:
    fields: Dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip().lower(), value.strip())
    except OSError:
        pass
    return fields


def _cpu_model() -> str:
    fields = _cpuinfo()
    part = " ".join(filter(None, (fields.get("cpu implementer"), fields.get("cpu part"))))
    return fields.get("model name") or part or platform.processor() or "unknown"


def _cpu_features() -> List[str]:
    fields = _cpuinfo()
    return sorted((fields.get("flags") or fields.get("features") or "").split())


def _numpy_features() -> List[str]:
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        found = getattr(sys.modules.get(module), "__cpu_features__", None)
        if found:
            return sorted(name for name, there in found.items() if there)
    return []


def _packages() -> Dict[str, str]:
    """Versions of the packages imported in this process, as far as they say."""
    found = {}
    for name, module in list(sys.modules.items()):
        if "." in name or name.startswith("_") or name in getattr(sys, "stdlib_module_names", ()):
            continue
        version = vars(module).get("__version__") if hasattr(module, "__dict__") else None
        if isinstance(version, str) and len(version) < 60 and os.sep not in version:
            found[name] = version
    return found


def _libraries() -> Dict[str, Any]:
    """Every shared library mapped in this process: soname, version where the file's name has one, SHA-256."""
    found = {}
    for path in _mapped_files():
        file_name = os.path.basename(path)
        soname, sha256 = _identity(path)
        soname = soname or file_name
        # Installers put a digest into the name: libjpeg-3b10b538.so.62.3.0.
        plain = re.sub(r"[-.][0-9a-f]{8,}(?=[.-])", "", soname)
        version = re.search(r"\.so\.([\d.]+)$|\.([\d.]+)\.dylib$|-([\d.]+)\.so$", file_name)
        entry = {"soname": plain, "sha256": sha256}
        entry["version"] = next((each for each in version.groups() if each), "") if version else ""
        key = name = re.sub(r"(\.cpython-[^.]*|\.abi3)?\.so(\.[\d.]+)?$|(\.[\d.]+)?\.dylib$", "", plain)
        while key in found:  # two copies of one library, as wheels bring them
            key += " (another)"
        found[key or name] = entry
    return found


def _identity(path: str) -> Tuple[Optional[str], str]:
    """Return the soname and the SHA-256 of a file, computed once in a process; nothing where it cannot be read."""
    try:
        about = os.stat(path)
        key = (path, about.st_size, about.st_mtime_ns)
        if key not in _KNOWN:
            with open(path, "rb") as file:
                content = file.read()
            _KNOWN[key] = (_soname(content), hashlib.sha256(content).hexdigest())
        return _KNOWN[key]
    except OSError:
        return None, ""


def _mapped_files() -> List[str]:
    if sys.platform == "darwin":
        return _images_of_macos()
    files = set()
    try:
        with open("/proc/self/maps", errors="surrogateescape") as maps:
            for line in maps:
                parts = line.rstrip("\n").split(None, 5)
                if len(parts) == 6 and "x" in parts[1] and parts[5].startswith("/"):
                    files.add(parts[5])
    except OSError:
        pass
    return sorted(path for path in files if ".so" in os.path.basename(path))


def _images_of_macos() -> List[str]:
    import ctypes  # noqa: PLC0415 - only there

    system = ctypes.CDLL(None)
    system._dyld_get_image_name.restype = ctypes.c_char_p
    return sorted(os.fsdecode(system._dyld_get_image_name(i)) for i in range(system._dyld_image_count()))


def _soname(data: bytes) -> Optional[str]:
    """Read the name that a 64-bit little-endian ELF file gives itself; None for all else."""
    try:
        if data[:6] != b"\x7fELF\x02\x01":
            return None
        (at,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        segments = [struct.unpack_from("<IIQQQQ", data, at + size * each) for each in range(count)]
        tags: Dict[int, int] = {}
        for kind, _, offset, _, _, length in segments:
            if kind == 2:
                tags.update(struct.unpack_from("<qQ", data, each) for each in range(offset, offset + length, 16))
        if 14 not in tags or 5 not in tags:
            return None
        for kind, _, offset, start, _, length in segments:
            if kind == 1 and start <= tags[5] < start + length:
                begin = offset + tags[5] - start + tags[14]
                return data[begin : data.index(b"\0", begin)].decode("ascii", "replace")[:200]
    except (struct.error, ValueError):
        pass
    return None
