# Sourced by ci/run and ci/test: finds a Python, and makes the harness's own environment in the cache. Installs into
# nothing else, except that root on Debian or Ubuntu gets the packages that are missing. Never leaves the caller's folder.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

# modern PROGRAM: prints where this Python really is, if it is new enough.
modern() {
    "$1" -c 'import sys; print(sys.executable) if sys.version_info >= (3, 11) else sys.exit(1)' 2>/dev/null
}

find_python() {
    local name
    if [ -n "${CONSTANN_PYTHON:-}" ]; then
        modern "$CONSTANN_PYTHON" ||
            fail "CONSTANN_PYTHON is '$CONSTANN_PYTHON', which is no Python 3.11 or newer: name another, or unset it"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.14; do
        modern "$name" && return
    done
    fail "no Python 3.11 or newer was found: install one, or name it with CONSTANN_PYTHON"
}

# with_harness PYTHON CODE ARGUMENT...: runs Python code that may import the package ci, whatever the folder; what it
# starts inherits nothing of that. CODE may use cache and host, which need no environment.
with_harness() {
    local python=$1 code=$2
    shift 2
    "$python" -P -B -c "import sys
sys.path.insert(0, sys.argv.pop(1))
from ci import cache, host
try:
    $code
except (OSError, host.HostError) as error:
    sys.exit(f'error: {error}')" "$root" "$@"
}

# missing_packages PYTHON PURPOSE: prints what Debian calls the things that are missing. Every purpose needs an
# environment of its own; `harness` builds wheels; `test` compiles with this machine's compiler as well.
missing_packages() {
    local python=$1 purpose=$2 version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null || printf '%s ' "python$version-venv"
    [ "$purpose" != start ] || return 0
    [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
        printf '%s ' "python$version-dev"
    command -v nm >/dev/null || printf 'binutils '
    [ "$purpose" = test ] || return 0
    if [ "${CI:-}" = true ]; then # there, no comparison, control or look at a page may be left out
        command -v chromium >/dev/null || printf 'chromium '
        command -v g++ >/dev/null || printf 'g++ '
        command -v clang++ >/dev/null || printf 'clang '
        # Debian's clang comes without the libraries of its sanitizers and of libFuzzer.
        sanitizes clang++ || printf 'libclang-rt-dev '
        # Here planted instructions must be seen to kill an old Arm CPU.
        command -v qemu-aarch64-static >/dev/null || printf 'qemu-user-static '
    else
        command -v g++ >/dev/null || command -v clang++ >/dev/null || printf 'g++ '
    fi
}

# sanitizes COMPILER: whether it has libFuzzer and AddressSanitizer.
sanitizes() {
    command -v "$1" >/dev/null || return
    # No pipe: a compiler that reads nothing would end the writer, and so fail the pipeline.
    "$1" -fsanitize=fuzzer,address -x c++ - -o /dev/null 2>/dev/null \
        <<<'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }'
}

# engine_answers PYTHON: whether this computer has a Docker engine already. It is then not ours to install on.
engine_answers() {
    [ -n "${DOCKER_HOST:-}" ] || timeout 10 docker version >/dev/null 2>&1 ||
        "$1" -c 'import socket; socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")' 2>/dev/null
}

# prepare_system PYTHON PURPOSE: installs what is missing, where that is ours to do, having said what; else says the one
# line to run. Nothing is ever installed for the purpose `start`.
prepare_system() {
    local python=$1 purpose=$2 missing
    missing=$(missing_packages "$python" "$purpose")
    missing=${missing% }
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        fail "these are missing, by Debian's names: $missing. Install what your system calls them (macOS:" \
            "\`xcode-select --install\` and a Python from python.org or Homebrew)"
    fi
    if [ "$(id -u)" != 0 ] || [ "$purpose" = start ] || engine_answers "$python"; then
        say "error: these packages are missing (at most 350 MB of disk, a minute or two). Run this one line:"
        say
        say "    sudo apt-get update && sudo apt-get install --yes --no-install-recommends $missing"
        say
        exit 2
    fi
    say "to install with apt-get: $missing (at most 350 MB of disk, a minute or two)"
    # shellcheck disable=SC2086 # names of packages have no spaces
    with_harness "$python" 'host.install(sys.argv[1:])' $missing >&2 || exit 2
    missing=$(missing_packages "$python" "$purpose")
    [ -z "$missing" ] ||
        fail "$python still misses ${missing% }: it is not the system's own; name another with CONSTANN_PYTHON"
}

# harness_environment PYTHON GROUP: prints the folder of a virtual environment with a dependency group of
# pyproject.toml, made anew when that changes. A half-made one is never used, and two runs make it once.
harness_environment() {
    local python=$1 group=$2 key cache folder
    key=$({ printf '%s\n' "$python"; "$python" -VV; cat "$root/pyproject.toml"; } | cksum | tr -d ' ')
    cache=$(with_harness "$python" 'print(cache.folder("harness"))') ||
        fail "there is no cache folder (see above): name another with CONSTANN_CI_CACHE"
    folder="$cache/$group-$key"
    if ! environment_is_whole "$folder"; then
        # The kernel frees the lock if we are killed. macOS has no flock; there, start one run at a time.
        (
            ! command -v flock >/dev/null || flock 9
            environment_is_whole "$folder" || make_environment "$python" "$group" "$folder"
        ) 9>>"$folder.lock" || exit 2
    fi
    touch "$folder/finished" 2>/dev/null || true # the day of its last use
    printf '%s' "$folder"
}

environment_is_whole() { [ -e "$1/finished" ] && [ -x "$1/bin/python" ]; }

make_environment() {
    local python=$1 group=$2 folder=$3 old
    # Those of other days' pyproject.toml, unused for a month.
    find "$(dirname "$folder")" -mindepth 2 -maxdepth 2 -name finished -mtime +30 | while IFS= read -r old; do
        rm -rf "${old%/finished}"
    done
    say "installing the dependency group '$group' into $folder"
    {
        rm -rf "$folder" &&
            "$python" -m venv "$folder" &&
            "$folder/bin/python" -P -m pip install -q --disable-pip-version-check "pip==26.3" &&
            "$folder/bin/python" -P -m pip install -q --disable-pip-version-check --no-compile --group "$root/pyproject.toml:$group" &&
            touch "$folder/finished"
    } >&2 || fail "the harness's requirements could not be installed (see above)"
}
