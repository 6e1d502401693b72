#!/bin/sh
# Builds the programs and puts them side by side.
#
#   build.sh DIRECTORY [PROFILE]      PROFILE is release; dev builds faster
#
# Of a release, the static programs have a profile of their own (Cargo.toml). With dev, the test
# programs are built as well, as test.sh runs them.
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

built=${CARGO_TARGET_DIR:-target}
if [ "$profile" = dev ]; then
    # All at once: another choice of packages is another choice of features, and then nothing would
    # be shared between programs and tests. rustc.sh makes static what has to be.
    RUSTC_WORKSPACE_WRAPPER=$PWD/tests/host/rustc.sh CARGO_INCREMENTAL=0 \
        cargo build --locked --workspace --bins --tests
    programs=$built/debug
    static=$programs
else
    target=x86_64-unknown-linux-gnu
    cargo build --profile "$profile" --locked -p microagent --bin microagent
    # As the alias static-build of .cargo/config.toml, which $RUSTFLAGS would override.
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
        cargo build --profile lean --locked --target $target \
        --config "target.$target.rustflags=['-Ctarget-feature=+crt-static']" \
        -p microagent-guest -p microagent-vmm --bin microagent-guest --bin microagent-supervisor
    programs=$built/$profile
    static=$built/$target/lean
fi

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
