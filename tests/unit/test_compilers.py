"""The same bytes from every compiler and optimisation level; and what must not happen in a build is refused or seen."""

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from platform import machine as machine_name

import core_build
import numpy as np
import pytest
import reference

import constann
from ci import cache
from ci.platforms import load
from ci.zig import make_toolchain
from constann import _core

ROOT = Path(__file__).resolve().parents[2]
METRICS = ("cosine", "euclidean", "manhattan", "dot", "hamming")
KINDS = {"exact": METRICS, "forest": METRICS, "graph": ("cosine", "euclidean", "dot")}
X86 = machine_name() == "x86_64"
Answers = dict[str, bytes]


def build_program(folder: Path, *, optimisation: str, variables: dict[str, str] | None = None, **entries: str) -> Path:
    """The conformance program, in a folder that may hold it as it is with other entries."""
    own = {"CMAKE_BUILD_TYPE": "None", "CMAKE_CXX_FLAGS": optimisation, "CONSTANN_WARNINGS_AS_ERRORS": "ON"}
    given = {**own, "CONSTANN_PLANT_LAST_BIT": "", **entries}
    return core_build.build(folder, "constann_conformance", given, variables)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each compiler and optimisation has its build folder."""
    return tmp_path_factory.mktemp("builds")


@dataclass(frozen=True)
class Input:
    """Rows and queries as they are given to the core, where their files lie, and how many threads it uses."""

    vectors: np.ndarray
    queries: np.ndarray
    folder: Path
    threads: int


Inputs = dict[str, Input]


@pytest.fixture(scope="module")
def inputs(vectors: np.ndarray, queries: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Real float32 rows; and float64 rows of all that compilers could treat differently."""
    generator = np.random.default_rng(11)
    scales = 10.0 ** generator.integers(-44, 38, (600, 1))
    hard = generator.standard_normal((600, 20)) * scales
    hard[::7] = hard[3]  # equal rows, more than a leaf holds
    hard[::11, ::3] = -0.0
    hard[5] = 0
    folder = tmp_path_factory.mktemp("inputs")
    given = {
        "real": Input(vectors[:800, :100], queries[:20, :100], folder, threads=1),
        "hard": Input(hard, hard[:40], folder, threads=7),
    }
    for name, each in given.items():
        each.vectors.tofile(folder / f"{name}-vectors.{suffix_of(each)}")
        each.queries.tofile(folder / f"{name}-queries.{suffix_of(each)}")
    return given


def as_metric_takes(rows: np.ndarray, metric: str) -> np.ndarray:
    return np.packbits(rows > 0, axis=1) if metric == "hamming" else rows


def suffix_of(given: Input) -> str:
    return f"f{given.vectors.itemsize * 8}"


