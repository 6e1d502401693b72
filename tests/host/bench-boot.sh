#!/bin/sh
# Measures boots in the lab with the programs in DIRECTORY, and writes the results into docs/.
#
#   bench-boot.sh DIRECTORY [FLAG...]      flags of boot-bench
set -eu
cd "$(dirname "$0")/../.."
MICROAGENT_BIN_DIR=$(cd "$1" && pwd)
export MICROAGENT_BIN_DIR
shift

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh test kernel
exec cargo run --release --locked --quiet -p microagent-benches --bin boot-bench -- \
    --json "${CARGO_TARGET_DIR:-target}/boot-bench.json" \
    --svg docs/boot-benchmark.svg --markdown docs/benchmarks.md "$@"
