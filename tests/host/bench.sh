#!/bin/sh
# Measures builds with the programs in DIRECTORY, and writes the results into docs/.
#
#   bench.sh DIRECTORY [FLAG...]      flags of build-bench
set -eu
cd "$(dirname "$0")/../.."
MICROAGENT_BIN_DIR=$(cd "$1" && pwd)
export MICROAGENT_BIN_DIR
shift

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh test
exec cargo run --release --locked --quiet -p microagent-benches --bin build-bench -- \
    --json "${CARGO_TARGET_DIR:-target}/build-bench.json" \
    --svg docs/build-benchmark.svg --markdown docs/benchmarks.md "$@"
