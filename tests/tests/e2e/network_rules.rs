//! Rules for what a guest sends (`--egress`), with real clients and servers, on engine `qemu`. Each thing
//! that the rules refuse is also tried by a guest without rules, which reaches it.

use microagent_tests::microagent::{Finished, Host};
use microagent_tests::{built_kernel, or_skip, root_or_skip, tool};

use crate::network::namespaces::{run, tools};

/// The servers: the resolver of the host, and another one; with and without TLS, on all addresses.
const SERVERS: &str = r#"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=names.test -days 2 \
    -keyout key.pem -out cert.pem 2>/dev/null
for address in 198.51.100.3 198.51.100.4 198.51.100.9; do peer ip addr add $address/24 dev v1; done
peer ip -6 addr add 2001:db8::9/64 dev v1 nodad
peer python3 tls_server.py &
resolver() { peer dnsmasq --keep-in-foreground --no-resolv --no-hosts --user=root --bind-interfaces --pid-file= "$@" & }
resolver --listen-address=198.51.100.1 --host-record=good.names.test,198.51.100.1 \
    --host-record=sibling.names.test,198.51.100.1 --host-record=target.names.test,198.51.100.4 \
    --cname=alias.names.test,middle.names.test --cname=middle.names.test,target.names.test \
    --cname=through.names.test,denied.names.test --host-record=denied.names.test,198.51.100.4 \
    --host-record=inside.names.test,10.9.8.7 --host-record=short.names.test,198.51.100.3,1
resolver --listen-address=198.51.100.9,2001:db8::9 --address=/tunnel.test/198.51.100.9
listens 443; listens 853; listens 8000
# Of the resolvers three addresses, each with UDP and TCP.
until [ $(peer busybox netstat -lntu | grep -c ':53 ') = 6 ]; do :; done
guest() {
    microagent --quiet create "$@" --image "$IMAGE" >/dev/null
    microagent --quiet start $1 >/dev/null
    for file in reach.sh dns.py hello.py lifetime.py; do microagent cp $file $1:/; done
}
# Each refusal once: reason, protocol, address, port, name, as far as they are known.
refused() { microagent --json $1 $2 | python3 refused.py; }
"#;

fn run_with_servers(host: &Host, image: &str, script: &str) -> Finished {
    for (name, text) in [
        ("tls_server.py", include_str!("network/tls_server.py")),
        ("reach.sh", include_str!("network/reach.sh")),
        ("dns.py", include_str!("network/dns.py")),
        ("hello.py", include_str!("network/hello.py")),
        ("lifetime.py", include_str!("network/lifetime.py")),
        ("refused.py", include_str!("network/refused.py")),
    ] {
        std::fs::write(host.path(name), text).unwrap();
    }
    run(host, image, &format!("{SERVERS}{script}"))
}

#[test]
fn what_rules_refuse_is_not_reached_and_is_listed() {
    root_or_skip!();
    or_skip!(tools());
    or_skip!(tool::find("openssl"));
    or_skip!(tool::find("nft"));
    let (host, image) = or_skip!(built_kernel::host_with_clients());
    let script = r#"
guest open
microagent exec open sh /reach.sh
echo
microagent --quiet delete --force open >/dev/null

# Nothing of it arrives at the servers.
peer nft -f - <<'NFT'
table inet seen {
    chain input {
        type filter hook input priority 0
        ip daddr 198.51.100.9 counter
        ip6 daddr 2001:db8::9 counter
        tcp dport 853 counter
    }
}
NFT
guest closed --egress deny=denied.names.test --egress allow=good.names.test --egress allow=alias.names.test \
    --egress allow=through.names.test --egress allow=inside.names.test
microagent exec closed sh /reach.sh
peer nft list table inet seen | grep -c 'counter packets 0 bytes 0'
refused status closed
microagent --quiet delete --force closed >/dev/null
"#;
    let finished = run_with_servers(&host, &image, script).expect_code(0);
    assert_eq!(
        finished.text(),
        "good.names.test\nNone\nalias.names.test\nthrough.names.test\n0 1\n\
         address\naddress-6\ndns-over-tls\ndns-tcp\ndns-udp\ndns-udp-6\nicmp\nicmp-6\n\
         sibling\nsibling-by-name\ntls\n\n\
         good.names.test\nNone\nalias.names.test\nnone: https://through.names.test/\n0 0\n\
         3\n\
         dns tcp 198.51.100.9 53\ndns udp 198.51.100.9 53\ndns udp 2001:db8::9 53\n\
         dnsAddress dns 10.9.8.7 inside.names.test\n\
         dnsName dns denied.names.test\ndnsName dns sibling.names.test\n\
         dnsName dns sibling.names.test.names.test\ndnsName dns through.names.test.names.test\n\
         encryptedDns tcp 198.51.100.1 853\n\
         noRule icmp 198.51.100.9\nnoRule icmp 2001:db8::9\n\
         noRule tcp 198.51.100.9 443\nnoRule tcp 198.51.100.9 8000\nnoRule tcp 2001:db8::9 8000\n\
         serverName tcp 198.51.100.1 443 sibling.names.test\n",
        "{}",
        finished.errors()
    );
}

#[test]
fn held_connections_and_an_answer_that_ends() {
    root_or_skip!();
    or_skip!(tools());
    or_skip!(tool::find("openssl"));
    let (host, image) = or_skip!(built_kernel::host_with_clients());
    let script = r#"
guest closed --egress allow=good.names.test --egress allow=short.names.test:8000
microagent exec closed python3 /lifetime.py >lifetime & outliving=$!
microagent exec closed python3 /hello.py
wait $outliving
cat lifetime
# How often the guest sends data of a refused connection again depends on its clock.
refused stats closed | grep -v ^noConnection
microagent --quiet delete --force closed >/dev/null
"#;
    let finished = run_with_servers(&host, &image, script).expect_code(0);
    assert_eq!(
        finished.text(),
        "in_pieces intact\nin_late_pieces refused\nsegmented intact\nplain intact\nat_once intact\ntoo_long refused\n\
         other_name refused\n\
         no new connection\nthe download: 8000000\nanother answer: True\n\
         clientHello tcp 198.51.100.1 443 good.names.test\n\
         noRule tcp 198.51.100.3 8000\n\
         serverName tcp 198.51.100.1 443 other.names.test\n",
        "{}",
        finished.errors()
    );
}
