"""What several test files share: the real slice, and compilers found on this machine."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
# tests/*.py that hold no tests, and the harness, which is run from the checkout and not installed
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
DATA = ROOT / "tests" / "conformance" / "data"

# With much to make before their first test: each is for one of the processes of pytest-xdist, whose marks for this
# pytest 9.2 does not see.
IN_ONE_PROCESS = ("test_annoy_files.py", "test_compilers.py", "test_gate.py", "test_golden_maker.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Spread the tests over the processes, those of some files together."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - is not there where it is not asked for

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(IN_ONE_PROCESS) else nodeid

    return Scheduling(config, log)


# Started in the background by a shell, the tests ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    """2,000 real rows, float32."""
    return np.load(DATA / "gloss-vectors.npy").astype(np.float32)


@pytest.fixture(scope="session")
def queries() -> np.ndarray:
    """100 real queries, float32."""
    return np.load(DATA / "gloss-queries.npy").astype(np.float32)


@pytest.fixture(scope="session")
def compiler() -> str:
    """A C++ compiler of this machine."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")):
        if found := shutil.which(name):
            return found
    pytest.fail("no C++ compiler: install g++ (Debian, Ubuntu: apt-get install g++)")


@pytest.fixture(scope="session")
def mode(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """This thread's floating-point setting, to be read and spoilt."""
    library = tmp_path_factory.mktemp("mode") / "mode.so"
    source = ROOT / "tests" / "unit" / "floating_point_mode.c"
    subprocess.run([compiler, "-x", "c", "-O1", "-fPIC", "-shared", source, "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("get_mode", "flushing", "rounding_up", "unmasked"):
        getattr(loaded, name).restype = ctypes.c_uint64
    loaded.set_mode.argtypes = [ctypes.c_uint64]
    return loaded
