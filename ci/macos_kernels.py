"""Runs the kernels of a macOS wheel without a Mac: its machine code in a CPU emulator, on the known answers.

Only kernels run here: no Python, no loader, no threads. That the library works on macOS, the wheels workflow shows.
"""

import argparse
import importlib.util
import json
import struct
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import lief
import numpy as np
import numpy.typing as npt
import unicorn
from unicorn import arm64_const as arm

from ci.platforms import KernelSet, Target, load_targets
from ci.wheel_file import WheelError

# The table of a kernel set (cpp/kernels/kernel_table.hpp): its name, then these functions, those of a kernel in pairs.
KERNELS = ("inner_product", "squared_euclidean", "manhattan", "hamming")
HALF_CODE_KERNELS = ("half_code_inner_product", "half_code_squared_euclidean")
CODE_KERNELS = ("code_inner_product", "code_squared_euclidean", "code_manhattan", *HALF_CODE_KERNELS)

_GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
_LANES, _CODE_GROUP, _WORD = 64, 32, 8  # bytes that a padded row is a multiple of
_CODE_LENGTHS = (32, 64, 96, 160, 384, 1536)
_CODE_ROWS = 9
_CODE_PRODUCT_BASE = 2**31

# Where things lie in the emulated memory, with nothing between: what reads or writes beyond them is stopped.
_PAGE = 0x4000
_IMAGE, _STACK, _DATA, _RETURN = 0x1_0000_0000, 0x2_0000_0000, 0x3_0000_0000, 0x4_0000_0000
_STACK_SIZE, _DATA_SIZE = 0x10_0000, 0x10_0000
_MOST_INSTRUCTIONS = 50_000_000

Rows = npt.NDArray[np.uint8]


@dataclass
class Result:
    """What became of one kernel set."""

    name: str
    kernels: int = 0
    calls: int = 0
    problems: list[str] = field(default_factory=list)


