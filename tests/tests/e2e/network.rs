//! Network mode `user` and publishing, on engine `qemu`: a guest behind `passt`, and servers that do
//! not know of it in another network namespace. Nothing leaves the machine.

pub mod namespaces;

use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::{built_kernel, or_skip, root_or_skip};

use namespaces::tools;

/// Runs a script between the namespaces, on engine `qemu`. `$IMAGE` is the layout's `latest`.
fn run(host: &Host, layout: &Layout, script: &str) -> Finished {
    namespaces::run(host, &layout.reference("latest"), script)
}

#[test]
fn a_guest_reaches_servers_by_address_and_by_name() {
    root_or_skip!();
    or_skip!(tools());
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"
mkdir www
head -c 50000000 /dev/urandom >www/file
sha256sum <www/file >sum
peer busybox httpd -p 198.51.100.1:8000 -h www
peer busybox httpd -p '[2001:db8::1]:8001' -h www
peer dnsmasq --keep-in-foreground --no-resolv --no-hosts --user=root --listen-address=198.51.100.1 --bind-interfaces \
    --address=/server.names.test/198.51.100.1 --host-record=six.names.test,2001:db8::1 \
    $(seq -f '--txt-record=long.names.test,%0200.0f' 1 12) &
listens 8000; listens 8001; listens 53
microagent run "$IMAGE" sh -c '
    wget -q -O - http://198.51.100.1:8000/file | sha256sum
    wget -q -O - http://server:8000/file | sha256sum
    wget -q -O - "http://[2001:db8::1]:8001/file" | sha256sum
    nslookup server.names.test | tail -n +3 | grep Address
    # Not by the agent: UDP, whose checksum nobody computes.
    nslookup server.names.test 198.51.100.1 | tail -n +3 | grep Address
    nslookup -type=aaaa six.names.test | grep -c 2001:db8::1
    nslookup nothing.names.test >/dev/null || echo none
    ping -c 2 -W 5 198.51.100.1 | grep -c "bytes from"
    cat /etc/resolv.conf
    ip -4 -o addr show eth0 | sed "s/.*inet \([^ ]*\).*mtu.*/\1/;s/.*inet \([^ ]*\).*/\1/"
    cat /sys/class/net/eth0/mtu' >got
sort -u sum >expected
head -n 3 got | sort -u | cmp - expected
tail -n +4 got
"#;
    let finished = run(&host, &layout, script).expect_code(0);
    assert_eq!(
        finished.text(),
        "Address: 198.51.100.1\nAddress: 198.51.100.1\n1\nnone\n2\nnameserver 169.254.53.53\nsearch names.test\n\
         10.0.2.15/24\n65520\n",
        "{}",
        finished.errors()
    );
}

