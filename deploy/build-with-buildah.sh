#!/usr/bin/env bash
# Build an image without a container engine, optionally without an image registry.
#
#   deploy/build-with-buildah.sh [TAG]        (default: entrostat:cpu)
#
# Run as root; needs buildah, and debootstrap if CPU_BASE is not set. Environment variables:
#   TARGET        cpu (default) or gpu
#   CPU_BASE      base image; default: built from Debian packages with debootstrap
#   GPU_BASE      base image of the gpu target; default: the one in the Dockerfile
#   MIRROR        Debian mirror for that base
#   WHEELS        folder of wheels that pip may take packages from
#   CA_BUNDLE     certificates that pip trusts
#   PIP_INDEX_URL package index instead of PyPI
#   TORCH_INDEX   index of CPU builds of torch; empty: do not use it
# Buildah's own variables work, too: STORAGE_DRIVER=vfs where overlay cannot be mounted,
# BUILDAH_LAYERS=true to keep layers and reuse them in the next build.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
tag=${1:-entrostat:cpu}
target=${TARGET:-cpu}
base=${CPU_BASE:-localhost/entrostat-base:bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}

scratch=$(mktemp -d)
# An interrupted debootstrap leaves /proc mounted below: do not descend into it.
trap 'umount "$scratch/root/proc" 2>/dev/null || true; rm -rf --one-file-system "$scratch"' EXIT

# Build the equivalent of `python:3.11-slim-bookworm` from Debian packages.
make_base() {
  local container
  echo "making $base from $mirror" >&2
  debootstrap --variant=minbase \
    --include=ca-certificates,python3,python3-dev,python3-pip,python3-venv \
    bookworm "$scratch/root" "$mirror" >"$scratch/debootstrap.log" 2>&1 \
    || { tail -n 20 "$scratch/debootstrap.log" >&2; return 1; }
  rm -rf "$scratch/root"/var/cache/apt/archives/*.deb "$scratch/root"/var/lib/apt/lists/*
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$scratch/root" / >/dev/null
  buildah config --cmd bash "$container"
  buildah commit --quiet --rm "$container" "$base" >/dev/null
  rm -rf "$scratch/root"
}

if [ -z "${CPU_BASE:-}" ] && ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  make_base
fi

# Pass the pip configuration as a build secret, so that it is not stored in the image.
arguments=()
{
  echo "[global]"
  if [ -n "${PIP_INDEX_URL:-}" ]; then
    echo "index-url = $PIP_INDEX_URL"
  fi
  if [ -n "${WHEELS:-}" ]; then
    echo "find-links = /wheels"
    arguments+=(--volume "$(realpath "$WHEELS"):/wheels:ro")
  fi
  if [ -n "${CA_BUNDLE:-}" ]; then
    echo "cert = /run/ca-bundle.crt"
    arguments+=(--volume "$(realpath "$CA_BUNDLE"):/run/ca-bundle.crt:ro")
  fi
} >"$scratch/pip.conf"
if [ -n "${GPU_BASE:-}" ]; then
  arguments+=(--build-arg "GPU_BASE=$GPU_BASE")
fi
if [ -n "${TORCH_INDEX+set}" ]; then
  arguments+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
fi

# The docker format supports HEALTHCHECK and STOPSIGNAL; the OCI format does not.
buildah build \
  --format docker \
  --pull=false \
  --target "$target" \
  --build-arg "CPU_BASE=$base" \
  --secret "id=pip,src=$scratch/pip.conf" \
  --label "org.opencontainers.image.revision=$(git -C "$repository" rev-parse HEAD 2>/dev/null || echo unknown)" \
  "${arguments[@]}" \
  --tag "$tag" \
  "$repository"
