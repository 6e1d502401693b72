#!/bin/sh
# Measures builds or boots with the programs in DIRECTORY and writes the results to docs/.
#
#   bench.sh build|boot DIRECTORY [FLAG...]      flags of build-bench or boot-bench
set -eu
cd "$(dirname "$0")/../.."
what=$1
MICROAGENT_BIN_DIR=$(cd "$2" && pwd)
export MICROAGENT_BIN_DIR
shift 2

set=$(tests/host/toolchain.sh) && eval "$set"
case $what in
    build) tests/host/install.sh test ;;
    boot) tests/host/install.sh test kernel ;;
    *) echo "bench.sh: no such benchmark: $what (build, boot)" >&2; exit 1 ;;
esac
exec cargo run --release --locked --quiet -p microagent-benches --bin "$what-bench" -- \
    --json "${CARGO_TARGET_DIR:-target}/$what-bench.json" \
    --svg "docs/$what-benchmark.svg" --markdown docs/benchmarks.md "$@"
