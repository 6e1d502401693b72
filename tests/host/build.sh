#!/bin/sh
# Builds the programs and installs them into one directory.
#
#   build.sh DIRECTORY [PROFILE]      PROFILE is release (default) or dev
#
# In a release build the static programs use a separate profile (Cargo.toml).
# With dev, the test programs are built as well, and cargo's list of them is
# written to DIRECTORY/tests.json.
#
# The guest agent is static because the guest has no libraries; the supervisor,
# because it starts faster and needs fewer permissions without a dynamic loader.
# The command line is dynamic, because it uses the host's name resolution.
set -eu
cd "$(dirname "$0")/../.."
out=$1
profile=${2:-release}

set=$(tests/host/toolchain.sh) && eval "$set"
tests/host/install.sh build

mkdir -p "$out"
built=${CARGO_TARGET_DIR:-target}
if [ "$profile" = dev ]; then
    # In one command: another selection of packages selects other features, so that nothing would be
    # shared between programs and tests. rustc.sh links the static programs.
    RUSTC_WORKSPACE_WRAPPER=$PWD/tests/host/rustc.sh CARGO_INCREMENTAL=0 \
        cargo build --locked --workspace --bins --tests \
        --message-format json-render-diagnostics >"$out/tests.json"
    programs=$built/debug
    static=$programs
else
    target=x86_64-unknown-linux-gnu
    cargo build --profile "$profile" --locked -p microagent --bin microagent
    # Like the alias static-build in .cargo/config.toml, which $RUSTFLAGS would override.
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
        cargo build --profile lean --locked --target $target \
        --config "target.$target.rustflags=['-Ctarget-feature=+crt-static']" \
        -p microagent-guest -p microagent-vmm --bin microagent-guest --bin microagent-supervisor
    programs=$built/$profile
    static=$built/$target/lean
fi

for program in "$programs/microagent" \
               "$static/microagent-supervisor" \
               "$static/microagent-guest"; do
    name=${program##*/}
    # Replaced by rename, so that running programs keep their file. Stripped, because the agent is
    # copied into the memory of every VM.
    install -s -m 755 "$program" "$out/.$name.new"
    mv -f "$out/.$name.new" "$out/$name"
done
