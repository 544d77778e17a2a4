"""Hostile files under AddressSanitizer and UBSan, threads under ThreadSanitizer; and that the first finds an overread.

CONSTANN_FUZZ_FILES sets how many mutated files are opened; 100,000 are the measure before a release.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = int(os.environ.get("CONSTANN_FUZZ_FILES", "200000" if os.environ.get("CI") == "true" else "40000"))


def build(folder: Path, compiler: str, target: str, sanitize: str, **entries: str) -> Path:
    """A program with all of the core under these sanitizers."""
    probe = subprocess.run(
        [compiler, f"-fsanitize={sanitize}", "-x", "c++", "-", "-o", "/dev/null"],
        input=b"int main() {}",
        capture_output=True,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip(
            f"{compiler} lacks -fsanitize={sanitize}: install the compiler's sanitizer libraries (libgcc's *san)"
        )
    configure = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, f"-DCMAKE_CXX_COMPILER={compiler}"]
    configure += ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1", f"-DCONSTANN_SANITIZE={sanitize}"]
    configure += ["-DCONSTANN_WARNINGS_AS_ERRORS=ON", *(f"-D{name}={value}" for name, value in entries.items())]
    subprocess.run(configure, check=True, capture_output=True)
    built = subprocess.run(
        ["cmake", "--build", folder, "--target", target], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout
    return folder / target


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("seeds")
    subprocess.run([sys.executable, ROOT / "tests" / "fuzz" / "seeds.py", folder], check=True, capture_output=True)
    return sorted(folder.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mutated_files_are_opened_and_searched_without_a_crash_or_a_read_out_of_bounds(
    compiler: str, seeds: list[Path], tmp_path: Path
) -> None:
    program = build(tmp_path / "build", compiler, "constann_fuzz_mutate", "address,undefined")
    run = subprocess.run([program, "0", str(FILES), *seeds], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-5000:]
    assert run.stdout == f"{FILES} mutated files were opened and searched\n"
    # Control: the same program with a read one byte beyond, which it must find.
    planted = build(
        tmp_path / "build", compiler, "constann_fuzz_mutate", "address,undefined", CONSTANN_PLANT_OVERREAD="ON"
    )
    run = subprocess.run([planted, "0", "5000", *seeds], capture_output=True, text=True, check=False)
    assert run.returncode != 0 and "heap-buffer-overflow" in run.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_threads_build_and_search_without_a_race(compiler: str, tmp_path: Path) -> None:
    program = build(tmp_path / "build", compiler, "constann_threads", "thread")
    # Without address space randomisation, whose large form older sanitizers do not know.
    run = subprocess.run(["setarch", "-R", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stdout == "done\n", run.stdout + run.stderr[-5000:]