def run_kernels(name: str, content: bytes, sets: Sequence[KernelSet]) -> list[Result]:
    """Run every kernel of these sets on the known answers, those that ask the CPU for nothing on one of Armv8.0.

    Parameters
    ----------
    name
        What to call the file in messages.
    content
        A Mach-O file for 64-bit Arm that has the kernels.
    sets
        The kernel sets that must be in it.

    Raises
    ------
    WheelError
        When it is no such file.
    """
    return [_run_set(_Machine(name, content, each.flags), each.name) for each in sets]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m ci macos`."""
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL", help="wheels of constann for macOS on Arm")


def run(arguments: argparse.Namespace) -> int:
    """Run the kernels of macOS wheels in a CPU emulator: the same bits as the known answers, without a Mac."""
    target = next(each for each in load_targets().values() if each.system == "Darwin")
    results = [result for path in arguments.wheels for result in run_wheel(path, target)]
    print(
        "Only kernels ran, one call at a time, in a CPU emulator (unicorn): no Python, no threads, no macOS. The whole"
        " library runs on macOS in the wheels workflow."
    )
    return 1 if any(result.problems for result in results) else 0


def run_wheel(path: Path, target: Target) -> list[Result]:
    """Run the kernels of a wheel and print what became of each set."""
    name, content = extension_in(path)
    print(f"{path}: {name}")
    results = run_kernels(name, content, target.kernels)
    for result in results:
        verdict = f"{len(result.problems)} WRONG" if result.problems else "the known answers, bit for bit"
        print(f"  {result.name}: {result.kernels} kernels, {result.calls:,} calls: {verdict}")
        for problem in result.problems[:5]:
            print(f"    {problem}")
    return results


def extension_in(path: Path) -> tuple[str, bytes]:
    """Return the name and the content of the extension inside a wheel of constann."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith("constann/_core."):
                    return name, archive.read(name)
    except FileNotFoundError:
        raise WheelError(f"{path}: no such file") from None
    except zipfile.BadZipFile:
        raise WheelError(f"{path}: not a wheel") from None
    raise WheelError(f"{path}: holds no extension of constann")


class _Machine:
    """A CPU with the file in its memory: of Armv8.0, or where more is asked for with all that the emulator can do."""

    def __init__(self, name: str, content: bytes, flags: Collection[str]) -> None:
        lief.logging.disable()
        several = lief.MachO.parse(content) if content[:4] == b"\xcf\xfa\xed\xfe" else None
        parsed = several.at(0) if several is not None and several.size == 1 else None
        if parsed is None or parsed.header.cpu_type != lief.MachO.Header.CPU_TYPE.ARM64:
            raise WheelError(f"{name}: not a Mach-O file for 64-bit Arm: nothing of it can run here")
        self.name = name
        self.symbols = {str(each.name): each.value for each in parsed.symbols if each.value}
        self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._cpu.ctl_set_cpu_model(arm.UC_CPU_ARM64_MAX if flags else arm.UC_CPU_ARM64_A53)
        self._load(parsed)
        self._cpu.mem_map(_STACK, _STACK_SIZE)
        self._cpu.mem_map(_DATA, _DATA_SIZE)
        self._cpu.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # floating point and vectors

    def _load(self, parsed: lief.MachO.Binary) -> None:
        """Map the segments as macOS would: not where the file says, with its pointers moved along."""
        for segment in parsed.segments:
            if segment.virtual_size and segment.name != "__PAGEZERO":
                size = -(-segment.virtual_size // _PAGE) * _PAGE
                self._cpu.mem_map(_IMAGE + segment.virtual_address, size)
                self._cpu.mem_write(_IMAGE + segment.virtual_address, bytes(segment.content))
        for each in parsed.relocations:
            place = _IMAGE + each.address
            target = each.target if isinstance(each, lief.MachO.RelocationFixup) else self.pointer(place)
            self._cpu.mem_write(place, struct.pack("<Q", _IMAGE + target))

    def pointer(self, place: int) -> int:
        return int(struct.unpack("<Q", self.read(place, 8))[0])

    def read(self, place: int, size: int) -> bytes:
        return bytes(self._cpu.mem_read(place, size))

    def text(self, place: int) -> str:
        return self.read(place, 32).partition(b"\0")[0].decode(errors="replace")

    def write(self, place: int, content: bytes) -> None:
        self._cpu.mem_write(place, content)

    def call(self, function: int, *arguments: int) -> int:
        """Call a function and return the bits of s0; what it does beyond its memory or its CPU is a UcError."""
        registers = (arm.UC_ARM64_REG_X0, arm.UC_ARM64_REG_X1, arm.UC_ARM64_REG_X2)
        for register, value in zip((*registers, arm.UC_ARM64_REG_X3, arm.UC_ARM64_REG_X4), arguments, strict=False):
            self._cpu.reg_write(register, value)
        self._cpu.reg_write(arm.UC_ARM64_REG_SP, _STACK + _STACK_SIZE - 64)
        self._cpu.reg_write(arm.UC_ARM64_REG_LR, _RETURN)
        self._cpu.emu_start(function, _RETURN, count=_MOST_INSTRUCTIONS)
        if self._cpu.reg_read(arm.UC_ARM64_REG_PC) != _RETURN:
            raise unicorn.UcError(unicorn.UC_ERR_EXCEPTION)
        return int(self._cpu.reg_read(arm.UC_ARM64_REG_S0)) & 0xFFFFFFFF


@dataclass(frozen=True)
class _Call:
    """A query and rows, padded, and what each row must give."""

    kernel: str
    what: str
    query: bytes
    rows: tuple[bytes, ...]
    expected: tuple[int, ...]


def _run_set(machine: _Machine, name: str) -> Result:
    result = Result(name)
    symbol = f"__ZN8constann7kernels{len(name)}{name}5tableE"
    table = _IMAGE + machine.symbols.get(symbol, -_IMAGE)
    if not table or machine.text(machine.pointer(table)) != name:
        result.problems.append(f"{machine.name}: has no kernel set {name} ({symbol})")
        return result
    slots = [*(f"{kernel} {how}" for kernel in KERNELS for how in ("one", "many")), *CODE_KERNELS]
    functions = {slot: machine.pointer(table + 8 * (number + 1)) for number, slot in enumerate(slots)}
    result.kernels = len(functions)
    for call in (*_golden_calls(), *_code_calls(), *_half_code_calls()):
        for slot in (f"{call.kernel} one", f"{call.kernel} many", call.kernel):
            if slot in functions:
                _compare(machine, functions[slot], slot, call, result)
    return result


def _compare(machine: _Machine, function: int, slot: str, call: _Call, result: Result) -> None:
    try:
        found = _answers(machine, function, call, one=slot.endswith(" one"))
    except unicorn.UcError as error:
        # What a kernel calls outside of it, an instruction that this CPU lacks, a place that is not its own.
        result.problems.append(f"{result.name}, {slot}, {call.what}: stopped by the CPU: {error}")
        return
    result.calls += len(call.rows) if slot.endswith(" one") else 1
    for row, (got, expected) in enumerate(zip(found, call.expected, strict=True)):
        if got != expected:
            result.problems.append(
                f"{result.name}, {slot}, {call.what}, row {row}: {got:08x} instead of {expected:08x}"
            )


def _answers(machine: _Machine, function: int, call: _Call, *, one: bool) -> list[int]:
    size, count = len(call.rows[0]), len(call.rows)
    # The last row ends where the memory does.
    query = _DATA + _DATA_SIZE - len(call.query) - size * count
    rows = [query + len(call.query) + size * number for number in range(count)]
    machine.write(query, b"".join((call.query, *call.rows)))
    integers = call.kernel in CODE_KERNELS
    if one:
        found = [machine.call(function, query, row, size) for row in rows]
    else:
        machine.write(_DATA, struct.pack(f"<{count}Q", *rows) + b"\xff" * 4 * count)
        machine.call(function, query, _DATA, count, size, _DATA + 8 * count)
        found = list(struct.unpack(f"<{count}I", machine.read(_DATA + 8 * count, 4 * count)))
    return found if integers else [_one_nan(each) for each in found]


def _one_nan(bits: int) -> int:
    """Return the bits of a float32, every NaN the same: payloads are not part of the promise."""
    return 0x7FC00000 if bits & 0x7FFFFFFF > 0x7F800000 else bits


def _golden_calls() -> Iterator[_Call]:
    """Give the known answers, whose inputs are made anew by their rule."""
    inputs = _golden_inputs()
    for case in json.loads((_GOLDEN / "kernels.json").read_text())["cases"]:
        for kernel in (each for each in KERNELS if each in case):
            expected = tuple(int(each, 16) for each in case[kernel].split())
            drawn = inputs.packed if kernel == "hamming" else inputs.matrix
            rows = drawn(case["numbers"], case["seed"], len(expected) + 1, case["dim"])
            what = f"dim {case['dim']} of {case['numbers']} numbers"
            yield _call(kernel, what, rows, _WORD if kernel == "hamming" else _LANES, expected)


def _code_calls() -> Iterator[_Call]:
    """Give rows of small integers: Python's own arithmetic is the expectation."""
    draws = _golden_inputs().draws
    for kernel in CODE_KERNELS[: -len(HALF_CODE_KERNELS)]:
        for length in _CODE_LENGTHS:
            drawn = (draws(length, (_CODE_ROWS + 1) * length) >> np.uint64(57)).astype(np.int64)
            rows = drawn.reshape(_CODE_ROWS + 1, length)
            if kernel == "code_inner_product":
                rows[0, ::2] *= -1
            expected = tuple(_code_answer(kernel, rows[0].tolist(), row.tolist()) for row in rows[1:])
            yield _call(kernel, f"{length} codes", rows.astype(np.int8), _CODE_GROUP, expected)


def _half_code_calls() -> Iterator[_Call]:
    """Give rows of two integers in a byte: the first half of a row's in the lower bits, the second in the upper."""
    draws = _golden_inputs().draws
    for kernel in HALF_CODE_KERNELS:
        products = kernel == "half_code_inner_product"
        for length in sorted({-(-each // _CODE_GROUP) * _CODE_GROUP for each in _CODE_LENGTHS}):
            query = (draws(length, 2 * length) >> np.uint64(57)).astype(np.int64)
            if products:
                query[::2] *= -1
            rows = (draws(length + 1, _CODE_ROWS * length) >> np.uint64(56)).astype(np.int64).reshape(-1, length)
            codes = np.concatenate([rows & 15, rows >> 4], axis=1).tolist()
            expected = tuple(
                _code_answer("code_inner_product", query.tolist(), row)
                if products
                else _code_answer("code_squared_euclidean", query.tolist(), [8 * code + 4 for code in row])
                for row in codes
            )
            sent = tuple(row.astype(np.uint8).tobytes() for row in rows)
            yield _Call(kernel, f"{length} bytes of codes", query.astype(np.int8).tobytes(), sent, expected)


def _code_answer(kernel: str, query: list[int], row: list[int]) -> int:
    pairs = zip(query, row, strict=True)
    if kernel == "code_inner_product":
        return _CODE_PRODUCT_BASE - sum(a * b for a, b in pairs)
    return sum((a - b) ** 2 if kernel == "code_squared_euclidean" else abs(a - b) for a, b in pairs)


def _call(kernel: str, what: str, rows: npt.NDArray[Any], group: int, expected: tuple[int, ...]) -> _Call:
    each = [row.tobytes() for row in rows]
    padded = [row + bytes(-len(row) % group) for row in each]
    return _Call(kernel, what, padded[0], tuple(padded[1:]), expected)


def _golden_inputs() -> ModuleType:
    """Return tests/golden/inputs.py, which makes the inputs of the known answers."""
    spec = importlib.util.spec_from_file_location("constann_golden_inputs", _GOLDEN / "inputs.py")
    if spec is None or spec.loader is None:
        raise WheelError(f"{_GOLDEN}: has no inputs.py: run this from a whole checkout")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
