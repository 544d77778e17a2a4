# Sourced by ci/test and ci/gate: finds a Python, and makes the harness's own environment in the cache. Installs into
# nothing else, except that root on Debian or Ubuntu gets the packages that are missing.

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

cache_folder() {
    printf '%s' "${CONSTANN_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/constann}"
}

find_python() {
    local name
    for name in ${CONSTANN_PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer was found: install one, or name it with CONSTANN_PYTHON"
}

# need_packages WHY PACKAGE...: installs Debian packages as root; otherwise says the one line to run.
need_packages() {
    local why=$1
    shift
    command -v apt-get >/dev/null || fail "$why; install what your system calls: $*"
    if [ "$(id -u)" != 0 ]; then
        fail "$why; run: sudo apt-get update && sudo apt-get install -y $*"
    fi
    say "$why: installing $* with apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >&2 ||
        fail "apt-get could not install $*"
}

# Everything a build needs besides Python: its headers and venv module, and a C++ compiler.
prepare_system() {
    local python=$1 version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null || need_packages "Python has no venv module" "python$version-venv"
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        need_packages "Python's headers are missing" "python$version-dev"
    command -v g++ >/dev/null || command -v clang++ >/dev/null || need_packages "there is no C++ compiler" g++
    command -v nm >/dev/null || need_packages "binutils is missing" binutils
    command -v git >/dev/null || need_packages "git is missing" git
}

# harness_environment PYTHON GROUP: prints the folder of a virtual environment with a dependency group of
# pyproject.toml, made anew when that changes. A half-made one is never used.
harness_environment() {
    local python=$1 group=$2 key folder
    key=$({ "$python" -VV; cat pyproject.toml; } | cksum | tr -d ' ')
    folder="$(cache_folder)/harness/$group-$key"
    if [ ! -e "$folder/finished" ]; then
        say "installing the dependency group '$group' into $folder"
        rm -rf "$folder"
        mkdir -p "$(dirname "$folder")"
        {
            "$python" -m venv "$folder" &&
                "$folder/bin/python" -m pip install -q --disable-pip-version-check "pip==26.3" &&
                "$folder/bin/python" -m pip install -q --disable-pip-version-check --group "$group"
        } >&2 || fail "the harness's requirements could not be installed (see above)"
        touch "$folder/finished"
    fi
    printf '%s' "$folder"
}
