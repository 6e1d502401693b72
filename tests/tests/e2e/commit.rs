//! A workspace that is committed and pushed is the same elsewhere: every file with its owner, mode,
//! time, attributes, content and links, compared by Linux's listing of both file systems.

use std::path::Path;
use std::time::Duration;

use microagent_tests::registry::Registry;
use microagent_tests::{built_kernel, flat_disk, image, or_skip, root_or_skip, tool, tree};

/// What the guest does to its file system: everything that a layer has to carry.
const CHANGES: &str = r#"
import os, stat
os.chdir("/odd"); os.umask(0)
open("new", "w").write("new"); os.chown("new", 1234, 70000); os.chmod("new", 0o6711)
os.setxattr("new", "user.mine", b"\0\xff value"); os.setxattr("new", "trusted.mine", b"t")
os.setxattr("new", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
os.link("new", "new-link"); os.link("hard-1", "deep/hard-5"); os.symlink("x" * 300, "long"); os.symlink("/etc", "to-etc")
os.mkfifo("new-fifo", 0o620); os.mknod("new-null", 0o644 | stat.S_IFCHR, os.makedev(1, 3)); os.mknod("new-block", 0o600 | stat.S_IFBLK, os.makedev(300, 70000))
os.makedirs("dir/sub/deeper", 0o1750); os.setxattr("dir", "user.of-directory", b"1"); os.chown("dir", 5, 6)
with open("holes", "wb") as file:
    for at in range(0, 3 << 20, 1 << 18): file.seek(at); file.write(b"x")
    file.truncate(4 << 20)
os.remove("owned"); os.rename("group", "renamed"); os.remove("absolute"); os.mkdir("absolute")
os.remove("opaque/upper"); os.chmod("empty", 0o700); os.setxattr("attributes", "user.plain", b"other"); os.removexattr("attributes", "user.binary")
os.chown("far", 4294967294, 1); os.utime("sparse", ns=(1, 1700000000 * 10**9)); os.lchown("dangling", 7, 8)
for name in ("pipe", "character"): os.remove(name)
open(b"latin-\xe4", "ab").write(b"more"); open("n" * 255, "w").write("l"); open("wh.not", "w"); os.mkdir("many")
for n in range(500): open("many/%d" % n, "w").write(str(n))
os.rename("deep", "moved"); os.sync()
"#;

/// What the guest's agent writes at each start, which belongs to the workspace and not to its image.
const OF_THE_AGENT: [&str; 2] = ["/etc/hostname ", "/etc/hosts "];

fn listing(disk: &Path) -> Vec<String> {
    let mut lines = tree::list_ext4(disk).unwrap();
    lines.retain(|line| !OF_THE_AGENT.iter().any(|name| line.starts_with(name)));
    lines
}

#[test]
fn a_workspace_that_is_pushed_has_the_same_tree_elsewhere() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let debian = or_skip!(image::debian());
    let registry = or_skip!(Registry::start());
    let to = format!("{}/app:1", registry.address());
    std::fs::write(host.path("changes.py"), CHANGES).unwrap();
    let script = r#"w() { microagent --quiet --engine qemu "$@"; }
        w create w --image "$IMAGE" --profile small >/dev/null && w start w && w exec -i w -- python3 - <changes.py && w stop w && w commit w "$TO" --push | cut -d' ' -f1"#;
    let mut committed = host.shell(script);
    let committed = committed
        .variable("IMAGE", format!("oci:{}:debian", debian.display()))
        .variable("TO", &to)
        .deadline(Duration::from_secs(300))
        .finish();
    let expected = format!("w\nw\n{to}\n");
    assert_eq!(committed.text(), expected, "{}", committed.errors());
    let here = host.path("here.ext4");
    flat_disk::write(&host.state(), "w", &here).unwrap();

    let elsewhere = or_skip!(built_kernel::host());
    let run = ["--quiet", "--engine", "qemu", "run", "--memory", "256"];
    let mut run = elsewhere.microagent(run);
    for word in [
        "--image",
        &to,
        "--exec",
        "cat /odd/new; ls /odd/many | wc -l",
    ] {
        run.argument(word);
    }
    assert_eq!(run.finish().expect_code(0).text(), "new500\n");
    let mut build = elsewhere.microagent(["--quiet", "rootfs", "build", "--out", "there.ext4"]);
    build.argument("--allow-mutable");
    build
        .argument("--image")
        .argument(&to)
        .finish()
        .expect_code(0);
    let there = listing(&elsewhere.path("there.ext4"));
    let here = listing(&here);
    assert!(here.len() > 1000, "{}", here.len());
    assert_eq!(tree::difference(&here, &there), "");
    let deleted = host.microagent(["delete", "w"]).finish();
    deleted.expect_code(0);
    host.assert_clean();
    elsewhere.assert_clean();
}
