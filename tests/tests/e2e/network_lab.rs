//! Networks on engine `kvm`: the cases of `network_list.rs`, in one lab. It is the host, with the
//! kernel modules and the programs that the modes need.

use std::sync::OnceLock;

use crate::network_list::{self, FORWARDING, PROGRAMS};
use crate::run_list::{self, Case};
use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Report};
use microagent_tests::namespaces::NAMESPACES;
use microagent_tests::{Error, or_skip, tool};

/// Beside `tun`, which every lab has.
const MODULES: &[&str] = &[
    "veth",
    "bridge",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
];

/// The environment of each case.
///
/// `passt` isolates itself with a user namespace and another root. Linux refuses the former in a
/// changed root, and the latter in an initramfs, whose root is not mounted on anything. So, as
/// `switch_root(8)` does, another mount is moved over the root: here one of the same file system.
///
/// The shell is the host's: that of busybox prefers its own applets to the programs in the search path.
const INSIDE: &str = r#"
export PATH=/lab/bin:$PATH
export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm IMAGE=oci:/layout:latest XDG_RUNTIME_DIR=/run
unset MICROAGENT_NETWORK
mkdir -p /host; : >>/etc/resolv.conf
cat >script <<'END OF SCRIPT'
@CASE@
END OF SCRIPT
exec /lab/bin/unshare --net --mount --pid --fork --kill-child /lab/bin/sh -c '
    mount --rbind / /host && cd /host && mount --move . / &&
    exec chroot . /lab/bin/sh -c "mount -t proc proc /proc && cd /tmp/work && exec /lab/bin/sh script"'
"#;

/// One snapshot serves every mode with an interface; addresses, rules and names are those of each run.
const RESTORED: &str = r#"
serve
export MICROAGENT_SNAPSHOT=on
one() {
    microagent --quiet --json run --memory 128 --cpus 1 --image "$IMAGE" "$@" --exec '
        wget -qO- http://server.names.test:8000/short; ip -o addr show eth0 | grep inet | grep -vc fe80:' >document || cat document
    sed -n 's/.*"stdout": *"\([^"]*\)".*/\1/p; s/.*"restored": *\([a-z]*\).*/restored: \1/p' document
}
microagent --quiet --json warm --memory 128 --cpus 1 | sed -n 's/.*"hit": *\([a-z]*\).*/hit: \1/p'
one
one --network nat
one --egress allow=server.names.test:8000
one --egress allow=192.0.2.1:80
none_is_left
"#;

/// A branch of a running workspace has addresses of its own.
const BRANCHED: &str = r#"
serve
w() { microagent --quiet "$@"; }
w create a --image "$IMAGE" --memory 128 --cpus 1 --network nat >/dev/null; w start a >/dev/null
w snapshot create a; w create b --from-snapshot a; w start b --from-snapshot a >/dev/null
for name in a b; do
    w exec $name -- sh -c 'ip -o -4 addr show eth0 | sed "s/.*inet \([0-9.]*\).*/\1/"; cat /sys/class/net/eth0/address' >$name
    w exec $name wget -qO- http://server.names.test:8000/short; echo
    w --json status $name | grep -qF "$(head -n 1 $name)/" && echo known
done
cmp -s a b || { head -qn 1 a b | sort -u | wc -l; tail -qn 1 a b | sort -u | wc -l; }
w exec b -- ping -c 1 -W 9 "$(head -n 1 a)" >/dev/null && echo 'they reach each other'
w kill a >/dev/null; w start a --from-snapshot a; w exec a wget -qO- http://server.names.test:8000/short; echo
w delete --force a b >/dev/null; w snapshot delete a; none_is_left
"#;

