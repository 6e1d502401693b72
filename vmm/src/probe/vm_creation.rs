//! Measures how long KVM takes to create a VM, and reads the facts about this host that explain it.
//!
//! `KVM_CREATE_VM` starts a kernel thread that recovers huge pages, and before Linux 6.13, which
//! made it a thread of the caller, moves it into the caller's cgroups. That takes the semaphore
//! `cgroup_threadgroup_rwsem` for writing, which waits for a grace period of RCU, ten milliseconds
//! and more. There is no wait if cgroups are mounted with `favordynmods`
//! (admin-guide/cgroup-v2.rst), and no thread if `kvm.nx_huge_pages` is `never`
//! (admin-guide/kernel-parameters.txt).

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::EngineError;
use crate::engine::kvm::{create_vm, open};

const SAMPLES: usize = 5;

/// A VM that is created shortly after another one does not wait: the semaphore stays in its slow
/// mode until a grace period after its last use. In the lab every second VM is fast with a pause of
/// 5 ms, and none with 20 ms.
const PAUSE: Duration = Duration::from_millis(100);

/// The cgroup namespace of a host's first process (`PROC_CGROUP_INIT_INO`, Linux,
/// include/linux/proc_ns.h).
const INITIAL_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";

/// Facts that decide whether creating a VM waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmCreationFacts {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The module parameter `kvm.nx_huge_pages`: `Y`, `N` or `never`. `None` before Linux 5.4.
    pub nx_huge_pages: Option<String>,
    /// Whether the processor has the fault that `kvm.nx_huge_pages` mitigates. `None` if the kernel
    /// does not say.
    pub itlb_multihit: Option<bool>,
    /// The first mount of cgroups version 2.
    pub cgroup2: Option<Cgroup2>,
    /// Whether this process is in the host's first cgroup namespace. In another one, as in a
    /// container, the options of cgroup mounts cannot be changed.
    pub initial_cgroup_namespace: bool,
}

/// A mount of cgroups version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup2 {
    /// Where it is mounted, escaped as in `/proc/mounts`.
    pub path: String,
    /// Whether it has the option `favordynmods`.
    pub favordynmods: bool,
}

/// How long `KVM_CREATE_VM` takes if no VM was created just before: the median of five. Takes half
/// a second.
///
/// # Errors
/// When a VM cannot be created.
pub fn vm_creation_time() -> Result<Duration, EngineError> {
    let kvm = open()?;
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        thread::sleep(PAUSE);
        let start = Instant::now();
        let vm = create_vm(&kvm)?;
        samples.push(start.elapsed());
        drop(vm);
    }
    samples.sort_unstable();
    Ok(samples[SAMPLES / 2])
}

impl VmCreationFacts {
    /// Reads them from `/proc` and `/sys`.
    pub fn read() -> VmCreationFacts {
        let text = |path: &str| fs::read_to_string(path).ok();
        let line = |path: &str| text(path).map(|text| text.trim_end().to_owned());
        let itlb_multihit = line("/sys/devices/system/cpu/vulnerabilities/itlb_multihit");
        VmCreationFacts {
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
            nx_huge_pages: line("/sys/module/kvm/parameters/nx_huge_pages"),
            itlb_multihit: itlb_multihit.map(|state| state != "Not affected"),
            cgroup2: text("/proc/self/mounts").and_then(|mounts| Cgroup2::find(&mounts)),
            initial_cgroup_namespace: fs::read_link("/proc/self/ns/cgroup")
                .is_ok_and(|namespace| namespace == Path::new(INITIAL_CGROUP_NAMESPACE)),
        }
    }

    /// Version and patch level of the kernel, as in 6.12.
    fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some((next()?, next()?))
    }

    /// Whether `KVM_CREATE_VM` moves a kernel thread into the caller's cgroups.
    pub fn moves_a_thread(&self) -> bool {
        let never = |value: &String| value == "never";
        self.nx_huge_pages.as_ref().is_some_and(|nx| !never(nx))
            && self.version().is_some_and(|version| version < (6, 13))
    }

    /// The mount of cgroups that lacks `favordynmods` and to which it can be added. `None` also if
    /// the kernel does not have the option (before Linux 6.0).
    pub fn lacks_favordynmods(&self) -> Option<&str> {
        let has_option = self.version().is_some_and(|version| version >= (6, 0));
        let cgroup2 = self.cgroup2.as_ref().filter(|cgroup2| {
            // A name that needs no quotes in a shell.
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            !cgroup2.favordynmods && cgroup2.path.chars().all(plain)
        });
        cgroup2
            .filter(|_| has_option && self.initial_cgroup_namespace)
            .map(|cgroup2| cgroup2.path.as_str())
    }

    /// Whether the kernel thread only costs time: the processor does not have the fault, and
    /// `kvm.nx_huge_pages` can be `never` (Linux 6.5, and the stable releases of 6.1).
    pub fn can_do_without_thread(&self) -> bool {
        self.itlb_multihit == Some(false)
            && self.nx_huge_pages.as_deref() == Some("N")
            && (self.version()).is_some_and(|version| version == (6, 1) || version >= (6, 5))
    }
}

