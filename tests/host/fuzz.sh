#!/bin/sh
# Builds the fuzz targets and runs each of them, one on each processor.
#
#   fuzz.sh [SECONDS [TARGET...]]     10 seconds each, all of them
#
# Needs no nightly toolchain: LLVM's instrumentation is a matter of flags, which
# are those of cargo-fuzz, without the address sanitizer (what is fuzzed has no
# unsafe code, but for guest memory, which the targets watch themselves). Where there is a nightly one, `cargo fuzz run TARGET` does
# the same with it.
#
# What a run has found stays in $CARGO_TARGET_DIR/fuzz/corpus and is where the
# next begins; an input that fails goes to artifacts beside it. Put it into
# fuzz/regressions/TARGET once it is understood: every run begins with those.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-10}
[ $# -eq 0 ] || shift

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build fuzz

place=${CARGO_TARGET_DIR:-target}/fuzz
mkdir -p "$place"
place=$(cd "$place" && pwd)
target=x86_64-unknown-linux-gnu
targets=${*:-layer_stack layer_index image_documents reference registry_access
    virtio_block virtio_vsock virtio_net virtio_rng virtio_registers}

if ! cargo fetch --quiet --manifest-path fuzz/Cargo.toml --target $target; then
    # One test that passes unless the list of skipped ones names it.
    echo 'fuzz: its crates cannot be fetched' >>"${MICROAGENT_SKIPPED:-/dev/stderr}"
    echo 'test result: ok. 1 passed; 0 failed'
    exit 0
fi
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares'
# Not --locked, since what the crates depend on may have changed. The target
# is named so that the flags do not reach build scripts.
env -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="$(echo $coverage) --cfg fuzzing" \
    cargo build --quiet --release --manifest-path fuzz/Cargo.toml \
    --target $target --target-dir "$place"
fuzz/seeds.sh "$place/seeds"

# Runs one target, which leaves its number of inputs, or nothing, in NAME.runs.
fuzz() {
    name=$1
    # libFuzzer writes to the first directory and reads all of them.
    mkdir -p "$place/corpus/$name" "$place/artifacts/$name"
    known=fuzz/regressions/$name
    [ -d "$known" ] || known=
    log=$place/$name.log
    rm -f "$place/$name.runs"
    # Long inputs find nothing that short ones do not, and take their time.
    if "$place/$target/release/$name" -max_total_time="$seconds" -max_len=32768 \
        -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="$place/artifacts/$name/" "$place/corpus/$name" \
        "$place/seeds/$name" $known >"$log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: *//p' "$log" >"$place/$name.runs"
    fi
}

passed=0
failed=0
processors=$(nproc)
set -- $targets
while [ $# -gt 0 ]; do
    turn=
    while [ $# -gt 0 ] && [ "$(echo $turn | wc -w)" -lt "$processors" ]; do
        fuzz "$1" &
        turn="$turn $1"
        shift
    done
    wait
    for name in $turn; do
        if [ -e "$place/$name.runs" ]; then
            echo "test fuzz $name ($(cat "$place/$name.runs") inputs) ... ok"
            passed=$((passed + 1))
        else
            tail -n 40 "$place/$name.log"
            echo "test fuzz $name ... FAILED"
            failed=$((failed + 1))
        fi
    done
done
[ $failed -eq 0 ] && result=ok || result=FAILED
echo "test result: $result. $passed passed; $failed failed"
[ $failed -eq 0 ]
