#!/bin/sh
# Builds the fuzz targets and runs them, one per processor at a time.
#
#   fuzz.sh [SECONDS [TARGET...]]     default: 10 seconds each, all targets
#
# Does not need a nightly toolchain: LLVM's instrumentation is enabled by the
# flags of cargo-fuzz, without the address sanitizer (the fuzzed code is safe
# Rust, except for guest memory, which the targets check themselves). With a
# nightly toolchain, use `cargo fuzz run TARGET`.
#
# The corpus in $CARGO_TARGET_DIR/fuzz/corpus is kept and extended by each run;
# a failing input is written to artifacts beside it. Once it is understood, add
# it to fuzz/regressions/TARGET, which every run replays first.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-10}
[ $# -eq 0 ] || shift

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build fuzz

work=${CARGO_TARGET_DIR:-target}/fuzz
mkdir -p "$work"
work=$(cd "$work" && pwd)
target=x86_64-unknown-linux-gnu
targets=${*:-layer_stack layer_index image_documents reference registry_access
    virtio_block virtio_vsock virtio_net virtio_rng virtio_registers virtio_restored state_file
    egress_frames egress_dns}

if ! cargo fetch --quiet --manifest-path fuzz/Cargo.toml --target $target; then
    # A passed test with an entry in the list of skipped ones counts as skipped.
    echo 'fuzz: its crates cannot be downloaded' >>"${MICROAGENT_SKIPPED:-/dev/stderr}"
    echo 'test result: ok. 1 passed; 0 failed'
    exit 0
fi
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares'
# Not --locked, because the dependencies of the crates may have changed. With
# --target the flags do not apply to build scripts.
env -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="$(echo $coverage) --cfg fuzzing" \
    cargo build --quiet --release --manifest-path fuzz/Cargo.toml \
    --target $target --target-dir "$work"
fuzz/seeds.sh "$work/seeds"

# Runs one target and writes its number of inputs to NAME.runs if it succeeds.
fuzz() {
    name=$1
    # libFuzzer reads all directories and writes to the first.
    mkdir -p "$work/corpus/$name" "$work/artifacts/$name"
    known=fuzz/regressions/$name
    [ -d "$known" ] || known=
    log=$work/$name.log
    rm -f "$work/$name.runs"
    # Longer inputs are slower and find nothing more.
    if "$work/$target/release/$name" -max_total_time="$seconds" -max_len=32768 \
        -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="$work/artifacts/$name/" "$work/corpus/$name" \
        "$work/seeds/$name" $known >"$log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: *//p' "$log" >"$work/$name.runs"
    fi
}

passed=0
failed=0
processors=$(nproc)
set -- $targets
while [ $# -gt 0 ]; do
    batch=
    while [ $# -gt 0 ] && [ "$(echo $batch | wc -w)" -lt "$processors" ]; do
        fuzz "$1" &
        batch="$batch $1"
        shift
    done
    wait
    for name in $batch; do
        if [ -e "$work/$name.runs" ]; then
            echo "test fuzz $name ($(cat "$work/$name.runs") inputs) ... ok"
            passed=$((passed + 1))
        else
            tail -n 40 "$work/$name.log"
            echo "test fuzz $name ... FAILED"
            failed=$((failed + 1))
        fi
    done
done
[ $failed -eq 0 ] && result=ok || result=FAILED
echo "test result: $result. $passed passed; $failed failed"
[ $failed -eq 0 ]
