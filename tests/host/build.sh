#!/bin/sh
# Builds the programs, optimised, and puts them side by side.
#
#   build.sh DIRECTORY
#
# The guest agent runs where no library is, and the supervisor starts faster
# and needs less to be allowed without a dynamic loader: both are static. The
# command line is not, because it asks the host's own resolver for names.
set -eu
cd "$(dirname "$0")/../.."
out=$1

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build

target=x86_64-unknown-linux-gnu
cargo build --release --locked -p microagent --bin microagent
RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --locked --target $target \
    -p microagent-guest -p microagent-vmm --bin microagent-guest --bin microagent-supervisor

built=${CARGO_TARGET_DIR:-target}
mkdir -p "$out"
for program in "$built/release/microagent" \
               "$built/$target/release/microagent-supervisor" \
               "$built/$target/release/microagent-guest"; do
    name=${program##*/}
    # Replaced by rename: a running one keeps its own file.
    install -m 755 "$program" "$out/.$name.new"
    mv -f "$out/.$name.new" "$out/$name"
done
