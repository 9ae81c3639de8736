#!/usr/bin/env bash
# Says in which files two images differ: in their content, their mode, or in being there. Times do not count.
#
#   tests/containers/compare_images.sh IMAGE IMAGE
#
# Two images of one commit, built on the same mirror, differ in /.singularity.d/labels.json alone, which has the time of building.
set -euo pipefail
files() {
    apptainer exec --contain --no-home "$1" sh -c 'find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path "/*tmp" \) -prune \
        -o -type f -printf "%m " -exec sha256sum {} \; -o -type l -printf "%p -> %l\n" -o -type d -printf "%m %p\n"' | sort -k 3
}
diff <(files "$1") <(files "$2")
