#!/usr/bin/env bash
# A real Apptainer in a folder of its own, for the tests. Debian 12 has no package of it: this takes the one of a later
# Debian with the C library that it wants, and leaves the machine's own packages and C library as they are.
#
#   tests/containers/get_apptainer.sh FOLDER     then     . FOLDER/environment
#
# FOLDER is made anew and cannot be moved afterwards. Needs root, patchelf and a Debian mirror among apt's sources.
set -euo pipefail

folder=$(realpath -m "${1:?usage: get_apptainer.sh FOLDER}")
release=${APPTAINER_RELEASE:-sid}
here=$(dirname "$(realpath "$0")")
packages=(apptainer libc6 libseccomp2 libsqlite3-0)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,empty,packages,files}

# A view of the package archive that is ours alone: same mirror, other release.
mirror=$("$here/debian_mirror.sh")
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$work/sources.list"
cat >"$work/apt.conf" <<CONF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "$work/empty";
Dir::Etc::PreferencesParts "$work/empty";
Dir::State::Lists "$work/state/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
// A mirror that lags behind is good enough for a test.
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
#clear APT::Update::Post-Invoke-Success;
CONF
export APT_CONFIG="$work/apt.conf"
apt-get -qq update
if ! apt-cache show apptainer >/dev/null 2>&1; then
    echo "Debian's $release has no package apptainer at present; name another release with APPTAINER_RELEASE" >&2
    exit 1
fi
(cd "$work/packages" && apt-get -qq download "${packages[@]}")
for package in "$work"/packages/*.deb; do
    dpkg-deb --extract "$package" "$work/files"
done

# Debian splits over /usr, /etc and /var what Apptainer looks for below one prefix.
arch=$(dpkg-architecture -q DEB_HOST_MULTIARCH 2>/dev/null || gcc -dumpmachine 2>/dev/null || echo "$(uname -m)-linux-gnu")
rm -rf "$folder"
mkdir -p "$folder"/{bin,clib,"lib/$arch"} "$folder"/var/lib/apptainer/mnt/{session,source}
cp -a "$work/files/usr/bin/apptainer" "$folder/bin/"
cp -a "$work/files/usr/lib/$arch/apptainer" "$folder/lib/$arch/"
cp -a "$work/files/etc" "$folder/"
find "$work/files/usr/lib/$arch" -maxdepth 1 -name '*.so*' -exec cp -a {} "$folder/clib/" \;
# The starter takes the folder three levels above its own for the prefix: from Debian's place that is FOLDER/lib.
ln -s ../etc ../var "$folder/lib/"
loader=$(basename "$(patchelf --print-interpreter "$folder/bin/apptainer")")
for program in "$folder/bin/apptainer" "$folder/lib/$arch/apptainer/bin/starter"; do
    patchelf --set-interpreter "$folder/clib/$loader" --force-rpath --set-rpath "$folder/clib" "$program"
done

python3 "$here/spare_capabilities.py" "$folder" >"$folder/environment"
echo "export PATH=\"$folder/bin:\$PATH\"" >>"$folder/environment"
"$folder/bin/apptainer" --version