def run_conformance(program: Path, kernels: str, inputs: Inputs, output: Path) -> Answers:
    answers: Answers = {}
    for name, given in inputs.items():
        folder = output / name
        folder.mkdir(parents=True)
        files = [given.folder / f"{name}-{what}.{suffix_of(given)}" for what in ("vectors", "queries")]
        numbers = [str(given.threads), str(given.vectors.shape[1])]
        subprocess.run([program, kernels, *numbers, *files, "10", folder], check=True)
        answers |= {f"{name}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
    return answers


@pytest.fixture(scope="module")
def expected(inputs: Inputs) -> Answers:
    """What the installed package makes of the same rows, with the places of digests zero."""
    files: Answers = {}
    for name, given in inputs.items():
        for kind, metrics in KINDS.items():
            for metric in metrics:
                vectors, queries = (as_metric_takes(rows, metric) for rows in (given.vectors, given.queries))
                index = constann.build(vectors, metric, kind=kind, dim=given.vectors.shape[1])
                ids, distances = index.search(queries, 10)
                files |= {
                    f"{name}/{kind}-{metric}.index": file_without_digests(index),
                    f"{name}/{kind}-{metric}.ids": ids.tobytes(),
                    f"{name}/{kind}-{metric}.distances": distances.tobytes(),
                }
    return files


def file_without_digests(index: constann.Index) -> bytes:
    contents = index._contents()
    offsets, header = index._encode_header([bytes(32)] * len(contents))
    file = bytearray(offsets[-1] + len(contents[-1][1]))
    file[: len(header)] = header
    for offset, (_, content) in zip(offsets, contents, strict=True):
        file[offset : offset + len(content)] = content
    return bytes(file)


# zig compiles -O1 as it does -O3.
COMPILERS = [("g++", "-O1"), ("g++", "-O3"), ("clang++", "-O1"), ("clang++", "-O3"), ("zig", "-O3")]
if _core.compiler.startswith("GNU"):
    COMPILERS.remove(("g++", "-O3"))  # the installed package's own, with which all are compared


@pytest.fixture(scope="session")
def zig_options() -> tuple[dict[str, str], dict[str, str]]:
    """CMake entries and variables for PyPI's zig, as it compiles the core of this machine's wheel.

    With the cache that the wheels use: its standard library is there, and that core if it was built.
    """
    folder = cache.folder("wheels") / "zig"
    if os.environ.get("CI") != "true" and not (folder / "cache").exists():
        pytest.skip("zig's standard library is not compiled yet, which takes minutes: ./ci/gate or CI=true does it")
    native = next(platform for platform in load().values() if platform.architecture == machine_name())
    toolchain = make_toolchain(native, folder, once=True)
    entries = {"CMAKE_TOOLCHAIN_FILE": str(toolchain.file), "CMAKE_EXE_LINKER_FLAGS": "-O3"}
    as_in_wheels = {"CMAKE_BUILD_TYPE": "Release", "CMAKE_CXX_FLAGS": "", "CONSTANN_WARNINGS_AS_ERRORS": "OFF"}
    return entries | as_in_wheels, dict(toolchain.environment)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimisation"), COMPILERS)
def test_every_compiler_and_optimisation_gives_the_same_bytes(
    name: str,
    optimisation: str,
    request: pytest.FixtureRequest,
    builds: Path,
    inputs: Inputs,
    expected: Answers,
    tmp_path: Path,
) -> None:
    zig = name == "zig"
    if not zig and not shutil.which(name):
        package = {"g++": "g++", "clang++": "clang"}[name]
        missing = f"{name} is not on this machine: apt-get install {package} (Debian, Ubuntu)"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    entries, variables = request.getfixturevalue("zig_options") if zig else ({"CMAKE_CXX_COMPILER": name}, {})
    program = build_program(builds / f"{name}{optimisation}", optimisation=optimisation, variables=variables, **entries)
    for implementation in constann.kernels.available():
        kernels = implementation.name
        answers = run_conformance(program, kernels, inputs, tmp_path / kernels)
        assert sorted(answers) == sorted(expected)
        assert [file for file in answers if answers[file] != expected[file]] == [], kernels


@pytest.mark.slow
def test_a_kernel_wrong_in_its_last_bit_changes_answers_where_it_is_forced_and_nowhere_else(
    compiler: str, builds: Path, inputs: Inputs, expected: Answers, tmp_path: Path
) -> None:
    """Proves two things: the comparison sees one bit, and the forced kernel is the one that runs."""
    folder = builds / f"{Path(compiler).name}-O1"  # with each plant, and without, only kernels are compiled anew
    for planted in (implementation.name for implementation in constann.kernels.available()):
        if planted == "scalar":
            continue  # the reference has no plant: it would be compared with itself
        plant = {"CMAKE_CXX_COMPILER": Path(compiler).name, "CONSTANN_PLANT_LAST_BIT": planted}
        program = build_program(folder, optimisation="-O1", **plant)
        for implementation in constann.kernels.available():
            kernels = implementation.name
            answers = run_conformance(program, kernels, inputs, tmp_path / planted / kernels)
            wrong = [file for file in answers if file.endswith(".distances") and answers[file] != expected[file]]
            assert (wrong != []) == (kernels == planted), f"planted {planted}, forced {kernels}"


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the plant is made of x86's FMA; the gate's own control shows contraction on Arm")
def test_the_users_flags_change_nothing_and_contraction_would(
    inputs: Inputs, expected: Answers, tmp_path: Path
) -> None:
    """The control: where the project's own flag is turned, with FMA at hand, answers differ."""
    if "fma" not in constann.kernels.cpu_features():
        pytest.skip("this CPU has no FMA: run on one from 2013 or later")
    flags = "-O2 -ffp-contract=fast -fassociative-math -fno-signed-zeros -fno-trapping-math"
    differ = {}
    for plant in ("OFF", "ON"):  # in one folder: the plant is in the kernels alone
        entries = {"CONSTANN_BASELINE": "x86-64-v3", "CONSTANN_PLANT_CONTRACTION": plant}
        program = build_program(tmp_path / "build", optimisation=flags, **entries)
        answers = run_conformance(program, "avx2", inputs, tmp_path / plant)
        differ[plant] = [file for file in answers if answers[file] != expected[file]]
    assert differ["OFF"] == []
    assert any(file.endswith(".distances") for file in differ["ON"])


SHIM = """
#include "kernels/kernel_table.hpp"
namespace constann::kernels::wide { extern const KernelTable table; }
extern "C" void wide(int product, const void* query, const void* const* rows, std::size_t count, std::size_t floats,
                     float* out) {
    const auto& table = constann::kernels::wide::table;
    const std::size_t bytes = floats * sizeof(float);
    (product ? table.inner_product.many : table.squared_euclidean.many)(
        static_cast<const std::byte*>(query), reinterpret_cast<const std::byte* const*>(rows), count, bytes, out);
}
"""


def test_the_shape_of_the_avx512_kernels_is_right_on_any_cpu(compiler: str, tmp_path: Path) -> None:
    """No emulator has AVX-512: the same source at its width, split into baseline instructions, is the next best."""
    (tmp_path / "shim.cpp").write_text(SHIM)
    command = [
        compiler,
        "-std=c++20",
        "-O2",
        "-ffp-contract=off",
        "-fPIC",
        "-shared",
        "-Wno-psabi",
        f"-I{ROOT / 'cpp'}",
    ]
    command += ["-DCONSTANN_KERNEL_SET=wide", "-DCONSTANN_KERNEL_WIDTH=16", "-DCONSTANN_KERNEL_ROWS=8"]
    sources = [ROOT / "cpp/kernels/vector_kernels.cpp", ROOT / "cpp/kernels/integer_kernels.cpp", tmp_path / "shim.cpp"]
    subprocess.run([*command, *sources, "-o", tmp_path / "wide.so"], check=True)
    library = ctypes.CDLL(str(tmp_path / "wide.so"))
    generator = np.random.default_rng(9)
    for dim in (1, 15, 16, 17, 100, 384):
        query = reference.padded(generator.standard_normal(dim).astype(np.float32))
        rows = reference.padded(generator.standard_normal((21, dim)).astype(np.float32))
        addresses = (rows.ctypes.data + np.arange(21, dtype=np.uint64) * rows.strides[0]).astype(np.uint64)
        for product, expected in ((1, reference.inner_product), (0, reference.squared_euclidean)):
            out = np.zeros(21, np.float32)
            pointers = [ctypes.c_void_p(array.ctypes.data) for array in (query, addresses)]
            sizes = [ctypes.c_size_t(21), ctypes.c_size_t(len(query))]
            library.wide(product, *pointers, *sizes, ctypes.c_void_p(out.ctypes.data))
            np.testing.assert_array_equal(out.view(np.uint32), expected(query, rows).view(np.uint32))


def test_a_weak_symbol_in_a_kernel_object_stops_the_build(compiler: str, tmp_path: Path) -> None:
    check = [
        "cmake",
        f"-DNM={shutil.which('nm')}",
        "-DSET=planted",
        "-P",
        str(ROOT / "cpp/kernels/check_symbols.cmake"),
    ]

    def checked(name: str, source: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / f"{name}.cpp").write_text(source)
        object_file = tmp_path / f"{name}.o"
        subprocess.run([compiler, "-O0", "-c", tmp_path / f"{name}.cpp", "-o", object_file], check=True)
        return subprocess.run(
            [*check[:1], f"-DOBJECT={object_file}", *check[1:]], capture_output=True, text=True, check=False
        )

    table = "namespace constann::kernels::planted { extern const int table; const int table = 1; }\n"
    assert checked("clean", table).returncode == 0
    weak = checked("weak", table + "inline int leak(int x) { return x + 1; }\nint (*user)(int) = leak;\n")
    assert weak.returncode != 0 and "weak symbols in a kernel object" in weak.stderr
    assert checked("empty", "int unrelated;\n").returncode != 0


def test_an_unsupported_compiler_is_refused_in_one_sentence(tmp_path: Path) -> None:
    configure = [
        "cmake",
        "-G",
        "Ninja",
        "-S",
        str(ROOT),
        "-B",
        str(tmp_path),
        "-DCMAKE_SYSTEM_PROCESSOR=riscv64",
    ]
    run = subprocess.run([*configure, "-DCMAKE_SYSTEM_NAME=Linux"], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "Constann runs on x86-64 and 64-bit Arm, not on riscv64." in run.stderr
    # GCC 10 says it is GCC 10 by its predefined macros alone, which CMake reads.
    old = tmp_path / "old-g++"
    old.write_text('#!/bin/sh\nexec g++ -U__GNUC__ -D__GNUC__=10 "$@"\n')
    old.chmod(0o755)
    if os.environ.get("CXX") or not shutil.which("g++"):
        pytest.skip("g++ is not on this machine: apt-get install g++")
    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(tmp_path / "old")]
    run = subprocess.run([*configure, f"-DCMAKE_CXX_COMPILER={old}"], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "Constann needs GCC 11 or Clang 14 or newer, not GNU 10." in run.stderr


@pytest.mark.skipif(not X86, reason="the flags are x86's; those of Arm take the same way through CMakeLists.txt")
def test_instruction_sets_in_the_users_flags_are_left_out_with_a_warning(tmp_path: Path) -> None:
    configured = configure(tmp_path, "-DCMAKE_CXX_FLAGS=-O2 -march=native -mavx2 -mno-red-zone")
    assert configured.returncode == 0, configured.stderr
    for flag in ("-march=native", "-mavx2"):
        assert re.search(rf"{flag} of CMAKE_CXX_FLAGS is left out: .*CONSTANN_BASELINE", unwrapped(configured.stderr))
    commands = (tmp_path / "compile_commands.json").read_text()
    assert "-march=native" not in commands and "-mno-red-zone" in commands
    assert not [line for line in commands.splitlines() if "-mavx2" in line and "avx2.dir" not in line]


@pytest.mark.skipif(not X86, reason="the flags are x86's; those of Arm take the same way through CMakeLists.txt")
def test_a_compiler_that_adds_instruction_sets_by_itself_is_refused(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "c++").split()[0]
    assert configure(tmp_path, variables={"CXX": f"{compiler} -mavx2"}).returncode == 0
    build = ["ninja", "-C", str(tmp_path), "CMakeFiles/constann_core.dir/cpp/kernels/floating_point.cpp.o"]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode and "not every x86-64 CPU has" in built.stdout
    assert configure(tmp_path / "without").returncode == 0
    build[2] = str(tmp_path / "without")
    assert subprocess.run(build, capture_output=True, check=False).returncode == 0


def test_a_build_tuned_for_whatever_machine_it_runs_on_is_refused(tmp_path: Path) -> None:
    configured = configure(tmp_path, "-DCONSTANN_BASELINE=native")
    assert configured.returncode and "name the CPU" in unwrapped(configured.stderr)


def configure(folder: Path, *options: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder), "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    environment = {**os.environ, **(variables or {})}
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environment)


def unwrapped(message: str) -> str:
    return " ".join(message.split())
