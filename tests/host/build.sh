#!/bin/sh
# Builds the programs and puts them side by side.
#
#   build.sh DIRECTORY [PROFILE]      PROFILE is release; dev builds faster
#
# Of a release, the static programs have a profile of their own (Cargo.toml).
#
# The guest agent runs where no library is, and the supervisor starts faster
# and needs less to be allowed without a dynamic loader: both are static. The
# command line is not, because it asks the host's own resolver for names.
set -eu
cd "$(dirname "$0")/../.."
out=$1
profile=${2:-release}

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build

target=x86_64-unknown-linux-gnu
if [ "$profile" = dev ]; then
    # With the tests, as `cargo test` is about to build it: another choice of packages is another
    # choice of features, and then nothing would be shared.
    cargo build --locked --workspace --bins --tests
    static=dev
else
    static=lean
    cargo build --profile "$profile" --locked -p microagent --bin microagent
fi
# As the alias static-build of .cargo/config.toml, which $RUSTFLAGS would override.
env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
    cargo build --profile "$static" --locked --target $target \
    --config "target.$target.rustflags=['-Ctarget-feature=+crt-static']" \
    -p microagent-guest -p microagent-vmm --bin microagent-guest --bin microagent-supervisor

built=${CARGO_TARGET_DIR:-target}
directory() { case $1 in dev) echo debug ;; *) echo "$1" ;; esac; }
programs=$built/$(directory "$profile")
static=$built/$target/$(directory "$static")
mkdir -p "$out"
for program in "$programs/microagent" \
               "$static/microagent-supervisor" \
               "$static/microagent-guest"; do
    name=${program##*/}
    # Replaced by rename: a running one keeps its own file. Stripped, for the agent is copied into
    # every VM's memory.
    install -s -m 755 "$program" "$out/.$name.new"
    mv -f "$out/.$name.new" "$out/$name"
done
