#!/bin/sh
# Runs the soak tests: kills at random moments, failing system calls, faulty
# networks, workspaces with faults and many of them, power cuts, repeated boots and
# boots under load, disks under mixed I/O, streams, bulk transfers over the network, layer stacks. make test
# runs a short form of each.
#
#   soak.sh DIRECTORY SECONDS [NAME...]    SECONDS is the approximate time of each test, NAME a name
#                                          in the report of make test, DIRECTORY the output directory
#                                          for the programs.
#
# $MICROAGENT_SOAK_ROUNDS is the number of rounds of chaos, whatever SECONDS is.
set -eu
cd "$(dirname "$0")/../.."
directory=$1
MICROAGENT_SOAK_SECONDS=$2
: "${MICROAGENT_SOAK_ROUNDS=}"
shift 2
case $MICROAGENT_SOAK_SECONDS in
    '' | *[!0-9]*) echo "soak.sh: $MICROAGENT_SOAK_SECONDS is not a number of seconds" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || set -- \
    nothing_lost::killed_builds_and_collections_leave_the_store_intact \
    nothing_lost::a_failing_system_call_at_any_moment_loses_nothing \
    faults::a_faulty_network_yields_the_correct_image_or_a_permitted_error \
    chaos::a_walk_at_random_with_faults_finds_everything_true \
    scale::many_workspaces_live_side_by_side \
    power_cut::a_power_cut_at_any_moment_loses_nothing_that_the_guest_flushed \
    boots::a_vm_boots_under_load \
    monitor_lab::disks_under_mixed_io_keep_every_byte \
    monitor_lab::many_boots_leave_nothing_behind \
    clients_host::bulk_transfers_never_stall \
    clients_lab::bulk_transfers_never_stall \
    kvm_streams::two_hundred_streams_carry_every_byte_both_ways \
    'pipeline stacks '

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build run test kernel
tests/host/build.sh "$directory" dev
MICROAGENT_BIN_DIR=$(cd "$directory" && pwd)
# About twenty stacks per second.
PROPTEST_CASES=$((MICROAGENT_SOAK_SECONDS * 20))
export MICROAGENT_SOAK_SECONDS MICROAGENT_SOAK_ROUNDS MICROAGENT_BIN_DIR PROPTEST_CASES
# As in test.sh.
env --default-signal "${CARGO_TARGET_DIR:-target}/debug/suite" "$@" <"$MICROAGENT_BIN_DIR/tests.json"
