#!/bin/sh
# Runs the whole test suite: formatting, lints, every test. Prints the time of
# each step and the slowest tests, then each failure again; the last line is the count.
#
#   test.sh DIRECTORY      the output directory for the programs under test
#
# A test that cannot run on this host appends a line `name: reason` to the file
# $MICROAGENT_SKIPPED and counts as skipped, not as passed.
set -eu
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
export MICROAGENT_SKIPPED="$work/skipped"
: >"$MICROAGENT_SKIPPED"
: >"$work/log"
: >"$work/times"

# A failing step does not stop the others. Its output is kept for the count.
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

# The end-to-end tests need the programs.
step build tests/host/build.sh "$1" dev
! failed build || { echo '0 passed, 1 failed'; exit 1; }
MICROAGENT_BIN_DIR=$(cd "$1" && pwd)
export MICROAGENT_BIN_DIR
suite=${CARGO_TARGET_DIR:-target}/debug/suite
# Some minutes of compiling the first time.
step cache "$suite" --prepare
# A shell without job control starts background jobs with SIGINT ignored, nohup with SIGHUP; the
# programs under test would keep that.
step tests env --default-signal "$suite" <"$MICROAGENT_BIN_DIR/tests.json"
# With the settings of build.sh, so that nothing is rebuilt.
step documentation env RUSTC_WORKSPACE_WRAPPER="$PWD/tests/host/rustc.sh" CARGO_INCREMENTAL=0 \
    cargo test --quiet --workspace --locked --doc
# Each target counts as a test and is reported in libtest's format.
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
    # Of a failed unit: libtest prints the messages of its failed tests, each below a heading.
    /^    ---- .* ----$/ { shown = 12 }
    /^failed: / || shown-- > 0 { report[++reports] = $0 }
    /^test .* \.\.\. ignored/ { sub(/^test /, ""); print "skipped: " $0; skipped++ }
    END {
        # Again, because a log is read from its end.
        for (i = 1; i <= reports; i++) print report[i]
        while ((getline line < skips) > 0) {
            print "skipped: " line
            skipped++; passed--
        }
        # A failed step without a count: formatting, lints, a killed program.
        while ((getline line < failures) > 0) {
            print line
            if (line !~ /^== (tests|documentation|fuzz) failed$/ || failed == 0) failed++
        }
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit (failed > 0 || passed <= 0)
    }' "$work/log"
