#!/bin/bash
# A rustc for the programs under test: $RUSTC_WORKSPACE_WRAPPER of build.sh and test.sh.
#
#   rustc.sh RUSTC ARGUMENT...
#
# The guest agent and the supervisor are static programs. That is a matter of the last step, the
# program itself, so this adds the flag there alone: what the programs are made of is compiled once,
# for them and for the tests. $RUSTFLAGS would change it for every crate and compile each twice.
#
# Not sh: dash drops variables such as CARGO_BIN_EXE_microagent-guest.
set -eu
case " $* " in
    *" --crate-name microagent_guest "*" --crate-type bin "* | \
    *" --crate-name microagent_supervisor "*" --crate-type bin "*)
        exec "$@" -Ctarget-feature=+crt-static ;;
esac
exec "$@"
