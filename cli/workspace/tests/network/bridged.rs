//! Mode `bridged`: guests and the host in one network.

use std::net::IpAddr;

use ipnet::IpNet;
use microagent_tests::root_or_skip;
use microagent_workspace::network::tap::bridge;

use crate::lab::{guest, is_alone, keepers, receive, run, socket};

#[test]
fn guests_and_the_host_talk_on_a_bridge_that_stays_as_it_was() {
    const TEST: &str = "bridged::guests_and_the_host_talk_on_a_bridge_that_stays_as_it_was";
    root_or_skip!();
    if !is_alone(TEST) {
        return;
    }
    // One port with the highest address that hardware can have: the bridge takes it.
    run("ip link add br0 type bridge
        ip link add port mtu 1400 address fc:ff:ff:ff:ff:ff type veth peer name peer
        ip link set port master br0 && ip link set port up && ip link set peer up
        ip addr add 10.77.0.1/24 dev br0 && ip link set br0 up");
    let bridge = || run("ip -o link show br0 | grep -o 'mtu [0-9]*\\|ether [0-9a-f:]*'");
    let before = bridge();
    assert_eq!(before, "mtu 1400\nether fc:ff:ff:ff:ff:ff\n");
    let links = ["one", "two"].map(|_| bridge::open("br0").unwrap());
    assert_eq!(bridge(), before);
    for (index, link) in links.iter().enumerate() {
        assert_eq!((link.mtu(), link.subnet()), (1400, None));
        let address: IpNet = format!("10.77.0.{}/24", index + 2).parse().unwrap();
        guest(["one", "two"][index], link.tap(), &[address], &[]);
        // The host has no address on a port.
        assert_eq!(run(&format!("ip -o addr show dev {}", link.name())), "");
    }
    let address = |last| IpAddr::from([10, 77, 0, last]);
    let host = std::net::UdpSocket::bind((address(1), 9)).unwrap();
    let (one, two) = (
        socket("one", (address(2), 9)),
        socket("two", (address(3), 9)),
    );
    one.send_to(b"neighbour", (address(3), 9)).unwrap();
    assert_eq!(receive(&two), ("neighbour".into(), (address(2), 9).into()));
    one.send_to(b"host", (address(1), 9)).unwrap();
    assert_eq!(receive(&host), ("host".into(), (address(2), 9).into()));
    host.send_to(b"guest", (address(3), 9)).unwrap();
    assert_eq!(receive(&two), ("guest".into(), (address(1), 9).into()));

    let ports = || run("ip -o link show master br0 | wc -l");
    let mut keepers = keepers(TEST, &[], &["bridge br0"; 3]);
    assert_eq!(ports().trim(), "6");
    for keeper in &mut keepers {
        assert_eq!(keeper.said, "");
        keeper.child.kill().unwrap();
        keeper.child.wait().unwrap();
    }
    assert_eq!(ports().trim(), "3");
}

#[test]
fn a_bridge_of_vms_keeps_its_address_when_one_of_them_ends() {
    root_or_skip!();
    if !is_alone("bridged::a_bridge_of_vms_keeps_its_address_when_one_of_them_ends") {
        return;
    }
    run("ip link add br0 type bridge && ip link set br0 up");
    let address = || run("ip -o link show br0 | grep -o 'ether [0-9a-f:]*'");
    let first = bridge::open("br0").unwrap();
    let before = address();
    let second = bridge::open("br0").unwrap();
    assert_eq!(address(), before);
    drop(first);
    assert_eq!(address(), before);
    let third = bridge::open("br0").unwrap();
    drop(second);
    assert_eq!(address(), before);
    drop(third);
    // Linux takes it away with the last port.
    let _fourth = bridge::open("br0").unwrap();
    assert_eq!(address(), before);
}
