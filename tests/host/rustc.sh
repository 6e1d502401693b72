#!/bin/bash
# The $RUSTC_WORKSPACE_WRAPPER of build.sh and test.sh: links the guest agent and the supervisor
# statically.
#
#   rustc.sh RUSTC ARGUMENT...
#
# Only the final crate of a program needs the flag, so the dependencies are compiled once for the
# programs and the tests. $RUSTFLAGS would apply to every crate and compile each of them twice.
#
# Not sh, because dash drops variables such as CARGO_BIN_EXE_microagent-guest.
set -eu
case " $* " in
    *" --crate-name microagent_guest "*" --crate-type bin "* | \
    *" --crate-name microagent_supervisor "*" --crate-type bin "*)
        exec "$@" -Ctarget-feature=+crt-static ;;
esac
exec "$@"
