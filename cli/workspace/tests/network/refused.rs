//! What cannot be done is refused with one line and the way out, which is taken, and nothing is made.

use microagent_tests::root_or_skip;
use microagent_workspace::network::tap::{InterfaceError, Link, bridge, nat};

use crate::lab::{forward, is_alone, keepers, run, shown};

/// The interfaces and tables that there are.
fn made() -> String {
    run("ip -o link show | cut -d: -f2; nft list tables")
}

/// Follows an error: runs the command that it has after `before` and up to `; or`.
fn follow(error: &InterfaceError, before: &str) -> String {
    let text = error.remediation().unwrap();
    let command = text.strip_prefix(before).unwrap();
    run(command.split("; or").next().unwrap())
}

fn refused(opened: Result<Link, InterfaceError>, expected: &str) -> InterfaceError {
    let error = opened.unwrap_err();
    assert_eq!(shown(&error), expected);
    error
}

#[test]
fn a_host_that_does_not_forward() {
    root_or_skip!();
    if !is_alone("refused::a_host_that_does_not_forward") {
        return;
    }
    forward(false, true);
    let before = made();
    let error = refused(
        nat::open("one"),
        "Host: network mode nat needs IPv4 forwarding, which is off on this host | switch it on: \
         sysctl -w net.ipv4.ip_forward=1; or use --network user",
    );
    assert_eq!(made(), before);
    follow(&error, "switch it on: ");
    nat::open("one").unwrap();
}

#[test]
fn what_is_no_bridge() {
    root_or_skip!();
    if !is_alone("refused::what_is_no_bridge") {
        return;
    }
    run("ip link add br0 type bridge && ip link add veth0 type veth peer name veth1");
    let before = made();
    let list = "list the bridges with: ip link show type bridge";
    for (interface, expected) in [
        ("br7", "NotFound: network interface \"br7\" does not exist"),
        (
            "veth0",
            "Usage: network interface \"veth0\" is not a bridge",
        ),
        ("lo", "Usage: network interface \"lo\" is not a bridge"),
        (
            "a-bridge-of-ours",
            "Usage: \"a-bridge-of-ours\" is not the name of a network interface: it has 1 to 15 \
             bytes",
        ),
        (
            "",
            "Usage: \"\" is not the name of a network interface: it has 1 to 15 bytes",
        ),
        (
            "b\0",
            "Usage: \"b\\0\" is not the name of a network interface: it has 1 to 15 bytes",
        ),
    ] {
        let error = refused(bridge::open(interface), &format!("{expected} | {list}"));
        let listed = follow(&error, "list the bridges with: ");
        assert!(
            listed.contains(" br0: ") && !listed.contains("veth"),
            "{listed}"
        );
    }
    let expected = "Host: bridge \"br0\" is down | start it: ip link set br0 up";
    let error = refused(bridge::open("br0"), expected);
    assert_eq!(made(), before);
    follow(&error, "start it: ");
    bridge::open("br0").unwrap();
}

#[test]
fn a_process_without_the_capability() {
    const TEST: &str = "refused::a_process_without_the_capability";
    root_or_skip!();
    if !is_alone(TEST) {
        return;
    }
    forward(true, true);
    run("ip link add br0 type bridge && ip link set br0 up");
    let before = made();
    let without = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    let what = ["one", "bridge br0"];
    for keeper in keepers(TEST, &without, &what) {
        assert_eq!(
            keeper.said,
            "Permission: no permission to create a network interface | run it as root or with \
             CAP_NET_ADMIN, or use --network user"
        );
    }
    assert_eq!(made(), before);
    for keeper in keepers(TEST, &[], &what) {
        assert!(!keeper.said.contains('|'), "{}", keeper.said);
    }
}

#[test]
fn a_kernel_without_tap_interfaces() {
    root_or_skip!();
    if !is_alone("refused::a_kernel_without_tap_interfaces") {
        return;
    }
    forward(true, true);
    run("ip link add br0 type bridge && ip link set br0 up && mount -t tmpfs none /dev/net");
    let before = made();
    let expected = "Host: cannot open /dev/net/tun: No such file or directory (os error 2) | load \
                    its module: modprobe tun; or use --network user";
    refused(nat::open("one"), expected);
    refused(bridge::open("br0"), expected);
    assert_eq!(made(), before);
}
