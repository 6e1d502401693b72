#!/bin/sh
# The whole test suite: formatting, lints, every test. It prints how long each
# step took and which tests were the slowest; its last line counts.
#
#   test.sh DIRECTORY      where the programs under test are built to
#
# A test that cannot run here says so in the file that $MICROAGENT_SKIPPED
# names, one line `name: reason`, and is counted as skipped, not as passed.
set -eu
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
export MICROAGENT_SKIPPED="$work/skipped"
: >"$MICROAGENT_SKIPPED"
: >"$work/log"
: >"$work/times"

failed_steps=0
# A step that fails does not stop the others. What it prints is kept for the count.
step() {
    name=$1; shift
    printf '== %s\n' "$name"
    began=$(date +%s)
    { "$@" 2>&1 || echo "== $name failed" >>"$work/failed"; } | tee -a "$work/log"
    printf '%6d s  %s\n' $(($(date +%s) - began)) "$name" >>"$work/times"
}
failed() { [ -e "$work/failed" ] && grep -qx "== $1 failed" "$work/failed"; }
set=$(tests/host/toolchain.sh clippy rustfmt) && eval "$set"

step packages tests/host/install.sh build run test kernel fuzz
step format cargo fmt --all --check
step lint cargo clippy --workspace --all-targets --locked -- -D warnings

# Without the programs no end-to-end test can say anything.
step build tests/host/build.sh "$1" dev
! failed build || { echo '0 passed, 1 failed'; exit 1; }
MICROAGENT_BIN_DIR=$(cd "$1" && pwd)
export MICROAGENT_BIN_DIR
# As build.sh has built them.
RUSTC_WORKSPACE_WRAPPER=$PWD/tests/host/rustc.sh
CARGO_INCREMENTAL=0
export RUSTC_WORKSPACE_WRAPPER CARGO_INCREMENTAL
suite=${CARGO_TARGET_DIR:-target}/debug/suite
# Some minutes of compiling the first time.
step cache "$suite" --prepare
tests() {
    cargo test --quiet --workspace --locked --no-run --message-format json-render-diagnostics >"$work/programs" &&
        "$suite" <"$work/programs"
}
step tests tests
step documentation cargo test --quiet --workspace --locked --doc
# Each target counts as a test, in libtest's words.
step fuzz tests/host/fuzz.sh 10

printf '== times\n'
cat "$work/times"
awk -v failures="$work/failed" -v skips="$MICROAGENT_SKIPPED" '
    /^test result: / {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) passed += $i
            if ($(i + 1) ~ /^failed/) failed += $i
        }
    }
    /^test .* \.\.\. ignored/ { sub(/^test /, ""); print "skipped: " $0; skipped++ }
    END {
        while ((getline line < skips) > 0) {
            print "skipped: " line
            skipped++; passed--
        }
        # A step that failed without a count: formatting, lints, a program that was killed.
        while ((getline line < failures) > 0) {
            print line
            if (line !~ /^== (tests|documentation|fuzz) failed$/ || failed == 0) failed++
        }
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit (failed > 0 || passed <= 0)
    }' "$work/log"
