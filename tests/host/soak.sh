#!/bin/sh
# Tests that find more the longer they run: kills at random moments, system
# calls that fail, broken networks, boots one after the other and beside other
# work, disks under mixed I/O, streams, layer stacks. make test runs a short
# form of each.
#
#   soak.sh DIRECTORY SECONDS [NAME...]    each for about so long; names as the report of make test
#                                          has them. DIRECTORY is where the programs are built to.
set -eu
cd "$(dirname "$0")/../.."
directory=$1
MICROAGENT_SOAK_SECONDS=$2
shift 2
case $MICROAGENT_SOAK_SECONDS in
    '' | *[!0-9]*) echo "soak.sh: $MICROAGENT_SOAK_SECONDS is not a number of seconds" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || set -- \
    nothing_lost::builds_and_collections_that_are_killed_leave_a_whole_store \
    nothing_lost::a_system_call_that_fails_at_any_moment_loses_nothing \
    faults::a_broken_network_gives_the_right_image_or_the_right_error \
    boots::a_vm_boots_beside_other_work \
    monitor_lab::disks_under_mixed_io_keep_every_byte \
    monitor_lab::many_boots_leave_nothing_behind \
    kvm_streams::two_hundred_streams_carry_every_byte_both_ways \
    'pipeline stacks '

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build run test kernel
tests/host/build.sh "$directory" dev
MICROAGENT_BIN_DIR=$(cd "$directory" && pwd)
# About twenty stacks a second.
PROPTEST_CASES=$((MICROAGENT_SOAK_SECONDS * 20))
# As build.sh has built them.
RUSTC_WORKSPACE_WRAPPER=$PWD/tests/host/rustc.sh
CARGO_INCREMENTAL=0
export MICROAGENT_SOAK_SECONDS MICROAGENT_BIN_DIR PROPTEST_CASES RUSTC_WORKSPACE_WRAPPER CARGO_INCREMENTAL
programs=$(mktemp)
trap 'rm -f "$programs"' EXIT
cargo test --quiet --workspace --locked --no-run --message-format json-render-diagnostics >"$programs"
"${CARGO_TARGET_DIR:-target}/debug/suite" "$@" <"$programs"