#[test]
fn data_passes_upwards_and_many_short_connections_work() {
    root_or_skip!();
    or_skip!(tools());
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"
mkdir www; echo answer >www/short
peer busybox httpd -p 198.51.100.1:8000 -h www
# busybox nc ends when its peer sends no more, and sends no more at the end of its input.
peer sh -c 'sleep infinity | busybox nc -l -p 9000 | sha256sum >uploaded' &
listens 8000; listens 9000
microagent run "$IMAGE" sh -c '
    head -c 50000000 /dev/urandom >/file
    sha256sum </file
    nc 198.51.100.1 9000 </file
    for n in $(seq 200); do wget -q -O - http://198.51.100.1:8000/short; done | sort | uniq -c
    (for n in $(seq 100); do wget -q -O - http://198.51.100.1:8000/short & done; wait) | sort | uniq -c' >got
until [ -s uploaded ]; do :; done
head -n 1 got | cmp - uploaded
tail -n +2 got
"#;
    let finished = run(&host, &layout, script).expect_code(0);
    assert_eq!(
        finished.text(),
        "    200 answer\n    100 answer\n",
        "{}",
        finished.errors()
    );
}

/// A server whose queue of connections is full until the host's kernel has sent its SYN twice: the guest
/// has sent its own again by then. Then it answers one request.
const LATE_SERVER: &str = r#"
import socket, time
def drops():
    names, values = [line.split() for line in open("/proc/net/netstat") if line.startswith("TcpExt:")]
    return int(dict(zip(names, values))["ListenDrops"])
server = socket.socket()
server.bind(("198.51.100.1", 9000))
server.listen(0)
first = socket.create_connection(server.getsockname())
print("full", flush=True)
while drops() < 2:
    time.sleep(0.01)
server.accept()
connection, _ = server.accept()
connection.recv(1000)
connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nanswer\n")
"#;

#[test]
fn a_server_that_accepts_late_is_reached_and_one_that_does_not_listen_refuses() {
    root_or_skip!();
    or_skip!(tools());
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    std::fs::write(host.path("server.py"), LATE_SERVER).unwrap();
    let script = r#"
peer python3 server.py >state &
until grep -q full state; do :; done
microagent run "$IMAGE" sh -c '
    get() { timeout 30 wget -q -O - "http://$1/" 2>&1; }
    get 198.51.100.1:9000
    get 198.51.100.1:9001; get "[2001:db8::1]:9001"
    get 198.51.100.77:9001; get "[2001:db8::77]:9001"; exit 0'
"#;
    let finished = run(&host, &layout, script).expect_code(0);
    let refused =
        |host: &str| format!("wget: can't connect to remote host{host}: Connection refused\n");
    // An address that nobody has is refused as well: passt does not tell the two apart.
    let refused: String = [" (198.51.100.1)", "", " (198.51.100.77)", ""]
        .map(refused)
        .concat();
    assert_eq!(
        finished.text(),
        format!("answer\n{refused}"),
        "{}",
        finished.errors()
    );
}

#[test]
fn published_ports_lead_to_servers_on_the_guests_loopback() {
    root_or_skip!();
    or_skip!(tools());
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"
set -- web --image "$IMAGE" --publish 8080:80 \
    --entrypoint 'mkdir /www; head -c 20000000 /dev/urandom >/www/file; echo answer >/www/short; exec busybox httpd -f -p 127.0.0.1:80 -h /www'
microagent --quiet create "$@" --dry-run >web.yaml
microagent --quiet create "$@" >/dev/null
microagent --quiet start web >/dev/null
until curl -s -o /dev/null http://127.0.0.1:8080/short; do :; done
curl -s http://127.0.0.1:8080/file | sha256sum | cut -d' ' -f1
microagent exec web sha256sum /www/file | cut -d' ' -f1
# At once for the guest, too: they wait until it runs again.
microagent --quiet pause web >/dev/null
(for n in $(seq 200); do curl -s http://127.0.0.1:8080/short & done; wait) >answers & asking=$!
clients() { busybox netstat -nt | awk '$4 == "127.0.0.1:8080" && $6 == "ESTABLISHED"' | wc -l; }
until [ $(clients) = 200 ]; do :; done
microagent --quiet resume web >/dev/null
wait $asking; sort answers | uniq -c
# More than the VM serves at a time leave room for commands, and wait for their turn.
mkfifo silence; exec 9<>silence
for n in $(seq 300); do busybox nc 127.0.0.1 8080 <silence >/dev/null 2>&1 & silent="$silent $!"; done
until [ $(clients) = 300 ]; do :; done
microagent exec web echo a command
curl -s http://127.0.0.1:8080/short & asking=$!
kill $silent; wait $asking
microagent network ls web
microagent network publish web '[::1]:8081:80'
curl -s 'http://[::1]:8081/short'
microagent network unpublish web 8080:80
microagent --json status web | tr -d ' \n' | grep -o '"network":.*"publishes":[^]]*]'
curl -s http://127.0.0.1:8080/short || echo gone
microagent --json network ls web | tr -d ' \n'; echo
microagent network publish web '[::1]:8081:80' 2>errors || cat errors
# What is taken is refused before the boot.
busybox nc -l -p 8082 >/dev/null & 
until busybox netstat -lnt | grep -q ':8082 '; do :; done
microagent run --publish 8082:80 "$IMAGE" true 2>errors || head -n 1 errors
microagent run --publish 8083:80 "$IMAGE" echo works
microagent --quiet create taken --image "$IMAGE" --publish 8082:80 >/dev/null
microagent start taken 2>errors || head -n 1 errors
microagent events taken | awk '{print $2}' | tr '\n' ' '; microagent logs --console taken | wc -c; microagent delete taken
# What a specification publishes replaces what is published now; if a port is taken, nothing changes.
sed 's/8080/8084/' web.yaml >moved.yaml
microagent --json apply --file moved.yaml | tr -d ' \n'; echo
curl -s http://127.0.0.1:8084/short
curl -s 'http://[::1]:8081/short' || echo gone
sed 's/"hostPort": 8080/"hostPort": 8085/; s/"forwards": \[/&{"hostPort": 8086, "guestPort": 80}, {"hostPort": 8082, "guestPort": 80},/' web.yaml >taken.yaml
microagent apply --file taken.yaml 2>errors || head -n 1 errors
microagent network ls web; curl -s http://127.0.0.1:8084/short
grep -o '"hostPort": [0-9]*' "$MICROAGENT_STATE_DIR/workspaces/web/spec.json"
microagent --quiet quarantine web >/dev/null
curl -s http://127.0.0.1:8084/short || echo severed
microagent --quiet delete --force web >/dev/null
curl -s http://127.0.0.1:8084/short || echo gone
"#;
    let finished = run(&host, &layout, script).expect_code(0);
    let text = finished.text();
    let mut lines = text.lines();
    let (downloaded, expected) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(downloaded, expected, "{}", finished.errors());
    let rest: Vec<_> = lines.collect();
    assert_eq!(
        rest.join("\n"),
        "    200 answer\na command\nanswer\n\
         HOST            GUEST PORT\n\
         127.0.0.1:8080  80\n\
         answer\n\
         \"network\":{\"mode\":\"user\",\"address\":\"10.0.2.15\",\"addresses\":[\"10.0.2.15/24\",\"fd00:6d61::15/64\"],\
         \"publishes\":[{\"host\":\"::1\",\"hostPort\":8081,\"guestPort\":80,\"protocol\":\"tcp\"}]\n\
         gone\n\
         {\"workspace\":\"web\",\"publishes\":[{\"host\":\"::1\",\"hostPort\":8081,\"guestPort\":80,\"protocol\":\"tcp\"}]}\n\
         microagent: workspace web: cannot listen on [::1]:8081: Address already in use (os error 98)\n\
         microagent: cannot listen on 127.0.0.1:8082: Address already in use (os error 98)\n\
         works\n\
         microagent: cannot listen on 127.0.0.1:8082: Address already in use (os error 98)\n\
         prepared starting failed 0\ntaken\n\
         {\"workspace\":\"web\",\"changed\":[\"network.forwards\"]}\n\
         answer\n\
         gone\n\
         microagent: workspace web: cannot listen on 127.0.0.1:8082: Address already in use (os error 98)\n\
         HOST            GUEST PORT\n\
         127.0.0.1:8084  80\n\
         answer\n\
         \"hostPort\": 8084\n\
         severed\n\
         gone",
        "{}",
        finished.errors()
    );
}

#[test]
fn passt_is_started_again_when_it_dies_and_without_it_a_run_goes_on() {
    root_or_skip!();
    or_skip!(tools());
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"
mkdir www; echo answer >www/short
peer busybox httpd -p 198.51.100.1:8000 -h www
listens 8000
microagent --quiet create web --image "$IMAGE" >/dev/null
microagent --quiet start web >/dev/null
get() { microagent exec web wget -q -O - http://198.51.100.1:8000/short; }
get
kill -9 $(pidof passt.avx2 passt)
until microagent events web | grep -q 'up again'; do :; done
get
microagent --json events web | grep -o 'the network is [^"]*'
microagent --quiet delete --force web >/dev/null

# Without the program: a default is given up with a notice, a wish is an error.
mkdir bin
for program in microagent qemu-system-x86_64; do ln -s "$(command -v $program)" bin/; done
PATH=$PWD/bin microagent run "$IMAGE" echo alone
PATH=$PWD/bin microagent run --network user "$IMAGE" echo alone || true
PATH=$PWD/bin microagent create x --image "$IMAGE" || true
PATH=$PWD/bin microagent run --network isolated "$IMAGE" echo isolated

# Without a network of the host.
ip link del v0
microagent run "$IMAGE" echo alone
microagent run --network user "$IMAGE" echo alone || true
microagent run --network isolated "$IMAGE" echo isolated
"#;
    let finished = run(&host, &layout, script).expect_code(0);
    assert_eq!(
        finished.text(),
        "answer\nanswer\n\
         the network is down: passt ended: signal 9\nthe network is up again\n\
         alone\nisolated\nalone\nisolated\n",
        "{}",
        finished.errors()
    );
    let (errors, missing) = (
        finished.errors(),
        "microagent: network mode user needs the program passt, which is not installed\n  \
         sudo apt-get install --yes passt, or use --network isolated\n",
    );
    let unusable = "passt ended: External interface not usable\n";
    let none = "microagent: the guest has no network: ";
    assert_eq!(
        errors,
        format!(
            "{none}passt is not installed (sudo apt-get install --yes passt)\n{missing}{missing}\
             {none}{unusable}microagent: {unusable}  \
             run the guest without a network: --network isolated\n"
        )
    );
}

#[test]
fn rules_let_pass_what_they_allow_and_nothing_else() {
    root_or_skip!();
    or_skip!(tools());
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"
mkdir www; echo answer >www/short
peer ip addr add 198.51.100.9/24 dev v1
peer busybox httpd -p 8000 -h www
peer busybox httpd -p 8001 -h www
peer dnsmasq --keep-in-foreground --no-resolv --no-hosts --user=root --listen-address=198.51.100.1 --bind-interfaces \
    --address=/good.names.test/198.51.100.1 --address=/sibling.names.test/198.51.100.1 \
    --address=/other.names.test/198.51.100.9 --address=/inside.names.test/10.9.8.7 &
listens 8000; listens 8001; listens 53
microagent --quiet create web --image "$IMAGE" --egress allow=good.names.test:8000 --egress allow=inside.names.test >/dev/null
microagent --quiet start web >/dev/null
microagent exec web sh -c '
    get() { timeout 3 wget -q -O - "$1" || echo refused; }
    get http://198.51.100.1:8000/short
    get http://good.names.test:8000/short
    get http://good.names.test:8001/short
    get http://sibling.names.test:8000/short
    get http://198.51.100.9:8000/short
    get "http://[2001:db8::1]:8000/short"
    timeout 3 nslookup good.names.test 198.51.100.1 >/dev/null 2>&1 || echo refused
    nslookup other.names.test 2>&1 | grep -o NXDOMAIN | head -n 1
    nslookup inside.names.test 2>&1 | grep -c 10.9.8.7
    ping -c 1 -W 2 198.51.100.9 | grep -c "bytes from"; exit 0'
microagent --quiet delete --force web >/dev/null
microagent run --egress 'allow=no sense' "$IMAGE" true 2>errors || cat errors
"#;
    let finished = run(&host, &layout, script).expect_code(0);
    assert_eq!(
        finished.text(),
        "refused\nanswer\nrefused\nrefused\nrefused\nrefused\nrefused\nNXDOMAIN\n0\n0\n\
         microagent: invalid egress rule \"allow=no sense\": the host name contains ' '\n  \
         rules are such as allow=pypi.org:443, allow=*.example.org and deny=10.0.0.0/8\n",
        "{}",
        finished.errors()
    );
}

/// Sends three echo requests, the first segment of a connection, a query to another server and a query
/// for a name: each once, because nothing is repeated within half a second.
const REFUSED: &str = r#"
    ping -c 3 -W 1 198.51.100.9 >/dev/null
    timeout 0.5 nc 198.51.100.9 8000 </dev/null
    timeout 0.5 nslookup -type=a good.names.test 198.51.100.1 >/dev/null 2>&1
    nslookup -type=a other.names.test >/dev/null
    exit 0
"#;

const ECHO: &str = r#"{"address":"198.51.100.9","count":3,"protocol":"icmp","reason":"noRule"}"#;
const SYN: &str =
    r#"{"address":"198.51.100.9","count":1,"port":8000,"protocol":"tcp","reason":"noRule"}"#;
const QUERY: &str =
    r#"{"address":"198.51.100.1","count":1,"port":53,"protocol":"udp","reason":"dns"}"#;
const NAME: &str = r#"{"count":1,"name":"other.names.test","protocol":"dns","reason":"dnsName"}"#;

#[test]
fn what_rules_refuse_is_listed_counted_and_recorded() {
    root_or_skip!();
    or_skip!(tools());
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    std::fs::write(host.path("refused"), REFUSED).unwrap();
    let script = r#"
microagent --quiet create web --image "$IMAGE" --egress allow=good.names.test:8000 >/dev/null
microagent --quiet start web >/dev/null
microagent --json status web >status.0
microagent exec web sh -c "$(cat refused)"
microagent --json status web >status.1
microagent --json stats web >stats
microagent status web >text
until [ $(microagent events web | grep -c 'the egress rules refused') = 4 ]; do :; done
microagent --json status web >status.2
microagent --quiet halt web >/dev/null
microagent --json events web >events
microagent --json status web >status.3
microagent --quiet delete --force web >/dev/null
microagent run --egress allow=good.names.test:8000 "$IMAGE" sh -c "$(cat refused)"
microagent --json run --egress allow=good.names.test:8000 "$IMAGE" sh -c "$(cat refused)" >run.1 2>run.1.errors
microagent --json run --egress allow=good.names.test:8000 "$IMAGE" true >run.2
microagent --json run "$IMAGE" true >run.3
"#;
    let finished = run(&host, &layout, script).expect_code(0);
    let document = |name: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(host.path(name)).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
    };
    let list = |parts: &[&str]| -> serde_json::Value {
        serde_json::from_str(&format!("[{}]", parts.join(","))).unwrap()
    };
    let counts = serde_json::json!({ "dns": 1, "dnsName": 1, "noRule": 4 });

    let before = &document("status.0")["network"];
    assert_eq!(before["refused"], serde_json::Value::Null);
    assert_eq!(before["refusedCounts"], serde_json::Value::Null);
    assert_eq!(before["address"], "10.0.2.15");
    for name in ["status.1", "status.2"] {
        let network = &document(name)["network"];
        assert_eq!(
            network["refused"],
            list(&[ECHO, SYN, QUERY, NAME]),
            "{name}"
        );
        assert_eq!(network["refusedCounts"], counts, "{name}");
    }
    let stats = &document("stats")[0]["network"];
    assert_eq!(stats["refused"], list(&[ECHO, SYN, QUERY]));
    let frames = serde_json::json!({ "dns": 1, "noRule": 4 });
    assert_eq!(stats["refusedCounts"], frames);
    assert!(stats["sentFrames"].is_u64(), "{stats}");

    let described = [
        "ICMP to 198.51.100.9: not allowed by a rule",
        "TCP to 198.51.100.9:8000: not allowed by a rule",
        "UDP to 198.51.100.1:53: DNS to another server",
        "a DNS query for other.names.test: DNS name not allowed by a rule",
    ];
    let text = std::fs::read_to_string(host.path("text")).unwrap();
    let rows: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once("  "))
        .filter(|(name, _)| name.starts_with("refused") || *name == "address")
        .map(|(name, value)| format!("{name}: {}", value.trim()))
        .collect();
    let row = |index: usize, count| format!("refused: {} ({count})", described[index]);
    assert_eq!(
        rows,
        [
            "address: 10.0.2.15/24, fd00:6d61::15/64".to_owned(),
            row(0, 3),
            row(1, 1),
            row(2, 1),
            row(3, 1),
            "refused in all: DNS to another server (1), DNS name not allowed by a rule (1), \
             not allowed by a rule (4)"
                .to_owned(),
        ]
    );

    // They change neither the state nor the last event. Frames and names are reported apart.
    for name in ["status.2", "status.3"] {
        let status = document(name);
        let state = if name == "status.2" {
            "running"
        } else {
            "halted"
        };
        assert_eq!(status["state"], state);
        assert_eq!(status["event"]["state"], state);
        assert_eq!(status["event"]["detail"], serde_json::Value::Null);
    }
    let events = document("events");
    let mut refused: Vec<_> = (events.as_array().unwrap().iter())
        .filter_map(|event| Some((event["detail"].as_str()?, event["state"].as_str()?)))
        .filter_map(|(detail, state)| {
            Some((detail.strip_prefix("the egress rules refused ")?, state))
        })
        .collect();
    let totals = "5 frames and 1 name: DNS to another server (1), \
                  DNS name not allowed by a rule (1), not allowed by a rule (4)";
    assert_eq!(refused.pop(), Some((totals, "stopping")));
    refused.sort_unstable();
    assert_eq!(refused, described.map(|what| (what, "running")));

    let notice = format!(
        "the egress rules refused 5 frames and 1 name, first {}",
        described.join("; ")
    );
    let errors = finished.errors();
    // The guest's programs are told, too.
    let said: Vec<_> = (errors.lines())
        .filter(|line| line.starts_with("microagent: "))
        .collect();
    assert_eq!(said, [format!("microagent: {notice}")]);
    let errors = std::fs::read_to_string(host.path("run.1.errors")).unwrap();
    let said = (errors.lines())
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|line| line["event"].clone())
        .filter(|event| event["kind"] == "notice" && event["message"] == *notice);
    assert_eq!(said.count(), 1, "{errors}");
    let network = |name: &str| document(name)["network"].clone();
    assert_eq!(
        network("run.1"),
        serde_json::json!({ "refused": list(&[ECHO, SYN, QUERY, NAME]), "refusedCounts": counts })
    );
    assert_eq!(
        network("run.2"),
        serde_json::json!({ "refused": [], "refusedCounts": {} })
    );
    assert_eq!(network("run.3"), serde_json::Value::Null);
}
