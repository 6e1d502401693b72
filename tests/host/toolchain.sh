#!/bin/sh
# Prints shell assignments that select a toolchain which can build this
# workspace, or fails with one line that names what is missing.
#
#   set=$(toolchain.sh [COMPONENT...]) && eval "$set"     components: clippy, rustfmt
#
# Under sudo, PATH and HOME are those of root, so the toolchain of the calling
# user is considered as well.
set -eu

die() { printf '%s\n' "microagent: $*" >&2; exit 1; }
root=$(cd "$(dirname "$0")/../.." && pwd)
wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$root/Cargo.toml")
get="install one from https://rustup.rs"

candidates=$(command -v cargo 2>/dev/null || true)
candidates="$candidates ${CARGO_HOME:-$HOME/.cargo}/bin/cargo"
if [ -n "${SUDO_USER:-}" ]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    candidates="$candidates $home/.cargo/bin/cargo"
fi
candidates="$candidates /usr/local/cargo/bin/cargo"

cargo=
for candidate in $candidates; do
    if [ -x "$candidate" ]; then cargo=$candidate; break; fi
done
[ -n "$cargo" ] || die "no Rust toolchain found; version $wanted or newer is required: $get"
bin=$(dirname "$cargo")

# rustup in another user's home directory needs RUSTUP_HOME to find its toolchains.
case $bin in
    */.cargo/bin)
        home=${bin%/.cargo/bin}
        if [ "$home" != "$HOME" ] && [ -z "${RUSTUP_HOME:-}" ]; then
            RUSTUP_HOME=$home/.rustup
            export RUSTUP_HOME
            printf 'export RUSTUP_HOME=%s\n' "'$RUSTUP_HOME'"
        fi ;;
esac

found=$("$bin/rustc" --version 2>/dev/null | cut -d' ' -f2) || found=
[ -n "$found" ] || die "$bin/rustc does not run; $get"
oldest=$(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n1)
[ "$oldest" = "$wanted" ] ||
    die "Rust $found is too old; version $wanted or newer is required: rustup update stable, or $get"

for component; do
    case $component in
        clippy) "$bin/cargo" clippy --version >/dev/null 2>&1 ||
            die "cargo clippy is missing: rustup component add clippy" ;;
        rustfmt) "$bin/cargo" fmt --version >/dev/null 2>&1 ||
            die "cargo fmt is missing: rustup component add rustfmt" ;;
        *) die "toolchain.sh: no such component: $component" ;;
    esac
done
printf 'export PATH=%s:"$PATH"\n' "'$bin'"
