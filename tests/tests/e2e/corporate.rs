//! A guest on a corporate network: behind a proxy, and with servers whose certificates are those of a
//! private authority. The network is that of [`crate::network`], with the proxy (`tinyproxy`) beside the
//! servers, under an address of its own.

use microagent_tests::image::{self, Layout};
use microagent_tests::microagent::Host;
use microagent_tests::{built_kernel, or_skip, program, root_or_skip, tool};

use crate::network::namespaces::{self, tools};

/// A server of HTTP that writes down who asks, and a proxy that is 198.51.100.7 to it. It demands a
/// password.
const PROXY: &str = r#"
mkdir www; echo answer >www/short
peer ip addr add 198.51.100.7/24 dev v1
peer busybox httpd -f -v -p 198.51.100.1:8000 -h www 2>>requests &
cat >proxy.conf <<END
Port 3128
Listen 198.51.100.7
Bind 198.51.100.7
Timeout 60
BasicAuth proxied pass-word
END
peer tinyproxy -d -c proxy.conf >proxied &
listens 8000; listens 3128
url=http://proxied:pass-word@198.51.100.7:3128
get='wget -q -O - http://198.51.100.1:8000/short'
"#;

#[test]
fn a_guest_uses_the_proxy_that_is_passed_on_and_no_other() {
    root_or_skip!();
    or_skip!(tools());
    or_skip!(tool::find("tinyproxy"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"
export HTTP_PROXY=$url no_proxy=.corporate.test
all='env | grep -i _proxy | sort'
microagent run "$IMAGE" sh -c "$get; $all; exit 0"
microagent run --proxy host "$IMAGE" sh -c "$get; $all"
microagent run --proxy "$url" -e http_proxy= "$IMAGE" sh -c "$get; $all"
cut -d: -f1 requests
: >requests

printf 'name: web\nimage: "%s"\nsetup: ["%s >/got"]\nproxy: host\n' "$IMAGE" "$get" >web.yaml
microagent --quiet create --file web.yaml >/dev/null
unset HTTP_PROXY no_proxy
microagent --quiet start web >/dev/null
microagent exec web sh -c "cat /got; $get; $all"
microagent connect web --send "$get"
microagent --quiet stop web >/dev/null
cut -d: -f1 requests
# Passwords are in the manifest alone, which others cannot read.
grep -rl pass-word "$STATE/workspaces" | sed 's/.*workspaces.//'
stat -c %a "$STATE/workspaces/web/spec.json"

sed 's|^proxy: .*|proxy: http://198.51.100.7:9|' web.yaml >other.yaml
microagent --json apply --file other.yaml | tr -d ' \n'; echo
microagent --quiet start web >/dev/null
microagent exec web sh -c "$all"
microagent apply --file other.yaml
sed -i /^proxy/d other.yaml
microagent apply --file other.yaml || true
microagent --quiet delete --force web >/dev/null
"#;
    let finished = namespaces::run(
        &host,
        &layout.reference("latest"),
        &format!("{PROXY}{script}"),
    );
    let finished = finished.expect_code(0);
    let url = "http://proxied:pass-word@198.51.100.7:3128";
    let other = "http://198.51.100.7:9";
    assert_eq!(
        finished.text(),
        format!(
            "answer\n\
             answer\nHTTP_PROXY={url}\nNO_PROXY=.corporate.test\nhttp_proxy={url}\nno_proxy=.corporate.test\n\
             answer\nHTTPS_PROXY={url}\nHTTP_PROXY={url}\nhttp_proxy=\nhttps_proxy={url}\n\
             198.51.100.2\n198.51.100.7\n198.51.100.2\n\
             answer\nanswer\n\
             HTTP_PROXY={url}\nNO_PROXY=.corporate.test\nhttp_proxy={url}\nno_proxy=.corporate.test\n\
             answer\n198.51.100.7\n198.51.100.7\n198.51.100.7\n\
             web/spec.json\n600\n\
             {{\"workspace\":\"web\",\"changed\":[\"proxy\"]}}\n\
             HTTPS_PROXY={other}\nHTTP_PROXY={other}\nhttp_proxy={other}\nhttps_proxy={other}\n\
             web\n"
        ),
        "{}",
        finished.errors()
    );
    let errors = finished.errors();
    let refused = "microagent: proxy cannot be changed while workspace web runs\n  \
                   stop it first: microagent stop web\n";
    assert!(errors.contains(refused), "{errors}");
    assert!(!errors.contains("pass-word"), "{errors}");
}

#[test]
fn a_proxy_on_the_hosts_loopback_is_refused_and_the_ways_out_work() {
    root_or_skip!();
    or_skip!(tools());
    or_skip!(tool::find("tinyproxy"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let programs = or_skip!(program::for_guests());
    let script = format!(
        r#"
printf 'Port 3128\nListen 127.0.0.1\nListen 198.51.100.2\nTimeout 60\n' >near.conf
tinyproxy -d -c near.conf >near &
until busybox netstat -lnt | grep -q '198.51.100.2:3128 '; do :; done
microagent run --proxy http://u:secret@127.0.0.1:3128 "$IMAGE" true 2>errors || cat errors
microagent run --proxy http://198.51.100.2:3128 "$IMAGE" sh -c "$get"
tar -C {} -cf programs.tar .
microagent run --mediation 3128=127.0.0.1:3128 --bundle programs=programs.tar:/programs:ro "$IMAGE" sh -c '
    printf "GET http://198.51.100.1:8000/short HTTP/1.0\r\n\r\n" | /programs/vsock 3128 | head -n 1 | grep -o " 200 "'
grep -c 'GET http://198.51.100.1:8000/short' near
"#,
        programs.path().display()
    );
    let finished = namespaces::run(
        &host,
        &layout.reference("latest"),
        &format!("{PROXY}{script}"),
    );
    let finished = finished.expect_code(0);
    assert_eq!(
        finished.text(),
        "microagent: the proxy 127.0.0.1:3128 is on this host's loopback interface, which guests \
         do not reach\n  \
         let it listen on another address of this host and use that one, or pass it on over vsock with \
         --mediation PORT=127.0.0.1:3128\n\
         answer\n 200 \n2\n",
        "{}",
        finished.errors()
    );
}

/// An authority, and a server of HTTPS with a certificate of it. `get.py` is a client in Python, which
/// verifies.
const AUTHORITY: &str = r#"
mkdir www; echo answer >www/short
ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
openssl req -x509 $ec -subj /CN=corporate -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem 2>/dev/null
openssl req -x509 $ec -CA ca.pem -CAkey ca.key -subj /CN=server -addext basicConstraints=critical,CA:FALSE \
    -addext subjectAltName=IP:198.51.100.1 -keyout server.key -out server.pem 2>/dev/null
(cd www; exec nsenter --target "$PEERS" --net openssl s_server -accept 198.51.100.1:8443 -quiet -WWW \
    -cert ../server.pem -key ../server.key) >served 2>&1 &
listens 8443
cat >get.py <<'END'
import socket, ssl
stream = socket.create_connection(("198.51.100.1", 8443))
try:
    server = ssl.create_default_context().wrap_socket(stream, server_hostname="198.51.100.1")
except ssl.SSLCertVerificationError:
    print("not trusted")
    raise SystemExit
server.sendall(b"GET /short HTTP/1.0\r\n\r\n")
print(server.makefile().read().splitlines()[-1])
END
"#;

#[test]
fn a_private_authority_is_trusted_on_request() {
    root_or_skip!();
    or_skip!(tools());
    or_skip!(tool::find("openssl"));
    let debian = or_skip!(image::debian());
    let host = or_skip!(built_kernel::host());
    let script = r#"
tar -cf client.tar get.py
client='--bundle client=client.tar:/client:ro'
microagent run $client "$IMAGE" sh -c "python3 /client/get.py"
microagent run $client --ca-cert ca.pem "$IMAGE" sh -c "python3 /client/get.py; env | grep microagent | sort; cat \$NODE_EXTRA_CA_CERTS" >got
head -n -$(wc -l <ca.pem) got; tail -n $(wc -l <ca.pem) got | cmp - ca.pem
cp ca.pem own.pem
cat >web.yaml <<END
name: web
image: "$IMAGE"
files: [{src: get.py, dst: /get.py}]
setup: [python3 /get.py >/got]
caCerts: [own.pem]
END
microagent --quiet create --file web.yaml >/dev/null
# The content is recorded.
mv own.pem moved.pem
count='grep -c BEGIN /etc/ssl/certs/ca-certificates.crt'
microagent --quiet start web >/dev/null
microagent exec web sh -c "cat /got; python3 /get.py; $count"
microagent connect web --send "python3 /get.py"
microagent --quiet stop web >/dev/null
microagent --quiet start web >/dev/null
microagent exec web sh -c "python3 /get.py; $count"
microagent --quiet stop web >/dev/null
# Neither is another authority trusted, nor is this one for ever.
microagent apply --file web.yaml 2>errors || sed "s|$PWD/||" errors
openssl req -x509 $ec -subj /CN=other -keyout other.key -out own.pem 2>/dev/null
microagent --json apply --file web.yaml | tr -d ' \n'; echo
microagent --quiet start web >/dev/null
microagent exec web sh -c "python3 /get.py; $count"
microagent --quiet stop web >/dev/null
sed -i /^caCerts/d web.yaml
microagent --json apply --file web.yaml | tr -d ' \n'; echo
microagent --quiet start web >/dev/null
microagent exec web sh -c "python3 /get.py; env | grep -c microagent; ls /etc/microagent /etc/ssl/certs/ca-certificates.crt 2>/dev/null | wc -l"
microagent --quiet delete --force web >/dev/null
"#;
    let finished = namespaces::run(
        &host,
        &format!("oci:{}:debian", debian.display()),
        &format!("{AUTHORITY}{script}"),
    );
    let finished = finished.expect_code(0);
    assert_eq!(
        finished.text(),
        "not trusted\n\
         answer\n\
         CURL_CA_BUNDLE=/etc/microagent/ca-bundle.pem\n\
         GIT_SSL_CAINFO=/etc/microagent/ca-bundle.pem\n\
         NODE_EXTRA_CA_CERTS=/etc/microagent/ca-extra.pem\n\
         REQUESTS_CA_BUNDLE=/etc/microagent/ca-bundle.pem\n\
         SSL_CERT_FILE=/etc/microagent/ca-bundle.pem\n\
         answer\nanswer\n1\n\
         answer\n\
         answer\n1\n\
         microagent: cannot read the certificates own.pem: No such file or directory (os error 2)\n\
         {\"workspace\":\"web\",\"changed\":[\"caCerts\"]}\n\
         not trusted\n1\n\
         {\"workspace\":\"web\",\"changed\":[\"caCerts\"]}\n\
         not trusted\n0\n0\n",
        "{}",
        finished.errors()
    );
}

#[test]
fn what_a_guest_cannot_use_is_refused_before_anything_is_created() {
    or_skip!(tool::find("qemu-system-x86_64"));
    or_skip!(tool::find("passt"));
    let host = or_skip!(Host::new());
    std::fs::write(host.path("text"), "hello").unwrap();
    let cut = "-----BEGIN CERTIFICATE-----\nMIIB\n";
    std::fs::write(host.path("cut"), cut).unwrap();
    std::fs::write(host.path("large"), cut.repeat(40_000)).unwrap();
    let invalid = "the proxy is not a URL with a host".to_owned();
    let loopback = "is on this host's loopback interface, which guests do not reach";
    for (flags, message) in [
        (&["--proxy", "http://u:secret@"][..], invalid.clone()),
        (&["--proxy", "proxy:3128"], invalid.clone()),
        (&["--proxy", "ftp://secret@proxy"], invalid.clone()),
        (
            &["--proxy", "http://[::1]:1"],
            format!("the proxy [::1]:1 {loopback}"),
        ),
        (
            &["--proxy", "host"],
            format!("the proxy localhost:3128 of HTTPS_PROXY {loopback}"),
        ),
        (
            &["--proxy", "http://proxy:1", "--network", "isolated"],
            "a guest without a network reaches no proxy: mode isolated".into(),
        ),
        (
            &["--ca-cert", "absent"],
            "cannot read the certificates DIR/absent: No such file or directory (os error 2)"
                .into(),
        ),
        (
            &["--ca-cert", "text"],
            "DIR/text has no certificate in PEM form".into(),
        ),
        (
            &["--ca-cert", "cut"],
            "DIR/cut has a damaged certificate: number 1".into(),
        ),
        (
            &["--ca-cert", "large"],
            "DIR/large is too large: certificates have at most 1024 KiB in all".into(),
        ),
    ] {
        for command in ["run", "create"] {
            let words = [
                "--engine",
                "qemu",
                command,
                "--name",
                "a",
                "--image",
                "oci:/absent",
            ];
            let mut invocation = host.microagent(words);
            invocation.variable("HTTPS_PROXY", "http://u:secret@localhost:3128");
            invocation.variable("MICROAGENT_NETWORK", "");
            for flag in flags {
                invocation.argument(flag);
            }
            let finished = invocation.finish();
            let errors = finished.errors();
            // The paths of a workspace are absolute.
            let shown = match command {
                "run" => "".to_owned(),
                _ => format!(
                    "{}/",
                    host.path("").display().to_string().trim_end_matches('/')
                ),
            };
            let expected = format!("microagent: {}", message.replace("DIR/", &shown));
            let first = errors.lines().next().unwrap_or_default();
            assert_eq!(first, expected, "{command} {flags:?}");
            assert!(!errors.contains("secret"), "{errors}");
            assert!(errors.lines().count() <= 2, "{errors}");
            let code = match (command, flags.contains(&"absent")) {
                ("run", true) => 125,
                ("create", true) => 1,
                _ => 2,
            };
            finished.expect_code(code);
        }
    }
    assert!(!host.state().join("workspaces/a").exists());
}
