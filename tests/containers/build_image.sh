#!/usr/bin/env bash
# The image for the tests: the definition of production on a bare Debian, with whatever torch pip finds here.
#
#   tests/containers/build_image.sh IMAGE
#
# Needs root, apptainer, debootstrap and mksquashfs on PATH, and `make venv`. What this machine's pip and apt know about mirrors and
# certificates is passed in from outside, so that none of it stays in the image.
set -euo pipefail

image=$(realpath -m "${1:?usage: build_image.sh IMAGE}")
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}

work=$(mktemp -d "$(dirname "$image")/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{temporary,cache}
export APPTAINER_TMPDIR=$work/temporary APPTAINER_CACHEDIR=$work/cache
mapfile -t binds < <("$python" tests/containers/pip_settings.py "$work/settings")

APPTAINERENV_PIP_CONFIG_FILE=/mnt/pip.conf apptainer build --force --notest "${binds[@]}" \
    --mksquashfs-args "-comp zstd -Xcompression-level 1" \
    --build-arg BOOTSTRAP=debootstrap --build-arg FROM=debian \
    --build-arg "MIRROR=$(tests/containers/debian_mirror.sh)" \
    --build-arg COMPILER= \
    --build-arg "COMMIT=$(git rev-parse HEAD)" \
    "$image" containers/Apptainer.def
