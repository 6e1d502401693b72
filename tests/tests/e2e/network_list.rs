//! What guests and hosts see of each network mode: shell scripts that depend on no engine. Nothing
//! leaves the machine.
//!
//! ```text
//!  guest ── mavm… ─┐
//!  guest ── mavm… ─┤ forwards ─ v0 198.51.100.2 ──┬─ v1 198.51.100.1  httpd, dnsmasq
//!  guest ── mabr… ─┤                2001:db8::2   │      2001:db8::1
//!  guest ── mabr… ─┴ br0 10.77.0.1, dnsmasq       │
//!     namespace of microagent, the host           │  namespace of the peers
//! ```

/// The programs of the scripts. Some are in busybox too, with fewer options.
pub const PROGRAMS: &[&str] = &[
    "passt", "ip", "nft", "unshare", "nsenter", "setpriv", "dnsmasq", "busybox", "curl",
];

/// Precedes each script, in [the namespaces](microagent_tests::namespaces), of which the first is a
/// host that forwards.
pub const FORWARDING: &str = r#"
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
mkdir -p www/cgi-bin
echo answer >www/short
cat >www/cgi-bin/who <<'END'
#!/bin/sh
address=${REMOTE_ADDR#'['}; address=${address%']'}
printf 'Content-Type: text/plain\r\n\r\n%s\n' "${address#::ffff:}"
END
chmod 755 www/cgi-bin/who
serve() {
    peer busybox httpd -p 8000 -h www
    peer busybox httpd -p 8001 -h www
    peer dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file --user=root --no-resolv --no-hosts \
        --listen-address=198.51.100.1 --bind-interfaces --address=/server.names.test/198.51.100.1 \
        --address=/other.names.test/198.51.100.1 &
    listens 8000; listens 8001; listens 53
}
bridge() {
    ip link add br0 type bridge
    ip addr add 10.77.0.1/24 dev br0
    ip link set br0 up
}
# Each once: the variant of passt for some processors has two names.
pids() { pidof "$@" | tr ' ' '\n' | sort -u; }
# What belongs to VMs: interfaces, tables, processes.
ours() {
    ip -o link | grep -o ' ma[bv][mr][0-9]*' || true
    nft list tables | grep microagent || true
    pidof microagent microagent-supervisor qemu-system-x86_64 passt passt.avx2 || true
}
none_is_left() { until [ -z "$(ours)" ]; do :; done; }
create() { name=$1; shift; microagent --quiet create "$name" --image "$IMAGE" --memory 128 "$@" >/dev/null; }
start() { microagent --quiet start "$1" >/dev/null; }
delete() { microagent --quiet delete --force "$@" >/dev/null; }
"#;

/// Defines the cases, and for each a test that passes it to `$check`.
macro_rules! network_list {
    ($check:path) => {
        $crate::run_list::define! { $check;
            user_guests_reach_the_world_by_address_and_by_name_and_are_reached_by_published_ports {
                script: r#"serve
                    create web --network user --publish 8080:80 --egress allow=server.names.test:8000 \
                        --entrypoint 'mkdir /www; hostname >/www/name; exec busybox httpd -f -p 127.0.0.1:80 -h /www'
                    start web
                    microagent exec web sh -c '
                        wget -q -O - http://server:8000/short
                        wget -q -O - http://server.names.test:8000/cgi-bin/who
                        timeout 3 wget -q -O - http://198.51.100.1:8001/short || echo refused
                        timeout 3 wget -q -O - http://other:8000/short || echo refused
                        ping -c 1 -W 5 $(hostname) | grep -c "bytes from"; hostname'
                    until curl -s http://127.0.0.1:8080/name; do :; done
                    delete web
                    microagent run --network user "$IMAGE" sh -c '
                        wget -q -O - "http://[2001:db8::1]:8000/cgi-bin/who"
                        ping -c 1 -W 5 198.51.100.1 | grep -c "bytes from"'
                    none_is_left"#,
                seconds: 120,
                code: 0,
                stdout: "answer\n198.51.100.2\nrefused\nrefused\n1\nweb\nweb\n2001:db8::2\n1\n",
            }
            every_byte_arrives_whatever_carries_it {
                script: r#"serve
                    # It speaks first, and ends the connection: docs/network.md has the limits of passt.
                    printf '#!/bin/sh\necho sum; head -c 3000000 | sha256sum\n' >sink; chmod 755 sink
                    peer busybox nc -ll -p 9000 -e ./sink &
                    listens 9000
                    head -c 30000000 /dev/urandom >www/file; sum=$(sha256sum <www/file)
                    start=$(head -c 3000000 www/file | sha256sum)
                    for mode in user nat; do
                        create web --network $mode --publish 8080:80 \
                            --entrypoint 'mkdir /www; exec busybox httpd -f -p 127.0.0.1:80 -h /www'
                        start web
                        microagent exec web sh -c '
                            wget -q -O /www/file http://server:8000/file; sha256sum </www/file
                            wget -q -O - "http://[2001:db8::1]:8000/file" | sha256sum
                            mkfifo /up; exec 3<>/up
                            for address in 198.51.100.1 2001:db8::1; do
                                head -c 3000000 /www/file >/up & nc $address 9000 </up
                            done
                            for _ in $(seq 250); do wget -q -O - http://198.51.100.1:8000/short; done | sort | uniq -c
                            for _ in $(seq 50); do nslookup server.names.test 198.51.100.1 | tail -n +3; done |
                                grep Address | sort | uniq -c
                            for address in 198.51.100.1 2001:db8::1; do
                                ping -c 5 -s 20000 -W 5 $address | grep -c "^20008 bytes from"
                            done' | sed "s/^$sum$/intact/; s/^$start$/intact/; s/^ *//"
                        curl -s http://127.0.0.1:8080/file | sha256sum | sed "s/^$sum$/published/"
                        delete web
                    done
                    none_is_left"#,
                seconds: 300,
                code: 0,
                stdout: "intact\nintact\nsum\nintact\nsum\nintact\n250 answer\n50 Address: 198.51.100.1\n5\n5\npublished\n\
                         intact\nintact\nsum\nintact\nsum\nintact\n250 answer\n50 Address: 198.51.100.1\n5\n5\npublished\n",
            }
            passt_ends_with_whatever_is_killed {
                script: r#"create web --network user
                    for victim in microagent-supervisor microagent 'passt.avx2 passt'; do
                        start web
                        kill -9 $(pids $victim)
                        [ "$victim" != 'passt.avx2 passt' ] || {
                            until microagent events web | grep -q 'up again'; do :; done; microagent --quiet kill web >/dev/null; }
                        none_is_left
                    done
                    mkfifo said
                    for victim in microagent microagent-supervisor; do
                        microagent --quiet run --network user "$IMAGE" sh -c 'echo runs; sleep 1000' >said 2>/dev/null & run=$!
                        read -r line <said; echo $line
                        kill -9 $(pids $victim)
                        code=0; wait $run || code=$?; echo $code
                        none_is_left
                    done
                    delete web"#,
                seconds: 180,
                code: 0,
                stdout: "runs\n137\nruns\n125\n",
            }
            nat_guests_reach_each_other_and_the_world_under_the_hosts_addresses {
                script: r#"serve
                    head -c 3000000 /dev/urandom >www/file
                    settings() {
                        find /proc/sys/net -type f ! -path '*/mavm*' ! -name nf_conntrack_count | sort | xargs grep -sH '' || true
                    }
                    settings >before
                    port=8080
                    for name in one two; do
                        create $name --network nat --publish $port:80 \
                            --entrypoint 'mkdir /www; hostname >/www/name; exec busybox httpd -f -p 80 -h /www'
                        start $name; port=$((port + 1))
                    done
                    v4() { microagent exec $1 ip -4 -o addr show eth0 | sed 's/.*inet \([^/]*\).*/\1/'; }
                    v6() { microagent exec $1 ip -6 -o addr show eth0 scope global | sed 's/.*inet6 \([^/]*\).*/\1/'; }
                    one=$(v4 one); two=$(v4 two); one6=$(v6 one); two6=$(v6 two)
                    # The host reaches them, and by their published ports.
                    for url in $one $two "[$one6]" "[$two6]" 127.0.0.1:8080 127.0.0.1:8081; do
                        until curl -s -g "http://$url/name"; do :; done
                    done
                    try() {
                        microagent exec $1 sh -c "
                            ping -c 2 -W 5 $2 | grep -c 'bytes from'; ping -c 2 -W 5 $3 | grep -c 'bytes from'
                            wget -q -O - http://$2/name; wget -q -O - 'http://[$3]/name'
                            wget -q -O - http://server:8000/file | sha256sum
                            wget -q -O - http://server.names.test:8000/cgi-bin/who
                            wget -q -O - 'http://[2001:db8::1]:8000/cgi-bin/who'
                            ping -c 1 -W 5 198.51.100.1 | grep -c 'bytes from'
                            ping -c 1 -W 5 \$(hostname) | grep -c 'bytes from'"
                    }
                    sum=$(sha256sum <www/file)
                    try one $two $two6 | sed "s/^$sum$/the file/"
                    try two $one $one6 | sed "s/^$sum$/the file/"
                    # Nobody else does, although the way is known.
                    peer ip route add $one via 198.51.100.2
                    peer ip -6 route add $one6 via 2001:db8::2
                    peer curl -s --max-time 2 http://$one/name || echo not reached
                    peer curl -s -g --max-time 2 "http://[$one6]/name" || echo not reached
                    # The same addresses again.
                    microagent --quiet stop one >/dev/null; start one
                    [ "$(v4 one) $(v6 one)" = "$one $one6" ] && echo same
                    settings | diff before -
                    delete one two
                    none_is_left
                    settings | diff before -"#,
                seconds: 240,
                code: 0,
                stdout: "one\ntwo\none\ntwo\none\ntwo\n\
                         2\n2\ntwo\ntwo\nthe file\n198.51.100.2\n2001:db8::2\n1\n1\n\
                         2\n2\none\none\nthe file\n198.51.100.2\n2001:db8::2\n1\n1\n\
                         not reached\nnot reached\nsame\n",
            }
            nat_leaves_nothing_when_its_processes_are_killed {
                script: r#"create one --network nat
                    for victim in microagent microagent-supervisor; do
                        start one
                        ip -o link | grep -c ' mavm'; nft list tables | grep -c microagent
                        kill -9 $(pids $victim)
                        none_is_left
                    done
                    delete one
                    mkfifo said
                    for victim in microagent microagent-supervisor; do
                        microagent --quiet run --network nat "$IMAGE" sh -c 'echo runs; sleep 1000' >said 2>/dev/null & run=$!
                        read -r line <said; echo $line
                        kill -9 $(pids $victim)
                        code=0; wait $run || code=$?; echo $code
                        none_is_left
                    done"#,
                seconds: 180,
                code: 0,
                stdout: "1\n1\n1\n1\nruns\n137\nruns\n125\n",
            }
            rules_hold_in_mode_nat {
                script: r#"serve
                    create other --network nat --entrypoint 'mkdir /www; echo answer >/www/short; exec busybox httpd -f -p 80 -h /www'
                    start other
                    address=$(microagent exec other ip -4 -o addr show eth0 | sed 's/.*inet \([^/]*\).*/\1/')
                    until curl -s -o /dev/null http://$address/short; do :; done
                    create web --network nat --egress allow=server.names.test:8000 --egress "allow=$address"
                    start web
                    microagent exec web sh -c "
                        get() { timeout 3 wget -q -O - \$1 || echo refused; }
                        get http://198.51.100.1:8000/short
                        get http://server.names.test:8000/short
                        get http://server.names.test:8001/short
                        get http://other.names.test:8000/short
                        get http://$address/short
                        get 'http://[2001:db8::1]:8000/short'
                        ping -c 1 -W 2 198.51.100.1 | grep -c 'bytes from'; exit 0"
                    microagent --json stats web | tr -d ' \n' | grep -c '"address":"198.51.100.1"'
                    delete web other
                    none_is_left"#,
                seconds: 150,
                code: 0,
                stdout: "refused\nanswer\nrefused\nrefused\nanswer\nrefused\n0\n1\n",
            }
            bridged_guests_are_in_the_network_of_the_bridge {
                script: r#"serve
                    bridge
                    dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file --user=root --port=0 --interface=br0 \
                        --bind-interfaces --dhcp-authoritative --no-ping --dhcp-range=10.77.0.100,10.77.0.199 \
                        --dhcp-leasefile=leases 2>/dev/null &
                    until busybox netstat -lnu | grep -q ':67 '; do :; done
                    busybox httpd -p 10.77.0.1:8000 -h www
                    look() { ip -o link show br0 | grep -o 'mtu [0-9]*\|ether [0-9a-f:]*'; }
                    port=8080
                    for name in one two; do
                        create $name --network bridged --network-interface br0 --publish $port:80 \
                            --entrypoint 'mkdir /www; hostname >/www/name; exec busybox httpd -f -p 80 -h /www'
                        start $name; port=$((port + 1))
                        microagent exec $name sh -c '
                            ip -4 -o addr show eth0
                            mkdir -p /etc/udhcpc
                            echo \#!/bin/sh >/etc/udhcpc/default.script
                            echo "[ \$1 != bound ] || { ip addr add \$ip/\$mask dev \$interface; ip route add default via \$router; }" \
                                >>/etc/udhcpc/default.script
                            chmod 755 /etc/udhcpc/default.script
                            udhcpc -i eth0 -n -q >/dev/null 2>&1'
                    done
                    v4() { microagent exec $1 ip -4 -o addr show eth0 | sed 's/.*inet \([^/]*\).*/\1/'; }
                    one=$(v4 one); two=$(v4 two)
                    [ $one != $two ] && grep -c -e " $one " -e " $two " leases
                    for url in $one $two 127.0.0.1:8080 127.0.0.1:8081; do
                        until curl -s "http://$url/name"; do :; done
                    done
                    try() {
                        microagent exec $1 sh -c "
                            ping -c 2 -W 5 $2 | grep -c 'bytes from'; ping -c 2 -W 5 10.77.0.1 | grep -c 'bytes from'
                            wget -q -O - http://$2/name; wget -q -O - http://10.77.0.1:8000/cgi-bin/who
                            nslookup server.names.test | tail -n +3 | grep Address"
                    }
                    try one $two | sed "s/^$one$/its address/"
                    try two $one | sed "s/^$two$/its address/"
                    ip -o link show master br0 | grep -c mabr
                    # The host's address on the bridge, which guests know, stays when one of them ends.
                    look >before
                    microagent --quiet kill one >/dev/null
                    until [ "$(ip -o link show master br0 | grep -c mabr)" = 1 ]; do :; done
                    look | diff before -
                    microagent exec two ping -c 1 -W 5 10.77.0.1 | grep -c 'bytes from'
                    for victim in microagent-supervisor microagent; do
                        kill -9 $(pids $victim); none_is_left
                        ip -o link show master br0
                        start two
                    done
                    delete one two
                    none_is_left"#,
                seconds: 240,
                code: 0,
                stdout: "2\none\ntwo\none\ntwo\n\
                         2\n2\ntwo\nits address\nAddress: 198.51.100.1\n\
                         2\n2\none\nits address\nAddress: 198.51.100.1\n2\n1\n",
            }
            an_interface_that_is_deleted_or_down_is_a_link_down_with_the_reason {
                script: r#"serve; bridge
                    create web --network nat; start web
                    interface() { ip -o link | grep -o ' ma[bv][mr][0-9]*'; }
                    named() { sed 's/ma\([bv][mr]\)[0-9]*/ma\1N/'; }
                    status() { microagent --json status web | grep -o '"down": *"[^"]*"' | sed 's/"down": *//' | named | grep .; }
                    # Waits for as many events about the network.
                    events() { until [ "$(microagent events web | grep -c 'the network is')" = $1 ]; do :; done; }
                    get() { microagent exec web wget -q -O - http://198.51.100.1:8000/short; }
                    status || get
                    ip link set $(interface) down; events 1; status
                    ip link set $(interface) up; events 2; status || get
                    ip link del $(interface); events 3; status
                    # On engine qemu the guest is not told.
                    [ $MICROAGENT_ENGINE = qemu ] || [ "$(microagent exec web cat /sys/class/net/eth0/carrier)" = 0 ] || echo carrier
                    microagent --quiet stop web >/dev/null; start web; status || get
                    # Nothing is reported of the end.
                    microagent --quiet kill web >/dev/null; events 3
                    microagent --json events web | grep -o 'the network is [^"]*' | named
                    delete web
                    create web --network bridged --network-interface br0; start web
                    ip link set $(interface) nomaster; events 1; status
                    ip link set $(interface) master br0; events 2
                    ip link set br0 down; events 3; status
                    ip link del br0; events 4; status
                    delete web
                    mkfifo said
                    microagent run --network nat "$IMAGE" sh -c 'echo runs; sleep 1000' >said 2>errors & run=$!
                    read -r line <said; ip link del $(interface)
                    until grep -q 'the network is' errors; do :; done; named <errors
                    kill $run; wait $run || none_is_left"#,
                seconds: 240,
                code: 0,
                stdout: "answer\n\
                         \"the network is down: network interface mavmN is down\"\n\
                         answer\n\
                         \"the network is down: network interface mavmN was deleted\"\n\
                         answer\n\
                         the network is down: network interface mavmN is down\n\
                         the network is up again\n\
                         the network is down: network interface mavmN was deleted\n\
                         \"the network is down: network interface mabrN was removed from bridge br0\"\n\
                         \"the network is down: network interface br0 is down\"\n\
                         \"the network is down: network interface mabrN was removed from bridge br0\"\n\
                         microagent: the network is down: network interface mavmN was deleted\n",
            }
            what_a_host_cannot_do_is_refused_and_nothing_is_left {
                script: r#"bridge
                    try() { code=0; "$@" >/dev/null 2>errors || code=$?; none_is_left; }
                    tell() { try "$@"; echo $code; cat errors; }
                    # A run and a start, with the same message.
                    both() {
                        try $through microagent run "$@" "$IMAGE" true; mv errors first; first=$code
                        try $through microagent --quiet start $2; echo $first $code; cat errors; cmp errors first
                    }
                    nat() { both --network nat; }
                    bridged() { both --network bridged --network-interface br0; }
                    create nat --network nat; create bridged --network bridged --network-interface br0
                    through='setpriv --bounding-set=-net_admin --inh-caps=-net_admin'; nat; bridged; through=
                    echo 0 >/proc/sys/net/ipv4/ip_forward; nat; echo 1 >/proc/sys/net/ipv4/ip_forward
                    ip link set br0 down; bridged; ip link del br0; bridged
                    ip link add br0 type veth peer name br1; bridged; ip link del br0; bridge
                    mount -t tmpfs none /dev/net; nat; bridged; umount /dev/net
                    tell microagent run --network bridged "$IMAGE" true
                    tell microagent run --network nat --network-interface br0 "$IMAGE" true
                    tell microagent run --network bridged --network-interface br0 --egress deny=any "$IMAGE" true
                    # The way is free again.
                    tell microagent run --network bridged --network-interface br0 "$IMAGE" true
                    # A firewall that does not let them pass is named, and the remediation works.
                    nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'
                    serve; get='timeout 5 wget -q -O - http://198.51.100.1:8000/short'
                    microagent run --network nat "$IMAGE" $get 2>errors || grep firewall errors
                    start nat; microagent --json events nat | grep -c 'a firewall of this host'; microagent --quiet kill nat >/dev/null
                    eval "$(sed -n 's/.*let VMs pass: //p' errors)"
                    microagent run --network nat "$IMAGE" $get 2>&1
                    delete nat bridged; none_is_left"#,
                seconds: 240,
                code: 0,
                stdout: "125 1\nmicroagent: no permission to create a network interface\n  \
                         run it as root or with CAP_NET_ADMIN, or use --network user\n\
                         125 1\nmicroagent: no permission to create a network interface\n  \
                         run it as root or with CAP_NET_ADMIN, or use --network user\n\
                         125 1\nmicroagent: network mode nat needs IPv4 forwarding, which is off on this host\n  \
                         switch it on: sysctl -w net.ipv4.ip_forward=1; or use --network user\n\
                         125 1\nmicroagent: bridge \"br0\" is down\n  start it: ip link set br0 up\n\
                         125 1\nmicroagent: network interface \"br0\" does not exist\n  \
                         list the bridges with: ip link show type bridge\n\
                         125 1\nmicroagent: network interface \"br0\" is not a bridge\n  \
                         list the bridges with: ip link show type bridge\n\
                         125 1\nmicroagent: cannot open /dev/net/tun: No such file or directory (os error 2)\n  \
                         load its module: modprobe tun; or use --network user\n\
                         125 1\nmicroagent: cannot open /dev/net/tun: No such file or directory (os error 2)\n  \
                         load its module: modprobe tun; or use --network user\n\
                         2\nmicroagent: network mode bridged needs a bridge of the host\n  \
                         use --network bridged --network-interface BRIDGE\n\
                         2\nmicroagent: --network-interface has no meaning in mode nat\n  \
                         use --network bridged --network-interface BRIDGE\n\
                         2\nmicroagent: egress rules need addresses that are known: not in mode bridged\n  \
                         use --network nat or user\n\
                         0\n\
                         microagent: a firewall of this host drops what is forwarded, unless a rule accepts it: \
                         chain FORWARD of table ip filter; let VMs pass: for of in iifname oifname; do \
                         nft insert rule ip filter FORWARD $of '\"mavm*\"' accept; done\n\
                         1\nanswer\n",
            }
        }
    };
}

pub(crate) use network_list;
