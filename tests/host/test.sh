#!/bin/sh
# The whole test suite: formatting, lints, every test. Its last line counts.
#
#   test.sh DIRECTORY      where the programs under test are built to
#
# A test that cannot run here says so in the file that $MICROAGENT_SKIPPED
# names, one line `name: reason`, and is counted as skipped, not as passed.
set -eu
cd "$(dirname "$0")/../.."

set=$(tests/host/toolchain.sh clippy rustfmt) && eval "$set"
tests/host/install.sh build run test kernel

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
export MICROAGENT_SKIPPED="$work/skipped"
: >"$MICROAGENT_SKIPPED"

failed_steps=0
step() {
    name=$1; shift
    printf '== %s\n' "$name"
    if ! "$@"; then
        printf '== %s failed\n' "$name"
        failed_steps=$((failed_steps + 1))
    fi
}

step format cargo fmt --all --check
step lint cargo clippy --workspace --all-targets --locked -- -D warnings

# Without the programs no end-to-end test can say anything.
printf '== build\n'
tests/host/build.sh "$1" dev || { echo '0 passed, 1 failed'; exit 1; }
MICROAGENT_BIN_DIR=$(cd "$1" && pwd)
export MICROAGENT_BIN_DIR

printf '== tests\n'
{
    status=0
    cargo test --workspace --locked --no-fail-fast 2>&1 || status=$?
    # Each target is a test, and says so in cargo's words.
    tests/host/fuzz.sh 10 2>&1 || status=$?
    echo $status >"$work/status"
} | tee "$work/log"

awk -v status="$(cat "$work/status")" -v steps="$failed_steps" -v skips="$MICROAGENT_SKIPPED" '
    /^test result: / {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) passed += $i
            if ($(i + 1) ~ /^failed/) failed += $i
        }
    }
    # Parts that other tests run in processes of their own are no tests by themselves.
    /^test .* \.\.\. ignored/ && !/a part of other tests/ {
        sub(/^test /, ""); print "skipped: " $0; skipped++
    }
    END {
        while ((getline line < skips) > 0) {
            print "skipped: " line
            skipped++; passed--
        }
        # A test binary that was killed leaves no count behind.
        if (status != 0 && failed == 0) failed = 1
        failed += steps
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit (failed > 0 || passed <= 0)
    }' "$work/log"
