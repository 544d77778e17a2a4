#!/bin/sh
# What cibuildwheel runs where it builds (see pyproject.toml): `prepare [zig]` once, and `finish WHEEL FOLDER` for each
# wheel. Only calls what ci/ has in Python; on macOS, where there is no container, with the harness's own environment.
set -eu
project=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
tools=/opt/constann
python=${CONSTANN_HARNESS_PYTHON:-$tools/bin/python}
cd -- "$project"

case "$1" in
prepare)
    if ! [ -x "$python" ]; then
        /opt/python/cp311-cp311/bin/python -m venv "$tools"
        "$python" -m pip install -q "pip==26.3"
        "$python" -m pip install -q --group finish
    fi
    if [ "${2:-}" = zig ]; then
        # Debian's pyconfig.h names the real one by a path that only Debian's compilers look into.
        for each in /usr/include/*-linux-gnu/python3.*; do
            triple=$(basename -- "$(dirname -- "$each")")
            [ ! -d "$each" ] || ln -sfn "/usr/include/$triple" "/usr/include/$(basename -- "$each")/$triple"
        done
        "$python" -m pip install -q --group cross
        "$python" -c 'import pathlib, platform
from ci import platforms, zig
target = platforms.load_targets()[f"linux-{platform.machine()}"]
zig.make_named_toolchain(target, pathlib.Path("/opt/constann/zig"))'
    fi
    ;;
finish)
    exec "$python" -c 'import argparse, sys
from ci import finish, wheel_file
parser = argparse.ArgumentParser()
finish.add_arguments(parser)
try:
    sys.exit(finish.run(parser.parse_args()))
except wheel_file.WheelError as error:
    sys.exit(f"error: {error}")' ${CONSTANN_TAG:+--tag "$CONSTANN_TAG"} "$2" "$3"
    ;;
*)
    echo "$0: prepare or finish, not $1" >&2
    exit 2
    ;;
esac