/// A connection to a published port wakes a suspended workspace.
const WOKEN: &str = r#"
w() { microagent --quiet "$@"; }
state() { w status web | sed -n 's/^state *//p'; }
until_suspended() { until [ "$(state)" = suspended ]; do busybox usleep 50000; done; }
get() { curl -s --max-time 30 http://127.0.0.1:$1/file; }
w create web --image "$IMAGE" --memory 128 --cpus 1 --network nat --publish 8080:80 --ttl 1 --on-idle suspend \
    --entrypoint 'mkdir -p /www; echo answer >/www/file; exec busybox httpd -f -p 127.0.0.1:80 -h /www' >/dev/null
w start web >/dev/null; until get 8080 | grep answer; do :; done
w network publish web 8081:80
until_suspended; pids microagent | wc -w; pids microagent-supervisor | wc -w; get 8080; get 8081
until_suspended; get 8081; w exec web cat /www/file; w events web | grep -q 'goes on from what was saved at' && echo recorded
until_suspended; jobs=; for request in 1 2 3 4 5; do get 8080 & jobs="$jobs $!"; done; wait $jobs
until_suspended; w pause web 2>&1 || w start web; get 8080
until_suspended; kill -9 $(pids microagent); state; get 8080 || echo refused; w exec web cat /www/file; get 8080
until_suspended; kill $(pids microagent); while [ -n "$(pids microagent)" ]; do :; done; state; w exec web cat /www/file
until_suspended; w kill web; state; w start web >/dev/null; until get 8080 | grep answer; do :; done
until_suspended; w stop web; state; w start web >/dev/null; until_suspended
w start web --no-snapshot >/dev/null; until get 8080 | grep answer; do :; done
until_suspended; w delete web; none_is_left
"#;

/// The last step.
const LEFT_BEHIND: &str = "ps -o pid,args | grep '[m]icroagent\\|[p]asst'
    find /state/workspaces /state/cas/tmp /run/microagent -type f 2>/dev/null
    /lab/bin/ip -o link | grep -o ' ma[bv][mr][0-9]*'; /lab/bin/nft list tables";

/// Puts programs of the host and the modules of all modes into a lab, for [`inside`].
pub fn equip<'a>(
    lab: &mut Lab,
    programs: impl IntoIterator<Item = &'a &'a str>,
) -> Result<(), Error> {
    // Every lab has busybox.
    for program in programs
        .into_iter()
        .filter(|&&program| program != "busybox")
    {
        lab.program(tool::find(program)?, &format!("/lab/bin/{program}"))?;
    }
    lab.program(tool::find("sh")?, "/lab/bin/sh")?;
    // The variant that `passt` executes on processors with AVX2 is beside it.
    if let Ok(variant) = tool::find("passt.avx2") {
        lab.program(variant, "/lab/bin/passt.avx2")?;
    }
    lab.modules(MODULES)
}

/// The script of a step that runs `script` as root of a lab.
pub fn inside(script: &str) -> String {
    INSIDE.replace("@CASE@", script)
}

fn boot() -> Result<Report, Error> {
    let layout = Layout::busybox()?;
    let mut lab = run_list::lab(&layout)?;
    equip(&mut lab, PROGRAMS)?;
    for case in CASES {
        let script = format!("{NAMESPACES}{FORWARDING}{}", case.script);
        lab.step(case.name, &inside(&script), case.seconds);
    }
    let restored = format!("{NAMESPACES}{FORWARDING}{RESTORED}");
    lab.step("restored", &inside(&restored), 120);
    let branched = format!("{NAMESPACES}{FORWARDING}{BRANCHED}");
    lab.step("branched", &inside(&branched), 120);
    let woken = format!("{NAMESPACES}{FORWARDING}{WOKEN}");
    lab.step("woken", &inside(&woken), 180);
    lab.step("left behind", LEFT_BEHIND, 30);
    lab.boot()
}

fn report() -> &'static Result<Report, Error> {
    static REPORT: OnceLock<Result<Report, Error>> = OnceLock::new();
    REPORT.get_or_init(boot)
}

fn check(case: &Case) {
    case.check_in(or_skip!(report()));
}

network_list::network_list!(check);

#[test]
fn nothing_is_left_behind() {
    let step = or_skip!(report()).step("left behind");
    assert_eq!(step.text(), "", "{}", step.errors());
}

#[test]
fn a_restored_vm_has_the_network_that_its_run_asked_for() {
    let step = or_skip!(report()).step("restored");
    let with_answer = "restored: true\nanswer\\n2\\n\n";
    let expected = format!(
        "hit: false\n{}restored: true\n2\\n\n",
        with_answer.repeat(3)
    );
    assert_eq!(step.text(), expected, "{}", step.errors());
}

#[test]
fn a_branch_of_a_running_workspace_has_addresses_of_its_own() {
    let step = or_skip!(report()).step("branched");
    let expected = "a:latest\nb\nanswer\n\nknown\nanswer\n\nknown\n2\n2\nthey reach each other\n\
                    a\nanswer\n\na:latest\n";
    assert_eq!(step.text(), expected, "{}", step.errors());
}

#[test]
fn a_connection_to_a_published_port_wakes_a_suspended_workspace() {
    let step = or_skip!(report()).step("woken");
    let expected = "answer\n1\n0\nanswer\nanswer\nanswer\nanswer\nrecorded\n\
                    answer\nanswer\nanswer\nanswer\nanswer\n\
                    microagent: workspace web: it is suspended\n  wake it first: microagent start web\nweb\nanswer\n\
                    suspended\nrefused\nanswer\nanswer\nsuspended\nanswer\n\
                    web\nstopped\nanswer\nweb\nstopped\nanswer\nweb\n";
    assert_eq!(step.text(), expected, "{}", step.errors());
}
