//! Network mode `user` with the clients that people use, on engine `kvm`: the cases of `clients_list.rs`,
//! in one lab. It gets the host's git and Python. What is large is on a disk: the state directory with
//! the guest's root file system, which is sparse, and what `repositories.sh`
//! makes.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::clients_host::each;
use crate::clients_list::{self, FILES, PROGRAMS};
use crate::network_lab;
use crate::run_list::Case;
use microagent_tests::lab::{Lab, Machine, Report};
use microagent_tests::namespaces::NAMESPACES;
use microagent_tests::{Error, built_kernel, or_skip, soak, tool};

/// What the scripts use of the host beside [`PROGRAMS`]; `cp` keeps holes.
const ALSO: &[&str] = &["seq", "cp", "curl"];

/// Prints the path of Python, and that of the directory of its modules.
const WHERE_IS_PYTHON: &str =
    "import sys, sysconfig; print(sys.executable, sysconfig.get_path('stdlib'), sep='\\n')";

/// Makes the disk: `$1` is the state directory, `$2` the image layout, `$3` the directory of Python's
/// modules. It becomes `disk.img` in the working directory.
const MAKE_DISK: &str = r#"
set -e
mkdir disk
cp -a --sparse=always "$1" disk/state
cp -a "$2" disk/layout
cp -a "$3" disk/python
rm -rf disk/python/test
@REPOSITORIES@
mv www disk/www
truncate -s 8G disk.img
mke2fs -q -t ext4 -O ^has_journal -d disk disk.img
rm -rf disk
"#;

/// The first step. `@PYTHON@` is the path of Python's modules on the host.
const PREPARE: &str = r#"
set -e
mkdir -p /disk $(dirname @PYTHON@)
mount -t ext4 -o ro /dev/vda /disk
ln -s /disk/python @PYTHON@
ln -s /disk/layout /layout
/lab/bin/cp -a /disk/state /state
"#;

/// Precedes each script.
const CASE: &str = r#"
export IMAGE=oci:/layout:clients EACH=@EACH@
ln -s /disk/www www
cp /lab/files/* .
"#;

fn boot() -> Result<Report, Error> {
    let (host, _) = built_kernel::host_with_clients()?;
    // The program in the search path may be a script that chooses one.
    let python = tool::text("python3", ["-c", WHERE_IS_PYTHON])?;
    let (python, modules) = python.trim().split_once('\n').unwrap_or_default();
    let mut make = Command::new("sh");
    let script = MAKE_DISK.replace("@REPOSITORIES@", include_str!("network/repositories.sh"));
    make.args(["-c", &script, "make-disk"])
        .arg(host.state())
        .arg(microagent_tests::image::clients()?)
        .arg(modules)
        .current_dir(host.path("."));
    tool::output(&mut make)?;

    let soak = soak::duration().unwrap_or_default();
    let mut lab = Lab::with_machine(Machine {
        memory_mib: 6144,
        disk: Some(host.path("disk.img")),
        deadline: Duration::from_secs(1500) + soak,
        ..Machine::default()
    })?;
    lab.microagent()?;
    let programs = PROGRAMS.iter().filter(|&&program| program != "python3");
    network_lab::equip(&mut lab, programs.chain(ALSO))?;
    lab.program(python, "/lab/bin/python3")?;
    let git = tool::text("git", ["--exec-path"])?;
    let daemon = Path::new(git.trim()).join("git-daemon");
    lab.program(&daemon, &daemon.to_string_lossy())?;
    for (name, text) in FILES {
        lab.text(text, &format!("/lab/files/{name}"), 0o644)?;
    }
    lab.step("prepare", &PREPARE.replace("@PYTHON@", modules), 120);
    let before = CASE.replace("@EACH@", &each().to_string());
    for case in CASES {
        let script = format!("{NAMESPACES}{before}{}", case.script);
        let seconds = case.seconds + soak.as_secs() as u32;
        lab.step(case.name, &network_lab::inside(&script), seconds);
    }
    lab.boot()
}

fn report() -> &'static Result<Report, Error> {
    static REPORT: OnceLock<Result<Report, Error>> = OnceLock::new();
    REPORT.get_or_init(boot)
}

fn check(case: &Case) {
    case.check_in(or_skip!(report()));
}

clients_list::clients_list!(check);

#[test]
fn the_lab_has_what_the_clients_need() {
    let step = or_skip!(report()).step("prepare");
    assert_eq!((step.code, step.errors().as_str()), (0, ""));
}
