//! Mode `nat`: what reaches whom.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddrV6, TcpListener, TcpStream};
use std::thread;

use ipnet::{IpNet, Ipv4Net};
use microagent_tests::root_or_skip;
use microagent_vmm::virtio::net::Tap;
use microagent_workspace::network::tap::{Link, nat};
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};

use crate::lab::{
    HOST, WORLD, WORLD_V6, forward, guest, guest_of, is_alone, namespace, receive, run, set, shown,
    socket, within, world,
};

const BYTES: usize = 8 << 20;

fn addresses(link: &Link) -> (IpAddr, IpAddr) {
    let subnet = link.subnet().unwrap();
    let v6 = subnet.guest_v6().unwrap().addr();
    (subnet.guest().addr().into(), v6.into())
}

/// Sends [`BYTES`] through a connection from a guest to the world and back, and returns whose address
/// the world sees.
fn transfer(guest: &str, world: IpAddr) -> IpAddr {
    let server = within("world", || TcpListener::bind((world, 80))).unwrap();
    let to = server.local_addr().unwrap();
    thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let (mut stream, from) = server.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(&received).unwrap();
            from.ip()
        });
        let mut stream = within(guest, || TcpStream::connect(to)).unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == sent);
        echo.join().unwrap()
    })
}

#[test]
fn a_guest_reaches_the_world_under_the_hosts_address_and_other_guests_under_its_own() {
    root_or_skip!();
    if !is_alone(
        "nat::a_guest_reaches_the_world_under_the_hosts_address_and_other_guests_under_its_own",
    ) {
        return;
    }
    world(1400);
    forward(true, true);
    let links = ["one", "two"].map(|name| nat::open(name).unwrap());
    for (name, link) in ["one", "two"].iter().zip(&links) {
        guest_of(name, link);
        assert_eq!(link.mtu(), 1400);
    }
    assert_eq!(transfer("one", WORLD.into()), IpAddr::from(HOST));
    let host_v6: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(transfer("one", WORLD_V6.parse().unwrap()), host_v6);

    // Between guests, and between the host and a guest.
    let (one, two) = (addresses(&links[0]), addresses(&links[1]));
    for (one, two) in [(one.0, two.0), (one.1, two.1)] {
        let (to, from) = (socket("two", (two, 9)), socket("one", (one, 0)));
        from.send_to(b"neighbour", (two, 9)).unwrap();
        assert_eq!(
            receive(&to),
            ("neighbour".into(), from.local_addr().unwrap())
        );
        let host = std::net::UdpSocket::bind((IpAddr::from([0; 4]), 0)).unwrap();
        if two.is_ipv4() {
            host.send_to(b"host", (two, 9)).unwrap();
            let gateway = links[1].subnet().unwrap().host().addr();
            assert_eq!(receive(&to).1.ip(), IpAddr::from(gateway));
        }
    }

    // What nobody asked for does not get in, though the world knows the way: of two datagrams on the
    // same path only the second, an answer, arrives.
    run("ip -n world route add 10.213.0.0/16 via 203.0.113.1
        ip -n world -6 route add fdc4:f09:ce4f::/48 via 2001:db8::1");
    let world_v6: IpAddr = WORLD_V6.parse().unwrap();
    for (one, world) in [(one.0, IpAddr::from(WORLD)), (one.1, world_v6)] {
        let asks = socket("one", (one, 9));
        let answers = socket("world", (world, 9));
        socket("world", (world, 10))
            .send_to(b"unasked", (one, 9))
            .unwrap();
        asks.send_to(b"question", (world, 9)).unwrap();
        let (question, from) = receive(&answers);
        assert_eq!(question, "question");
        answers.send_to(b"answer", from).unwrap();
        assert_eq!(receive(&asks), ("answer".into(), (world, 9).into()));
    }
}

#[test]
fn a_guest_cannot_use_the_addresses_of_others() {
    root_or_skip!();
    if !is_alone("nat::a_guest_cannot_use_the_addresses_of_others") {
        return;
    }
    world(1500);
    forward(true, true);
    let link = nat::open("one").unwrap();
    guest_of("one", &link);
    run("ip -n one addr add 198.51.100.7/32 dev eth0
        ip -n one -6 addr add 2001:db8:7::7/128 dev eth0 nodad");
    let (v4, v6) = addresses(&link);
    let world_v6: IpAddr = WORLD_V6.parse().unwrap();
    let gateway = link.subnet().unwrap().host().addr();
    let gateway_v6 = link.subnet().unwrap().host_v6().unwrap().addr();
    // To the world, and to the host itself.
    for (false_one, true_one, to) in [
        ("198.51.100.7", v4, WORLD.into()),
        ("2001:db8:7::7", v6, world_v6),
        ("198.51.100.7", v4, gateway.into()),
        ("2001:db8:7::7", v6, gateway_v6.into()),
    ] {
        let receiver = if to == IpAddr::from(WORLD) || to == world_v6 {
            socket("world", (to, 9))
        } else {
            std::net::UdpSocket::bind((to, 9)).unwrap()
        };
        let false_one: IpAddr = false_one.parse().unwrap();
        socket("one", (false_one, 0))
            .send_to(b"false", (to, 9))
            .unwrap();
        socket("one", (true_one, 0))
            .send_to(b"true", (to, 9))
            .unwrap();
        assert_eq!(receive(&receiver).0, "true", "{to}");
    }
}

/// Sends a router advertisement from a guest to all nodes (RFC 4861 section 4.2).
fn advertise(name: &str) {
    let index = run(&format!(
        "ip netns exec {name} cat /sys/class/net/eth0/ifindex"
    ));
    let all_nodes = "ff02::1".parse::<Ipv6Addr>().unwrap();
    let to = SocketAddrV6::new(all_nodes, 0, 0, index.trim().parse().unwrap());
    within(name, || {
        let protocol = Some(ipproto::ICMPV6);
        let socket = rustix::net::socket(AddressFamily::INET6, SocketType::RAW, protocol).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let mut message = [0; 16];
        // The type, and a lifetime of 1800 s.
        message[0] = 134;
        message[6..8].copy_from_slice(&1800_u16.to_be_bytes());
        let flags = rustix::net::SendFlags::empty();
        rustix::net::sendto(&socket, &message, flags, &to).unwrap();
    });
}

#[test]
fn a_guest_cannot_become_the_router_of_its_host() {
    root_or_skip!();
    if !is_alone("nat::a_guest_cannot_become_the_router_of_its_host") {
        return;
    }
    world(1500);
    let routes = || run("ip -6 route show default");
    // A host that forwards IPv6 takes no advice on routes, unless told to (2).
    for (ipv6, accept) in [(false, "1"), (true, "2")] {
        forward(true, ipv6);
        set("ipv6/conf/default/accept_ra", accept);
        let name = format!("guest-{accept}");
        let link = nat::open(&name).unwrap();
        assert_eq!(link.subnet().unwrap().guest_v6().is_some(), ipv6);
        guest_of(&name, &link);
        let gateway = link.subnet().unwrap().host().addr();
        advertise(&name);
        // It arrived, since this did, which is behind it.
        let host = std::net::UdpSocket::bind((gateway, 9)).unwrap();
        let guest = link.subnet().unwrap().guest().addr();
        socket(&name, (guest, 0))
            .send_to(b"later", (gateway, 9))
            .unwrap();
        assert_eq!(receive(&host).0, "later");
        assert_eq!(routes(), "");
    }
    // An interface without our rules, which shows that this test could fail.
    let (tap, interface) = Tap::create("bare%d").unwrap();
    run(&format!(
        "ip link set {interface} up && ip addr add 192.0.2.1/24 dev {interface}"
    ));
    let address: IpNet = "192.0.2.2/24".parse().unwrap();
    guest("bare", &tap, &[address], &[]);
    advertise("bare");
    let host = std::net::UdpSocket::bind("192.0.2.1:9").unwrap();
    socket("bare", (address.addr(), 0))
        .send_to(b"later", "192.0.2.1:9")
        .unwrap();
    assert_eq!(receive(&host).0, "later");
    assert!(routes().contains(&interface), "{}", routes());
}

#[test]
fn addresses_are_not_those_that_the_host_reaches() {
    root_or_skip!();
    if !is_alone("nat::addresses_are_not_those_that_the_host_reaches") {
        return;
    }
    forward(true, true);
    let guest = || {
        let link = nat::open("research").unwrap();
        let guest = link.subnet().unwrap().guest();
        (guest, link.subnet().unwrap().guest_v6().is_some())
    };
    let first = guest();
    assert!(first.1);
    // The same again, since it is free again.
    assert_eq!(guest(), first);
    assert_eq!(nat::open("research").unwrap().mtu(), 1500);

    namespace("other");
    run("ip link add out type veth peer name out netns other && ip link set out up");
    let in_range = |range: &str| {
        range
            .parse::<Ipv4Net>()
            .unwrap()
            .contains(&guest().0.addr())
    };
    run(&format!("ip addr add {} dev out", first.0));
    assert_ne!(guest().0, first.0);
    assert!(in_range("10.213.0.0/16"));
    run(&format!("ip addr del {} dev out", first.0));
    // In whatever table.
    run(&format!("ip route add {} dev out table 7", first.0.trunc()));
    assert_ne!(guest().0, first.0);
    // Nobody is reached by these.
    run("ip route flush table 7 && ip route add blackhole 10.0.0.0/8
        ip route add 0.0.0.0/1 dev out && ip route add default dev out");
    assert_eq!(guest(), first);
    run("ip -6 route add fd00::/8 dev out && ip route replace 10.0.0.0/8 dev out");
    assert!(in_range("172.30.0.0/16"));
    assert!(!guest().1);
    run("ip route add 172.16.0.0/12 dev out");
    assert!(in_range("192.168.208.0/20"));
    run("ip route add 192.168.0.0/16 dev out");
    assert!(in_range("198.18.0.0/16"));
    run("ip route add 198.18.0.0/15 dev out");
    assert_eq!(
        shown(&nat::open("research").unwrap_err()),
        "Conflict: no addresses left for network mode nat: the host uses, or has routes to, all of \
         10.213.0.0/16, 172.30.0.0/16, 192.168.208.0/20, 198.18.0.0/16 | end other VMs or remove a \
         route to one of the ranges, or use --network user"
    );
    run("ip route del 172.16.0.0/12");
    assert!(in_range("172.30.0.0/16"));
}

#[test]
fn a_firewall_in_the_way_is_named_and_the_remediation_works() {
    root_or_skip!();
    if !is_alone("nat::a_firewall_in_the_way_is_named_and_the_remediation_works") {
        return;
    }
    world(1500);
    forward(true, false);
    // Chains that are none: other hooks, other policies, other families.
    run(
        "nft 'table ip a { chain b { type filter hook input priority 0; policy drop; }; }
              table ip a { chain c { type filter hook forward priority 0; policy accept; }; }
              table ip6 a { chain d { type filter hook forward priority 0; policy drop; }; }'
        nft 'add rule ip a b iifname lo accept'",
    );
    assert_eq!(nat::open("one").unwrap().obstacle(), None);
    // As Docker makes them.
    run("nft 'table ip filter {
            chain DOCKER-USER { return; }
            chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
        }'");
    let link = nat::open("one").unwrap();
    let obstacle = link.obstacle().unwrap();
    assert_eq!(
        obstacle.to_string(),
        "a firewall of this host drops what is forwarded, unless a rule accepts it: chain FORWARD of \
         table ip filter"
    );
    guest_of("one", &link);
    let server = socket("world", (WORLD, 9));
    let client = socket("one", (link.subnet().unwrap().guest().addr(), 0));
    client.send_to(b"before", (WORLD, 9)).unwrap();
    run(obstacle
        .remediation()
        .strip_prefix("let VMs pass: ")
        .unwrap());
    client.send_to(b"after", (WORLD, 9)).unwrap();
    let (text, from) = receive(&server);
    assert_eq!(text, "after");
    server.send_to(b"answer", from).unwrap();
    assert_eq!(receive(&client).0, "answer");
    assert_eq!(nat::open("two").unwrap().obstacle(), None);
}
