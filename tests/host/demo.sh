#!/bin/sh
# Runs the main use case: builds the programs, creates a small OCI image from
# Debian's busybox, and runs a command in a microVM booted from it; then once
# more, to show the effect of the cache.
#
#   demo.sh DIRECTORY      the output directory for the programs
#
# No image registry is needed. The demo writes to DIRECTORY/demo, which
# `make clean` removes.
set -eu
cd "$(dirname "$0")/../.."

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build run demo
echo '== building (takes some minutes the first time)' >&2
tests/host/build.sh "$1"

bin=$(cd "$1" && pwd)
demo=$bin/demo
mkdir -p "$demo"
rm -rf "$demo/image"
tests/host/busybox-image.sh "$demo/image" busybox >"$demo/image.log" 2>&1 ||
    { cat "$demo/image.log" >&2; exit 1; }

command='uname -a; echo "hello from $(hostname), which has $(nproc) CPU and $(free -m | awk "/Mem/ {print \$2}") MiB"; cat /etc/passwd'
run() {
    "$bin/microagent" "$@" --image "oci:$demo/image:busybox" --hostname demo --exec "$command"
}
echo "== microagent run --image oci:$demo/image:busybox --exec '$command'" >&2
run --state-dir "$demo/state" run

echo "== the same with --json, now that everything is in the store" >&2
run --json --quiet --state-dir "$demo/state" run >"$demo/result.json"

jq -r '
    def pad($width): (. + " " * $width)[0:$width];
    "exit code: \(.result.exitCode)",
    "engine:    \(.engine)",
    "image:     \(.image.resolved // .image.reference)",
    "phases:",
    (.phases | to_entries[] | select(.value | type == "number")
        | "    \(.key | rtrimstr("Millis") | pad(12)) \(.value | . * 10 | round / 10) ms")
' "$demo/result.json"
