//! Network mode `user` with the clients that people use: shell scripts that depend on no engine. The
//! guest is one of the host's distribution behind `passt`, and the servers are in the
//! [other namespace](microagent_tests::namespaces). Nothing is downloaded: what the clients fetch is made by
//! `network/repositories.sh`.

/// The programs of the scripts.
pub const PROGRAMS: &[&str] = &[
    "passt", "ip", "unshare", "nsenter", "dnsmasq", "busybox", "curl", "python3", "git",
];

/// The files that are in the directory of a script.
pub const FILES: &[(&str, &str)] = &[
    ("peer.py", include_str!("network/peer.py")),
    ("dns.py", include_str!("network/dns.py")),
    ("published.py", include_str!("network/published.py")),
    ("repositories.sh", include_str!("network/repositories.sh")),
];

/// Defines the cases, and for each a test that passes it to `$check`. `$EACH` is the duration of each bulk
/// transfer in seconds. If there is a directory `www`, it is what `repositories.sh` makes.
macro_rules! clients_list {
    ($check:path) => {
        $crate::run_list::define! { $check;
            curl_git_pip_and_apt_fetch_from_their_servers {
                script: r#"[ -e www ] || . ./repositories.sh
                    peer busybox httpd -p 198.51.100.1:8000 -h www
                    peer busybox httpd -p '[2001:db8::1]:8000' -h www
                    peer git daemon --listen=198.51.100.1 --export-all --base-path=www --detach www
                    peer dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file --user=root --no-resolv --no-hosts \
                        --listen-address=198.51.100.1 --bind-interfaces \
                        --address=/server.names.test/198.51.100.1 --host-record=six.names.test,2001:db8::1 &
                    listens 8000; listens 53; listens 9418
                    microagent --quiet create guest --image "$IMAGE" --publish 8080:80 --entrypoint \
                        'mkdir /srv/www; head -c 20000000 /dev/urandom >/srv/www/file; exec python3 -m http.server --bind 127.0.0.1 --directory /srv/www 80' >/dev/null
                    microagent --quiet start guest >/dev/null
                    microagent exec guest sh -c '
                        set -e
                        curl -sS http://server:8000/file | sha256sum
                        curl -sS http://six.names.test:8000/short
                        git clone --quiet git://server.names.test/repository.git /root/clone
                        git -C /root/clone fsck --strict
                        git -C /root/clone rev-parse HEAD
                        git -C /root/clone log --format=%s
                        pip install --quiet --no-cache-dir --no-compile --root-user-action ignore --break-system-packages \
                            --disable-pip-version-check --trusted-host server.names.test \
                            --index-url http://server.names.test:8000/simple greeting
                        greeting
                        echo "deb [trusted=yes] http://server.names.test:8000/apt ./" >/etc/apt/sources.list
                        apt-get -qq update
                        DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes greet >/dev/null
                        greet' >got
                    [ "$(sed -n 1p got)" = "$(sha256sum <www/file)" ]
                    [ "$(sed -n 3p got)" = "$(git --git-dir www/repository.git rev-parse HEAD)" ]
                    sed -e 1d -e 3d got
                    # Its own server, through a published port: bytes and headers.
                    until curl -s -o fetched http://127.0.0.1:8080/file; do :; done
                    [ "$(sha256sum <fetched)" = "$(microagent exec guest sh -c 'sha256sum </srv/www/file')" ]
                    curl -sI http://127.0.0.1:8080/file | grep -o 'Content-Length: [0-9]*'
                    microagent --quiet delete --force guest >/dev/null"#,
                seconds: 400,
                code: 0,
                stdout: "answer\nfile 3\nfile 2\nfile 1\ngreetings from a wheel\ngreetings from a package\n\
                         Content-Length: 20000000\n",
            }
            datagrams_echoes_and_names_of_both_protocols_and_a_small_path_mtu {
                script: r#"peer python3 peer.py serve &
                    peer dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file --user=root --no-resolv --no-hosts \
                        --listen-address=198.51.100.1 --bind-interfaces \
                        --host-record=server.names.test,198.51.100.1,2001:db8::1 $(seq -f '--txt-record=long.names.test,%0200.0f' 1 12) &
                    listens 9000; listens 9007; listens 53
                    # The connections that servers have accepted.
                    accepted() { peer awk '/^Tcp:/ { if (n) print $n; else while ($++n != "PassiveOpens"); }' /proc/net/snmp; }
                    microagent --quiet create guest --image "$IMAGE" >/dev/null
                    microagent --quiet start guest >/dev/null
                    microagent cp peer.py guest:/; microagent cp dns.py guest:/
                    ask() { microagent exec guest python3 /dns.py 169.254.53.53 "$@"; }
                    ask udp server.names.test A
                    ask tcp server.names.test AAAA
                    accepted
                    # 2400 bytes: the server truncates them to the host, which asks again over TCP, and the guest's to the guest.
                    ask udp long.names.test TXT
                    accepted
                    ask tcp long.names.test TXT
                    accepted
                    microagent exec guest sh -c '
                        for address in 198.51.100.1 2001:db8::1; do
                            python3 /peer.py echo $address 0 1 1472 1473 20000 60000
                            python3 /peer.py connect $address 250
                            ping -c 3 -i 0.2 -W 5 $address | grep -c "bytes from $address"
                        done'
                    ip link set v0 mtu 1280; peer ip link set v1 mtu 1280
                    # The path of a packet of the guest ends at passt, so its DF does not reach the host, which fragments.
                    microagent exec guest sh -c '
                        for address in 198.51.100.1 2001:db8::1; do
                            python3 /peer.py up $address 1
                            python3 /peer.py down $address 1
                            python3 /peer.py echo $address 1252 1253 60000
                            for size in 1232 1253 60000 65493; do
                                ping -M do -c 1 -s $size -W 5 $address 2>&1 | grep -o -e "^[0-9]* bytes from" -e "message too long"
                            done
                        done'
                    microagent --quiet delete --force guest >/dev/null"#,
                seconds: 400,
                code: 0,
                stdout: "0 1\n0 1\n0\n0 truncated 0\n1\n0 12\n2\n\
                         echo 0\necho 1\necho 1472\necho 1473\necho 20000\necho 60000\n250\n3\n\
                         echo 0\necho 1\necho 1472\necho 1473\necho 20000\necho 60000\n250\n3\n\
                         intact\nintact\necho 1252\necho 1253\necho 60000\n\
                         1240 bytes from\n1261 bytes from\n60008 bytes from\nmessage too long\n\
                         intact\nintact\necho 1252\necho 1253\necho 60000\n\
                         1240 bytes from\n1261 bytes from\n60008 bytes from\nmessage too long\n",
            }
            half_closed_and_unread_connections_through_published_ports {
                script: r#"microagent --quiet create published --image "$IMAGE" \
                        --publish 9001:9001 --publish 9002:9002 --publish 9003:9003 --publish 9004:9004 >/dev/null
                    microagent --quiet start published >/dev/null
                    microagent cp published.py published:/
                    microagent exec --detach published python3 /published.py serve >/dev/null
                    microagent exec published sh -c 'until [ $(busybox netstat -lnt | grep -c ":900[1-4] ") = 4 ]; do :; done'
                    python3 published.py
                    microagent --quiet delete --force published >/dev/null"#,
                seconds: 400,
                code: 0,
                stdout: "client ends first: True\nserver ends first: True\n\
                         the server is held up: True\nothers are not: True\nclient reads late: True\n\
                         the client is held up: True\nothers are not: True\nserver reads late: True\n",
            }
            bulk_transfers_never_stall {
                script: r#"peer python3 peer.py serve &
                    listens 9000
                    microagent --quiet create guest --image "$IMAGE" >/dev/null
                    microagent --quiet start guest >/dev/null
                    microagent cp peer.py guest:/
                    microagent exec --env EACH guest sh -c '
                        python3 /peer.py up 198.51.100.1 $EACH
                        python3 /peer.py down 198.51.100.1 $EACH
                        python3 /peer.py up 2001:db8::1 $EACH & python3 /peer.py down 2001:db8::1 $EACH; wait'
                    microagent --quiet delete --force guest >/dev/null"#,
                seconds: 400,
                code: 0,
                stdout: "intact\nintact\nintact\nintact\n",
            }
        }
    };
}

pub(crate) use clients_list;
