#!/bin/sh
# Measures builds, boots or networks with the programs in DIRECTORY and writes the results to docs/.
#
#   bench.sh build|boot|net DIRECTORY [FLAG...]      flags of build-bench, boot-bench or net-bench
set -eu
cd "$(dirname "$0")/../.."
what=$1
MICROAGENT_BIN_DIR=$(cd "$2" && pwd)
export MICROAGENT_BIN_DIR
shift 2

set=$(tests/host/toolchain.sh) && eval "$set"
case $what in
    build) tests/host/install.sh test ;;
    boot | net) tests/host/install.sh test kernel ;;
    *) echo "bench.sh: no such benchmark: $what (build, boot, net)" >&2; exit 1 ;;
esac
# `net` has no chart.
[ "$what" = net ] || set -- --svg "docs/$what-benchmark.svg" "$@"
exec cargo run --release --locked --quiet -p microagent-benches --bin "$what-bench" -- \
    --json "${CARGO_TARGET_DIR:-target}/$what-bench.json" \
    --markdown docs/benchmarks.md "$@"
