"""Hostile files under AddressSanitizer and UBSan, threads under ThreadSanitizer; each is seen to find what is planted.

CONSTANN_FUZZ_FILES sets how many mutated files are opened, CONSTANN_FUZZ_SECONDS how long libFuzzer looks for others.
With CI=true, a sanitizer that is not here is a failure.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import core_build
import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = os.environ.get("CI") == "true"
FILES = int(os.environ.get("CONSTANN_FUZZ_FILES", "100000"))
SECONDS = int(os.environ.get("CONSTANN_FUZZ_SECONDS", "60"))
PROCESSES = 4


def lacking(what: str) -> None:
    """Skip, or fail where nothing may be left out."""
    if CI:
        pytest.fail(what)
    pytest.skip(what)


def build(folder: Path, compiler: str, target: str, sanitize: str, *compile_only: str, **entries: str) -> Path:
    """A program with all of the core under these sanitizers."""
    linked = ",".join((sanitize, *compile_only))
    source = "int main() {}"
    if compile_only:
        source = 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }'
        linked = linked.replace("fuzzer-no-link", "fuzzer")
    command = [compiler, f"-fsanitize={linked}", "-x", "c++", "-", "-o", "/dev/null"]
    probe = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    if probe.returncode != 0:
        lacking(
            f"{compiler} lacks -fsanitize={linked}: install the compiler's sanitizer libraries (libgcc's *san; for "
            "clang on Debian or Ubuntu: apt-get install libclang-rt-dev)"
        )
    everywhere = ",".join((sanitize, *compile_only))
    own = {"CMAKE_CXX_COMPILER": compiler, "CMAKE_BUILD_TYPE": "None", "CMAKE_CXX_FLAGS": "-O1"}
    own |= {"CONSTANN_SANITIZE": everywhere, "CONSTANN_WARNINGS_AS_ERRORS": "ON"}
    return core_build.build(folder, target, own | entries)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("seeds")
    subprocess.run([sys.executable, ROOT / "tests" / "fuzz" / "seeds.py", folder], check=True, capture_output=True)
    return sorted(folder.iterdir())


def mutate(program: Path, first: int, count: int, seeds: list[Path]) -> "subprocess.CompletedProcess[str]":
    command = [program, str(first), str(count), *seeds]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_seeds_are_of_every_kind_of_file(seeds: list[Path]) -> None:
    names = {path.name for path in seeds}
    assert {"numbers", "strings", "coded-cosine", "annoy-hamming-packed", "annoy-dot-holes", "pairs-int16"} <= names
    assert {"graph-cosine-4", "graph-euclidean-7", "graph-dot-7", "graph-euclidean-0", "graph-dot"} <= names
    assert {f"annoy-{metric}" for metric in ("cosine", "euclidean", "manhattan", "dot", "hamming")} <= names


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mutated_files_are_opened_and_searched_without_a_crash_or_a_read_out_of_bounds(
    compiler: str, seeds: list[Path], tmp_path: Path
) -> None:
    program = build(tmp_path / "build", compiler, "constann_fuzz_mutate", "address,undefined")
    share = FILES // PROCESSES
    with ThreadPoolExecutor(PROCESSES) as pool:
        runs = list(pool.map(lambda part: mutate(program, part * share, share, seeds), range(PROCESSES)))
    for run in runs:
        assert run.returncode == 0, run.stderr[-5000:]
        assert run.stdout == f"{share} mutated files were opened and searched\n"
    # Control: the same program with a read one byte beyond, which it must find.
    planted = build(
        tmp_path / "build", compiler, "constann_fuzz_mutate", "address,undefined", CONSTANN_PLANT_OVERREAD="ON"
    )
    run = mutate(planted, 0, 5000, seeds)
    assert run.returncode != 0 and "heap-buffer-overflow" in run.stderr


def fuzz(program: Path, seeds: Path, seconds: int) -> "subprocess.CompletedProcess[str]":
    """Let libFuzzer look, from these seeds, in a folder of its own."""
    found = program.parent / "found"
    found.mkdir(exist_ok=True)
    command = [program, f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=8192", "-seed=1"]
    command += [f"-artifact_prefix={found}/", found, seeds]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_libfuzzer_finds_no_file_that_harms(seeds: list[Path], tmp_path: Path) -> None:
    clang = shutil.which("clang++")
    if clang is None:
        lacking("there is no clang++, whose libFuzzer this needs: apt-get install clang libclang-rt-dev")
        return
    sanitize = "address,undefined", "fuzzer-no-link"
    program = build(tmp_path / "build", clang, "constann_fuzz", *sanitize)
    run = fuzz(program, seeds[0].parent, SECONDS)
    assert run.returncode == 0 and "DONE" in run.stderr, run.stderr[-5000:]
    planted = build(tmp_path / "build", clang, "constann_fuzz", *sanitize, CONSTANN_PLANT_OVERREAD="ON")
    run = fuzz(planted, seeds[0].parent, 60)
    assert run.returncode != 0 and "heap-buffer-overflow" in run.stderr


# Without address space randomisation, whose large form older sanitizers do not know.
def run_threads(program: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["setarch", "-R", program], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_threads_build_and_search_without_a_race(compiler: str, tmp_path: Path) -> None:
    run = run_threads(build(tmp_path / "build", compiler, "constann_threads", "thread"))
    assert run.returncode == 0 and run.stdout == "done\n", run.stdout + run.stderr[-5000:]
    run = run_threads(build(tmp_path / "build", compiler, "constann_threads", "thread", CONSTANN_PLANT_RACE="ON"))
    assert run.returncode != 0 and "ThreadSanitizer: data race" in run.stderr, "the planted race was not found"
