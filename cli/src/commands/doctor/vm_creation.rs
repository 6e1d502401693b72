//! How long this host takes to create a VM, and what shortens it.

use std::time::Duration;

use microagent_vmm::probe::{VmCreationFacts, vm_creation_time};
use serde::Serialize;

/// What a run hides: it creates its VM while it looks up the image and copies the kernel into
/// memory, which takes 5 to 8 ms (docs/benchmarks.md). Only more than that makes runs slower. A VM
/// that waits for nothing takes less than 1 ms, one that waits for a grace period at least 8.
const THRESHOLD: Duration = Duration::from_millis(5);

/// The findings.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VmCreation {
    /// The median of five.
    millis: f64,
    /// The kernel's release.
    kernel: String,
    nx_huge_pages: Option<String>,
    itlb_multihit: Option<bool>,
    cgroup2: Option<Cgroup2>,
    problem: Option<&'static str>,
    pub(super) remediation: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup2 {
    path: String,
    favordynmods: bool,
}

impl VmCreation {
    /// Measures it. `None` if no VM can be created.
    pub(super) fn measure() -> Option<VmCreation> {
        let took = vm_creation_time().ok()?;
        Some(VmCreation::judge(took, VmCreationFacts::read()))
    }

    fn judge(took: Duration, facts: VmCreationFacts) -> VmCreation {
        let has_favordynmods = (facts.cgroup2.as_ref()).is_some_and(|cgroup2| cgroup2.favordynmods);
        // With favordynmods nothing waits, so that the time has another cause.
        let waits = took > THRESHOLD && facts.moves_a_thread() && !has_favordynmods;
        let remediation = || {
            if let Some(path) = facts.lacks_favordynmods() {
                return Some(format!("sudo mount -o remount,favordynmods {path}"));
            }
            let without_thread = "while no VM runs: \
                echo never | sudo tee /sys/module/kvm/parameters/nx_huge_pages";
            facts
                .can_do_without_thread()
                .then(|| without_thread.to_owned())
        };
        VmCreation {
            millis: (took.as_secs_f64() * 1e5).round() / 1e2,
            remediation: waits.then(remediation).flatten(),
            problem: waits.then_some("KVM moves a thread between cgroups, which waits"),
            kernel: facts.kernel,
            nx_huge_pages: facts.nx_huge_pages,
            itlb_multihit: facts.itlb_multihit,
            cgroup2: facts.cgroup2.map(|cgroup2| Cgroup2 {
                path: cgroup2.path,
                favordynmods: cgroup2.favordynmods,
            }),
        }
    }

    /// The time, and the problem if there is one.
    pub(super) fn summary(&self) -> String {
        let problem = self.problem.map(|problem| format!(": {problem}"));
        format!("{:.1} ms{}", self.millis, problem.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use microagent_vmm::probe;

    use super::*;

    #[test]
    fn a_remediation_is_given_if_the_time_and_the_facts_call_for_it() {
        let mount = Some("sudo mount -o remount,favordynmods /sys/fs/cgroup");
        let never = Some(
            "while no VM runs: echo never | sudo tee /sys/module/kvm/parameters/nx_huge_pages",
        );
        // Milliseconds, kernel, nx_huge_pages, favordynmods; then whether KVM is seen to wait, and
        // the remediation.
        let hosts = [
            // The lab, in the order in which its test changes it.
            (11.89, "6.1.0-56-cloud-amd64", "N", Some(false), true, mount),
            (0.27, "6.1.0-56-cloud-amd64", "N", Some(true), false, None),
            (11.89, "6.1.0-56-cloud-amd64", "N", None, true, never),
            (0.25, "6.1.0-56-cloud-amd64", "never", None, false, None),
            // Shorter than what a run hides.
            (5.0, "6.1.0-56-cloud-amd64", "N", Some(false), false, None),
            (5.001, "6.1.0-56-cloud-amd64", "N", Some(false), true, mount),
            // An affected processor needs the thread.
            (27.3, "6.8.0-45-generic", "Y", Some(false), true, mount),
            (27.3, "6.8.0-45-generic", "Y", None, true, None),
            // A kernel without either option.
            (27.3, "5.15.0-1051-aws", "N", Some(false), true, None),
            // Slow for another reason.
            (27.3, "6.18.44", "N", Some(false), false, None),
            (27.3, "6.8.0-45-generic", "N", Some(true), false, None),
            (
                27.3,
                "6.1.0-56-cloud-amd64",
                "never",
                Some(false),
                false,
                None,
            ),
        ];
        for (millis, kernel, nx_huge_pages, favordynmods, waits, remediation) in hosts {
            let facts = VmCreationFacts {
                kernel: kernel.into(),
                nx_huge_pages: Some(nx_huge_pages.into()),
                itlb_multihit: Some(nx_huge_pages == "Y"),
                cgroup2: favordynmods.map(|favordynmods| probe::Cgroup2 {
                    path: "/sys/fs/cgroup".into(),
                    favordynmods,
                }),
                initial_cgroup_namespace: true,
            };
            let found = VmCreation::judge(Duration::from_secs_f64(millis / 1e3), facts);
            let seen = (found.problem.is_some(), found.remediation.as_deref());
            assert_eq!(seen, (waits, remediation), "{found:?}");
        }
    }
}
