#!/bin/sh
# Builds the image with docker, podman or buildah, whichever is there, runs the demo in it as it would run in production
# (not root; read-only root file system where the engine can do that), and says how large it is and how fast it starts.
#
#   docker/verify.sh [BASE_IMAGE]
#
# ENGINE names the engine to use; NETWORK=host builds and runs on the host's network. CA_BUNDLE, a file of certificate
# authorities, and what pip is configured to use here (its index, not its directories) go into the build as secrets.
set -eu
cd "$(dirname "$0")/.."
base=${1:-python:3.12-slim}
image=voicewatch:verify
network=${NETWORK:-}
work=$(mktemp -d)
container=""
engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for candidate in docker podman buildah; do
        # A command line without its daemon builds nothing.
        if command -v "$candidate" >/dev/null 2>&1 && "$candidate" info >/dev/null 2>&1; then
            engine=$candidate
            break
        fi
    done
fi
if [ -z "$engine" ]; then
    echo "verify: neither docker, podman nor buildah is here and works" >&2
    exit 2
fi

finish() {
    if [ -n "$container" ]; then buildah rm "$container" >/dev/null; fi
    rm -rf "$work"
}
trap finish EXIT

seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }

# The index and nothing else of pip's configuration; directories of this machine do not exist in the build.
{
    echo "[global]"
    python3 -m pip config list 2>/dev/null |
        sed -n "s/^.*[.]\(index-url\|extra-index-url\|trusted-host\|proxy\|timeout\)='\(.*\)'\$/\1 = \2/p" | grep -v file: || :
    if [ -n "${CA_BUNDLE:-}" ]; then echo "cert = /run/secrets/ca"; fi
} >"$work/pip.conf"
cp "${CA_BUNDLE:-/dev/null}" "$work/ca.crt"

set -- --build-arg "BASE_IMAGE=$base" --file docker/Dockerfile --tag "$image" \
    --secret "id=pip,src=$work/pip.conf" --secret "id=ca,src=$work/ca.crt"
if [ -n "$network" ]; then set -- "$@" "--network=$network"; fi

echo "verify: building on $base with $engine"
began=$(date +%s.%N)
case $engine in
docker) DOCKER_BUILDKIT=1 docker build "$@" . ;;
podman) podman build --format docker "$@" . ;;
buildah)
    # OCI images have no HEALTHCHECK. chroot isolation needs no namespaces of its own, and few open files.
    buildah build --format docker --isolation=chroot --ulimit nofile=1024:1024 --layers "$@" .
    ;;
esac
echo "verify: built in $(seconds_since "$began") s"

size_of() {
    case $engine in
    buildah) buildah images --format '{{.Size}}' "$1" ;;
    *) "$engine" image inspect --format '{{.Size}}' "$1" | awk '{ printf "%.0f MB\n", $1 / 1e6 }' ;;
    esac
}
echo "verify: image size $(size_of "$image"), of which the base image $base $(size_of "$base")"

if [ "$engine" = buildah ]; then
    container=$(buildah from "$image")
    buildah run --isolation=chroot ${network:+"--network=$network"} "$container" -- sh -s <docker/verify-inside.sh
    echo "verify: buildah cannot run with a read-only root file system; the rest holds"
else
    "$engine" run --rm --interactive --read-only --tmpfs /tmp --cap-drop=ALL --security-opt=no-new-privileges \
        ${network:+"--network=$network"} --entrypoint sh "$image" -s <docker/verify-inside.sh
fi
echo "verify: done"
