#!/usr/bin/env bash
# The image for the tests: the definition of production on a bare Debian, with whatever torch pip finds here.
#
#   tests/containers/build_image.sh IMAGE [EARLIER]
#
# With EARLIER, an image that this made before, only what has changed is installed anew: quick, while working on the code.
# Needs root, apptainer, debootstrap and mksquashfs on PATH, and `make venv`. What pip and apt know here about mirrors and
# certificates is passed in from outside, so that none of it stays in the image.
set -euo pipefail

image=$(realpath -m "${1:?usage: build_image.sh IMAGE [EARLIER]}")
earlier=${2:+$(realpath "$2")}
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}

work=$(mktemp -d "$(dirname "$image")/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{temporary,cache}
export APPTAINER_TMPDIR=$work/temporary APPTAINER_CACHEDIR=$work/cache
mapfile -t binds < <("$python" tests/containers/pip_settings.py "$work/settings")
if [ -n "$earlier" ]; then
    base=(--build-arg BOOTSTRAP=localimage --build-arg "FROM=$earlier")
else
    base=(--build-arg BOOTSTRAP=debootstrap --build-arg FROM=debian --build-arg "MIRROR=$(tests/containers/debian_mirror.sh)")
fi

# %test is left to the tests, which look at what it says.
APPTAINERENV_PIP_CONFIG_FILE=/mnt/pip.conf apptainer build --force --notest "${binds[@]}" \
    --mksquashfs-args "-comp zstd -Xcompression-level 1" \
    "${base[@]}" --build-arg COMPILER= \
    --build-arg "COMMIT=$(git rev-parse HEAD)" --build-arg "EPOCH=$(git log -1 --format=%ct)" \
    "$image" containers/Apptainer.def
