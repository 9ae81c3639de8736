#!/usr/bin/env bash
# Prints the Debian mirror that this machine's apt uses.
set -euo pipefail
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -E -m1 '/debian/?$' || true)
if [ -z "$mirror" ]; then
    echo "apt knows no Debian mirror here: run apt-get update, or see /etc/apt/sources.list.d" >&2
    exit 1
fi
echo "${mirror%/}"
