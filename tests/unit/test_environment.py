"""The shell's part of the harness: which Python, what is missing, one environment. Nothing is installed here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import cache

ROOT = Path(__file__).resolve().parents[2]
SOURCE = f'set -euo pipefail; . "{ROOT}/ci/environment.sh"; '
# Instead of what pip would install: the Python that runs the tests, which has all of it.
QUICK = """\
make_environment() {
    say made one; sleep 0.3; mkdir -p "$3/bin"
    printf '#!/bin/sh\\nexec "%s" "$@"\\n' "$CONSTANN_TEST_PYTHON" >"$3/bin/python"
    chmod +x "$3/bin/python"; touch "$3/finished"
}
"""

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Run shell code after the functions; apt-get and sudo are out of reach, whatever goes wrong."""
    monkeypatch.setenv("CONSTANN_CI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CONSTANN_TEST_PYTHON", sys.executable)
    for name in ("CONSTANN_PYTHON", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("apt-get", "sudo"):
        script(tmp_path / "programs" / name, "echo $0 was called; exit 99")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}{os.pathsep}{os.environ['PATH']}")

    def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", SOURCE + code, "bash", sys.executable]
        environment = {**os.environ, **variables}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_the_folder_that_the_shell_makes_first_can_be_removed(shell: Shell, tmp_path: Path) -> None:
    done = shell(QUICK + 'harness_environment "$1" harness')
    assert done.returncode == 0 and Path(done.stdout, "finished").exists(), done.stderr
    assert (tmp_path / "cache/CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert cache.remove() and not (tmp_path / "cache").exists()


@pytest.mark.skipif(shutil.which("flock") is None, reason="macOS has no flock: one run at a time there")
def test_two_runs_at_once_make_one_environment(shell: Shell) -> None:
    done = shell(QUICK + 'for i in 1 2 3; do harness_environment "$1" test >/dev/null & done; wait')
    assert (done.returncode, done.stderr.count("made one")) == (0, 1), done.stderr
    assert "made one" not in shell(QUICK + 'harness_environment "$1" test').stderr


def test_an_environment_that_cannot_be_made_ends_the_script(shell: Shell) -> None:
    done = shell('make_environment() { fail "no index"; }; x=$(harness_environment "$1" test); echo on')
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no index\n")


def test_environments_unused_for_a_month_are_removed(shell: Shell, tmp_path: Path) -> None:
    for name in ("harness-1", "harness-2"):
        (tmp_path / "cache/harness" / name).mkdir(parents=True)
        (tmp_path / "cache/harness" / name / "finished").touch()
    os.utime(tmp_path / "cache/harness/harness-1/finished", (0, 0))
    shell(f'make_environment {script(tmp_path / "python", "exit 1")} test "{tmp_path}/cache/harness/test-3"')
    assert [path.name for path in (tmp_path / "cache/harness").iterdir()] == ["harness-2"]


def test_a_python_that_is_named_is_used_or_an_error(shell: Shell, tmp_path: Path) -> None:
    named = script(tmp_path / "a folder" / "python", f'exec "{sys.executable}" "$@"')
    assert shell("find_python", CONSTANN_PYTHON=str(named)).stdout.strip() == sys.executable
    old = script(tmp_path / "old", "exit 1")
    for wrong in (str(old), str(tmp_path / "missing")):
        done = shell("python=$(find_python); echo on", CONSTANN_PYTHON=wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"CONSTANN_PYTHON is '{wrong}'" in done.stderr


def test_a_home_is_not_needed(shell: Shell) -> None:
    done = shell(QUICK + 'unset HOME; find_python; harness_environment "$1" test')
    assert done.returncode == 0, done.stderr
    done = shell("unset HOME XDG_CACHE_HOME CONSTANN_CI_CACHE; with_harness \"$1\" 'print(cache.root())'")
    assert done.stdout.strip().endswith("/.cache/constann"), done.stderr


# A Python without its venv module and headers, on a computer without compilers.
BARE = """\
case "$*" in
    *ensurepip*) exit 1 ;;
    *sysconfig*) echo /nowhere ;;
    *version_info*) echo 3.11 ;;
    *) echo "called: $*" ;;
esac"""
NO_PROGRAMS = 'command() { [ "$2" = apt-get ]; }; '
ALL = "python3.11-venv python3.11-dev binutils g++"


@pytest.mark.parametrize(
    ("purpose", "names"),
    [("start", "python3.11-venv"), ("harness", "python3.11-venv python3.11-dev binutils"), ("test", ALL)],
)
def test_all_that_is_missing_is_one_list(shell: Shell, tmp_path: Path, purpose: str, names: str) -> None:
    bare = script(tmp_path / "bare", BARE)
    assert shell(f"{NO_PROGRAMS} missing_packages {bare} {purpose}").stdout == f"{names} "


def test_continuous_integration_needs_every_compiler_and_a_browser(shell: Shell, tmp_path: Path) -> None:
    bare = script(tmp_path / "bare", BARE)
    assert (
        shell(f"{NO_PROGRAMS} missing_packages {bare} test", CI="true").stdout
        == f"{ALL.removesuffix('g++')}chromium g++ clang libclang-rt-dev qemu-user-static "
    )
    named = 'command() { [ "$2" = qemu-aarch64-static ]; };'
    assert "qemu" not in shell(f"{named} missing_packages {bare} test", CI="true").stdout
    assert "clang" not in shell(f"{NO_PROGRAMS} missing_packages {bare} harness", CI="true").stdout


def test_continuous_integration_needs_the_libraries_of_clangs_sanitizers(shell: Shell, tmp_path: Path) -> None:
    bare = script(tmp_path / "bare", BARE)
    for status, named in ((1, True), (0, False)):
        script(tmp_path / "programs/clang++", f"exit {status}")
        missing = shell(f"missing_packages {bare} test", CI="true").stdout.split()
        assert ("libclang-rt-dev" in missing) == named and "clang" not in missing


@pytest.mark.parametrize(
    ("purpose", "computer"),
    [
        ("test", "id() { echo 1000; }; engine_answers() { false; };"),
        ("test", "id() { echo 0; }; engine_answers() { true; };"),
        ("start", "id() { echo 0; }; engine_answers() { false; };"),
    ],
    ids=["no root", "Docker is there", "only asking"],
)
def test_what_is_not_ours_to_install_is_one_line_to_run(
    shell: Shell, tmp_path: Path, purpose: str, computer: str
) -> None:
    bare = script(tmp_path / "bare", BARE)
    done = shell(f"{NO_PROGRAMS} {computer} with_harness() {{ echo called; }}; prepare_system {bare} {purpose}")
    names = ALL if purpose == "test" else "python3.11-venv"
    line = f"    sudo apt-get update && sudo apt-get install --yes --no-install-recommends {names}\n"
    assert (done.returncode, done.stdout) == (2, "") and line in done.stderr
    assert done.stderr.count("sudo apt-get install") == 1


def test_without_apt_the_names_are_told(shell: Shell, tmp_path: Path) -> None:
    done = shell(f"command() {{ false; }}; prepare_system {script(tmp_path / 'bare', BARE)} test")
    assert done.returncode == 2 and ALL in done.stderr and "apt-get" not in done.stderr


def test_root_installs_them_at_once_having_said_so(shell: Shell, tmp_path: Path) -> None:
    code = 'id() { echo 0; }; engine_answers() { false; }; with_harness() { say called: "$@"; }; '
    done = shell(f"{NO_PROGRAMS} {code} prepare_system {script(tmp_path / 'bare', BARE)} test")
    said, called, after = done.stderr.splitlines()
    assert said.startswith(f"to install with apt-get: {ALL} (at most")
    assert called.endswith(f"host.install(sys.argv[1:]) {ALL}")
    assert done.returncode == 2 and "CONSTANN_PYTHON" in after, "it helped nothing, and that is said"


def test_packages_that_are_installed_are_remembered(shell: Shell, tmp_path: Path) -> None:
    script(tmp_path / "programs/apt-get", 'echo "$@" >>calls; echo "Inst g++ (4:12)"; echo "Inst libc6-dev (2)"')
    done = shell("with_harness \"$1\" 'host.install(sys.argv[1:])' g++")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 and all("DPkg::Lock::Timeout=300 g++" in call for call in calls)
    assert '"libc6-dev"' in (tmp_path / "cache/host-changes.json").read_text()
    script(tmp_path / "programs/apt-get", "echo E: no such package; exit 100")
    done = shell("with_harness \"$1\" 'host.install(sys.argv[1:])' g++")
    assert done.returncode == 1 and "E: no such package" in done.stderr and "Traceback" not in done.stderr


def test_the_gate_keeps_to_the_callers_folder(shell: Shell, tmp_path: Path) -> None:
    for name in ("data/a-vectors.npy", "data/b-vectors.npy", "docker/__init__.py", "platform.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    code = f'{QUICK} harness_environment "$1" harness >/dev/null; '
    gate = f'CONSTANN_PYTHON="$1" "{ROOT}/ci/gate" --data data'
    done = shell(code + gate)
    assert done.returncode == 2 and "error: data must hold exactly one *vectors.npy, but it holds 2" in done.stderr
    done = shell(f'CONSTANN_PYTHON="$1" "{ROOT}/ci/gate"', CONSTANN_DATA="data")
    assert "error: data must hold exactly one" in done.stderr
    assert "usage: ./ci/run" in shell(f'CONSTANN_PYTHON="$1" "{ROOT}/ci/gate" --help').stdout
