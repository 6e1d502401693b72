//! Two network namespaces for shell scripts: that of microagent, which stands for a host, and that of
//! its peers, servers that know nothing of guests. Nothing leaves the machine.
//!
//! ```text
//!  guests … v0 198.51.100.2 ─┬─ v1 198.51.100.1  servers
//!           2001:db8::2      │     2001:db8::1
//!  namespace of microagent   │  namespace of the peers
//! ```

/// Makes the namespaces; what follows is executed in that of microagent. `peer COMMAND` runs a command
/// in the other one, and `listens PORT` waits until a server there does. The host's server of names is
/// the peers' address.
pub const NAMESPACES: &str = r#"
set -e
ip link set lo up
# As systemd sets it on the host: passt sends pings without privileges.
echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
unshare --net sleep infinity & PEERS=$!
peer() { nsenter --target "$PEERS" --net "$@"; }
until [ "$(readlink /proc/$PEERS/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
ip link add v0 type veth peer name v1
ip link set v1 netns "$PEERS"
ip addr add 198.51.100.2/24 dev v0
ip -6 addr add 2001:db8::2/64 dev v0 nodad
ip link set v0 up
ip route add default via 198.51.100.1
ip -6 route add default via 2001:db8::1
peer ip link set lo up
peer ip addr add 198.51.100.1/24 dev v1
peer ip -6 addr add 2001:db8::1/64 dev v1 nodad
peer ip link set v1 up
echo 'nameserver 198.51.100.1' >resolv.conf
echo 'search names.test' >>resolv.conf
mount --bind resolv.conf /etc/resolv.conf
listens() { until peer busybox netstat -lntu | grep -q "[:.]$1 "; do :; done; }
"#;
