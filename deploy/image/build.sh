#!/usr/bin/env bash
# build.sh ARCH: the image headrace:ARCH by buildah and debootstrap, without a container engine.
# For Debian and its like, as root. BASE=… names another base image than Debian's own Python.
set -euo pipefail
arch=${1:-amd64}
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
cd "$(dirname "$0")/../.."

need() { command -v "$1" >/dev/null || missing+=" $2"; }
missing=
need buildah buildah; need podman podman; need runc runc; need debootstrap debootstrap
if [ "$arch" != "$(dpkg --print-architecture)" ]; then need "qemu-aarch64-static" "qemu-user-static"; fi
if [ -n "$missing" ]; then
  echo "make image needs:$missing (apt-get install --no-install-recommends$missing)" >&2; exit 1
fi

if [ "$arch" != "$(dpkg --print-architecture)" ]; then
  kinds=/proc/sys/fs/binfmt_misc  # whose programs the kernel hands to the emulator
  [ -e $kinds/register ] || mount -t binfmt_misc binfmt_misc $kinds
  [ -e $kinds/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$kinds/register
fi

base=${BASE:-localhost/headrace-base:$suite-$arch}
if ! podman image exists "$base"; then
  folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
  echo "making $base, some minutes" >&2
  debootstrap --arch="$arch" --variant=minbase --include=python3,python3-venv,ca-certificates \
    "$suite" "$folder" "$mirror" >"$folder.log" || { tail "$folder.log" >&2; exit 1; }
  rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
  tar -C "$folder" -c . | podman import --arch "$arch" - "$base"
fi

# The build trusts what this machine trusts (a proxy's certificate, say); the image keeps none of it.
ca=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
exec buildah bud --format docker --isolation chroot --network host --layers --arch "$arch" \
  --volume "$ca:/tmp/build-ca.pem:ro" --build-arg PIP_CERT=/tmp/build-ca.pem \
  --build-arg BASE="$base" --build-arg TARGETARCH="$arch" \
  --build-arg REVISION="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" \
  --file deploy/Dockerfile --tag "localhost/headrace:$arch" .