impl Cgroup2 {
    /// The first one in the text of `/proc/mounts`.
    fn find(mounts: &str) -> Option<Cgroup2> {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind, options) = (
                fields.next()?,
                fields.next()?,
                fields.next()?,
                fields.next()?,
            );
            (kind == "cgroup2").then(|| Cgroup2 {
                path: path.to_owned(),
                favordynmods: options.split(',').any(|option| option == "favordynmods"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cgroup2_mount_is_found() {
        let find = |mounts| Cgroup2::find(mounts).map(|found| (found.path, found.favordynmods));
        let unified = "sysfs /sys sysfs rw,nosuid 0 0\n\
            cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n";
        assert_eq!(find(unified), Some(("/sys/fs/cgroup".into(), false)));
        let favoring = "none /cgroup cgroup2 rw,relatime,favordynmods 0 0\n";
        assert_eq!(find(favoring), Some(("/cgroup".into(), true)));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,favordynmods,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let path = "/sys/fs/cgroup/unified".into();
        assert_eq!(find(hybrid), Some((path, false)));
        // Names of other mounts do not count, and neither do incomplete lines.
        for other in [
            "cgroup2 /a tmpfs rw,favordynmods 0 0\n",
            "cgroup2 /a cgroup2",
            "\n",
            "",
        ] {
            assert_eq!(find(other), None, "{other:?}");
        }
    }

    /// Facts of recorded hosts.
    fn facts(kernel: &str, nx_huge_pages: &str, favordynmods: Option<bool>) -> VmCreationFacts {
        VmCreationFacts {
            kernel: kernel.into(),
            nx_huge_pages: (!nx_huge_pages.is_empty()).then(|| nx_huge_pages.into()),
            itlb_multihit: Some(nx_huge_pages == "Y"),
            cgroup2: favordynmods.map(|favordynmods| Cgroup2 {
                path: "/sys/fs/cgroup".into(),
                favordynmods,
            }),
            initial_cgroup_namespace: true,
        }
    }

    #[test]
    fn the_cause_and_what_can_be_changed_follow_from_the_facts() {
        const PATH: Option<&str> = Some("/sys/fs/cgroup");
        // Kernel, nx_huge_pages, favordynmods; then: moves a thread, lacks favordynmods, can do
        // without the thread.
        let hosts = [
            ("6.1.0-56-cloud-amd64", "N", Some(false), (true, PATH, true)),
            ("6.1.0-56-cloud-amd64", "N", Some(true), (true, None, true)),
            ("6.1.0-56-cloud-amd64", "N", None, (true, None, true)),
            (
                "6.1.0-56-cloud-amd64",
                "never",
                Some(false),
                (false, PATH, false),
            ),
            ("6.8.0-45-generic", "Y", Some(false), (true, PATH, false)),
            ("6.8.0-45-generic", "Y", Some(true), (true, None, false)),
            ("6.0", "N", Some(false), (true, PATH, false)),
            ("6.4.16", "N", None, (true, None, false)),
            ("5.15.0-1051-aws", "N", Some(false), (true, None, false)),
            (
                "5.14.0-427.el9.x86_64",
                "Y",
                Some(false),
                (true, None, false),
            ),
            ("6.12.9+deb13-amd64", "N", Some(false), (true, PATH, true)),
            ("6.13.0-rc1", "N", Some(false), (false, PATH, true)),
            ("7.0.1", "Y", Some(false), (false, PATH, false)),
            ("5.3.0", "", Some(false), (false, None, false)),
            ("", "N", Some(false), (false, None, false)),
            ("99999999999.1", "N", Some(false), (false, None, false)),
        ];
        for (kernel, nx, favordynmods, expected) in hosts {
            let facts = facts(kernel, nx, favordynmods);
            let found = (
                facts.moves_a_thread(),
                facts.lacks_favordynmods(),
                facts.can_do_without_thread(),
            );
            assert_eq!(found, expected, "{facts:?}");
        }
    }

    #[test]
    fn a_container_and_a_strange_mount_point_are_left_alone() {
        let mut host = facts("6.1.0", "N", Some(false));
        host.initial_cgroup_namespace = false;
        assert_eq!(host.lacks_favordynmods(), None);
        host.initial_cgroup_namespace = true;
        host.cgroup2.as_mut().unwrap().path = "/mnt/$(a)\\040b".into();
        assert_eq!(host.lacks_favordynmods(), None);
        host.itlb_multihit = None;
        assert!(!host.can_do_without_thread());
    }
}
