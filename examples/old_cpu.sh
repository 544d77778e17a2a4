#!/usr/bin/env bash
# Shows what "portable" means: annoy, built by pip on this machine, and a Constann wheel, both on a CPU from 2006.
# Needs qemu-x86_64-static (Debian, Ubuntu: apt-get install qemu-user-static). Usage: examples/old_cpu.sh WHEEL
set -u
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }
command -v qemu-x86_64-static >/dev/null || fail "qemu-x86_64-static is missing: sudo apt-get install qemu-user-static"
wheel=$(realpath -e -- "${1:?usage: examples/old_cpu.sh WHEEL}") || fail "there is no wheel $1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || fail "python3 could make no virtual environment (see above)"
# numpy 2.4 itself needs SSE4.2; 2.2 does not.
"$work/venv/bin/pip" install -q --disable-pip-version-check "numpy==2.2.6" "annoy==1.17.3" ||
    fail "annoy could not be installed (see above): it needs a package index, a C++ compiler and Python's headers"
"$work/venv/bin/pip" install -q --disable-pip-version-check --no-index --no-deps "$wheel" ||
    fail "$wheel could not be installed (see above): it must be one for this Python on x86-64"

cat >"$work/with_annoy.py" <<'PYTHON'
from annoy import AnnoyIndex
index = AnnoyIndex(2, "angular")
index.add_item(0, [1, 2])
index.build(10)
print("annoy:", index.get_nns_by_item(0, 1))
PYTHON
cat >"$work/with_constann.py" <<'PYTHON'
import numpy, constann
index = constann.build(numpy.array([[1.0, 2.0], [3.0, 4.0]]), kind="forest")
print("constann:", index.search([1.0, 2.0], k=1)[0], "kernels:", constann.kernels.current(), index.fingerprint[:16])
PYTHON
cd "$work"
for cpu in "this CPU" core2duo; do
    for program in with_annoy.py with_constann.py; do
        echo "\$ python $program    # on $cpu"
        if [ "$cpu" = "this CPU" ]; then venv/bin/python "$program"; else qemu-x86_64-static -cpu "$cpu" venv/bin/python "$program"; fi
        status=$?
        [ $status = 0 ] || echo "exit status $status"
    done
done 2>&1
