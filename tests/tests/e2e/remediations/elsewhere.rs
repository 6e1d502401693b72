//! Remediations that are executed by other tests, and those that are not commands.

use std::path::Path;

/// A remediation, and the test that executes it.
#[derive(Debug)]
pub struct Elsewhere {
    /// The remediation, as in [`super::remedy::Remedy::says`].
    pub says: &'static str,
    /// The file of the test, from the root of the source tree.
    pub file: &'static str,
    /// Its function.
    pub test: &'static str,
}

impl Elsewhere {
    /// # Panics
    /// If there is no such test.
    pub fn assert_exists(&self, root: &Path) {
        let text = std::fs::read_to_string(root.join(self.file)).unwrap();
        let function = format!("fn {}()", self.test);
        let found = text
            .split("#[test]")
            .skip(1)
            .any(|test| test.trim_start().starts_with(&function));
        // A case for every engine.
        let case = format!("\n            {} {{\n                script: ", self.test);
        let found = found || text.contains(&case);
        assert!(found, "{} has no test {}", self.file, self.test);
    }
}

/// Executed by other tests.
pub const ELSEWHERE: &[Elsewhere] = &[
    Elsewhere {
        says: "boot it without its memory: microagent start {} --no-snapshot",
        file: "tests/tests/e2e/suspended_lab.rs",
        test: "workspaces_are_suspended_and_cloned_while_they_run",
    },
    Elsewhere {
        says: "wake it first: microagent start {}",
        file: "tests/tests/e2e/network_lab.rs",
        test: "a_connection_to_a_published_port_wakes_a_suspended_workspace",
    },
    Elsewhere {
        says: "delete it: microagent snapshot delete {}",
        file: "tests/tests/e2e/saved_lab.rs",
        test: "running_workspaces_go_on_from_snapshots",
    },
    Elsewhere {
        says: "list them: microagent snapshot ls",
        file: "tests/tests/e2e/saved_lab.rs",
        test: "running_workspaces_go_on_from_snapshots",
    },
    Elsewhere {
        says: "make a workspace of it: microagent create NAME --from-snapshot {}",
        file: "tests/tests/e2e/saved_lab.rs",
        test: "running_workspaces_go_on_from_snapshots",
    },
    Elsewhere {
        says: "repeat it: microagent start {} --from-snapshot NAME:TAG",
        file: "tests/tests/e2e/saved_lab.rs",
        test: "running_workspaces_go_on_from_snapshots",
    },
    Elsewhere {
        says: "use NAME or NAME:TAG, each of 1 to 63 lowercase letters, digits and hyphens",
        file: "tests/tests/e2e/saved_lab.rs",
        test: "running_workspaces_go_on_from_snapshots",
    },
    Elsewhere {
        says: "use another tag, or delete it first: microagent snapshot delete {}",
        file: "tests/tests/e2e/saved_lab.rs",
        test: "running_workspaces_go_on_from_snapshots",
    },
    Elsewhere {
        says: "use microagent create NAME --from-snapshot {}",
        file: "tests/tests/e2e/saved_lab.rs",
        test: "running_workspaces_go_on_from_snapshots",
    },
    Elsewhere {
        says: "let it listen on another address of this host and use that one, or pass it on over vsock with \
               --mediation PORT={}",
        file: "tests/tests/e2e/corporate.rs",
        test: "a_proxy_on_the_hosts_loopback_is_refused_and_the_ways_out_work",
    },
    Elsewhere {
        says: "shut it down by force: microagent stop {}",
        file: "tests/tests/e2e/run_list/workspaces.rs",
        test: "a_guest_that_does_not_obey_goes_on_after_halt_and_is_killed_by_stop",
    },
    Elsewhere {
        says: "run the guest without a network: --network isolated",
        file: "tests/tests/e2e/network.rs",
        test: "passt_is_started_again_when_it_dies_and_without_it_a_run_goes_on",
    },
    Elsewhere {
        says: "{}, or use --network isolated",
        file: "tests/tests/e2e/network.rs",
        test: "passt_is_started_again_when_it_dies_and_without_it_a_run_goes_on",
    },
    Elsewhere {
        says: "publish another port of the host",
        file: "tests/tests/e2e/network.rs",
        test: "published_ports_lead_to_servers_on_the_guests_loopback",
    },
    Elsewhere {
        says: "workspace {} has lost what it consists of; see what: microagent status {}",
        file: "tests/tests/e2e/workspace_status.rs",
        test: "each_artifact_that_is_not_what_create_recorded_is_named",
    },
    Elsewhere {
        says: "free space in the file system of {}, then check the disk: e2fsck -fp {}",
        file: "tests/tests/e2e/disk_failures.rs",
        test: "a_full_file_system_below_a_disk_is_named_and_the_remediation_works",
    },
    Elsewhere {
        says: "free space in the file system of {}",
        file: "tests/tests/e2e/disk_failures.rs",
        test: "a_full_scratch_space_is_named",
    },
    Elsewhere {
        says: "check the disk: e2fsck -fp {}",
        file: "tests/tests/e2e/disk_failures.rs",
        test: "an_error_that_only_the_final_flush_finds_is_reported",
    },
    Elsewhere {
        says: "stop the other VM first, or attach a copy of the disk",
        file: "tests/tests/e2e/run_disks.rs",
        test: "a_disk_has_many_readers_or_one_writer",
    },
    Elsewhere {
        says: "install the server's CA certificate on this host, or mark it as insecure in registries.json \
               (docs/registries.md)",
        file: "tests/tests/e2e/https.rs",
        test: "a_registry_is_accessed_over_https_and_its_certificate_is_verified",
    },
    Elsewhere {
        says: "repair or remove {}",
        file: "tests/tests/e2e/https.rs",
        test: "a_registry_is_accessed_over_https_and_its_certificate_is_verified",
    },
    Elsewhere {
        says: "convert it with `skopeo copy {} oci:DIR:TAG` and use oci:DIR:TAG",
        file: "pipeline/tests/images/manifests.rs",
        test: "a_schema_1_manifest_is_refused_with_a_remediation",
    },
    Elsewhere {
        says: "convert it with `skopeo copy {} docker-archive:FILE` and use docker-archive:FILE",
        file: "pipeline/tests/images/sources.rs",
        test: "sha512_digests_are_refused_with_a_conversion_that_works",
    },
    Elsewhere {
        says: "build the image with sha256 digests",
        file: "pipeline/tests/images/sources.rs",
        test: "sha512_digests_are_refused_with_a_conversion_that_works",
    },
    Elsewhere {
        says: "copy it with `skopeo copy {} oci-archive:FILE` and use oci-archive:FILE",
        file: "pipeline/tests/images/formats.rs",
        test: "another_format_is_named_with_the_reference_that_works",
    },
    Elsewhere {
        says: "use it directly: run {}{}",
        file: "pipeline/tests/images/formats.rs",
        test: "another_format_is_named_with_the_reference_that_works",
    },
    Elsewhere {
        says: "extract it with `tar -xf {}` and use oci:{}",
        file: "pipeline/tests/images/formats.rs",
        test: "another_format_is_named_with_the_reference_that_works",
    },
    Elsewhere {
        says: "convert it with `skopeo copy dir:{} oci:DIR:TAG` and use oci:DIR:TAG",
        file: "pipeline/tests/images/formats.rs",
        test: "another_format_is_named_with_the_reference_that_works",
    },
    Elsewhere {
        says: "use oci-archive:{} or docker-archive:{}",
        file: "pipeline/tests/images/formats.rs",
        test: "another_format_is_named_with_the_reference_that_works",
    },
    Elsewhere {
        says: "use {}{}",
        file: "pipeline/tests/images/formats.rs",
        test: "another_format_is_named_with_the_reference_that_works",
    },
    Elsewhere {
        says: "raise the limit of open files: ulimit -n 1024",
        file: "tests/tests/e2e/run_surroundings.rs",
        test: "each_limit_that_is_too_low_is_named_and_can_be_raised",
    },
    Elsewhere {
        says: "raise the limit: ulimit -n 1024",
        file: "tests/tests/e2e/run_surroundings.rs",
        test: "each_limit_that_is_too_low_is_named_and_can_be_raised",
    },
    Elsewhere {
        says: "raise the limit of processes: ulimit -u 4096 (in a container, its limit of processes)",
        file: "tests/tests/e2e/run_surroundings.rs",
        test: "each_limit_that_is_too_low_is_named_and_can_be_raised",
    },
    Elsewhere {
        says: "raise the limit of file sizes: ulimit -f unlimited",
        file: "tests/tests/e2e/run_surroundings.rs",
        test: "each_limit_that_is_too_low_is_named_and_can_be_raised",
    },
    Elsewhere {
        says: "free memory, or raise the limit of memory: ulimit -v unlimited",
        file: "tests/tests/e2e/run_surroundings.rs",
        test: "each_limit_that_is_too_low_is_named_and_can_be_raised",
    },
    Elsewhere {
        says: "install the kernel again: microagent kernel install",
        file: "tests/tests/e2e/cache/boot_objects.rs",
        test: "an_initramfs_is_never_built_from_decayed_modules",
    },
    Elsewhere {
        says: "sudo mount -o remount,favordynmods {}",
        file: "tests/tests/e2e/host.rs",
        test: "what_doctor_says_about_the_creation_of_vms_works",
    },
    Elsewhere {
        says: "while no VM runs: echo never | sudo tee /sys/module/kvm/parameters/nx_huge_pages",
        file: "tests/tests/e2e/host.rs",
        test: "what_doctor_says_about_the_creation_of_vms_works",
    },
    Elsewhere {
        says: "on hardware: enable virtualization in the firmware, then sudo modprobe kvm_intel or kvm_amd; in \
               a VM: enable nested virtualization",
        file: "tests/tests/e2e/host.rs",
        test: "what_doctor_says_about_the_creation_of_vms_works",
    },
    Elsewhere {
        says: "switch it on: sysctl -w net.ipv4.ip_forward=1; or use --network user",
        file: "cli/workspace/tests/network/refused.rs",
        test: "a_host_that_does_not_forward",
    },
    Elsewhere {
        says: "list the bridges with: ip link show type bridge",
        file: "cli/workspace/tests/network/refused.rs",
        test: "what_is_no_bridge",
    },
    Elsewhere {
        says: "start it: ip link set {} up",
        file: "cli/workspace/tests/network/refused.rs",
        test: "what_is_no_bridge",
    },
    Elsewhere {
        says: "run it as root or with CAP_NET_ADMIN, or use --network user",
        file: "cli/workspace/tests/network/refused.rs",
        test: "a_process_without_the_capability",
    },
    Elsewhere {
        says: "end other VMs or remove a route to one of the ranges, or use --network user",
        file: "cli/workspace/tests/network/nat.rs",
        test: "addresses_are_not_those_that_the_host_reaches",
    },
    Elsewhere {
        says: "let VMs pass: for of in iifname oifname; do nft insert rule {} {} {} $of '\"mavm*\"' accept; done",
        file: "cli/workspace/tests/network/nat.rs",
        test: "a_firewall_in_the_way_is_named_and_the_remediation_works",
    },
];

/// Not executed, with the reason.
pub const HINTS: &[(&str, &str)] = &[
    (
        "load it into Docker and save it again with version 1.10 or later",
        "no such old Docker is packaged",
    ),
    (
        "its last output: {}",
        "the output of a setup command, which explains its failure",
    ),
    (
        "guest console: {}",
        "the console's last message, which explains the end of the VM",
    ),
    (
        "another option overrides it, or this source does not have it; see its `depends on` in the kernel's \
         Kconfig files",
        "where to look",
    ),
    (
        "a microVM has no access to host devices: run the command on the host instead",
        "there is no way out inside a VM",
    ),
    (
        "use an image with fewer files",
        "the limits are 4 million files and 512 MiB of names",
    ),
    (
        "do not use this image, or build a smaller one",
        "the limit is 64 GiB",
    ),
    (
        "load its module: modprobe tun; or use --network user",
        "the tests' host has no modules, and TAP interfaces in its kernel",
    ),
    (
        "use Linux 5.12 or newer with the modules nf_tables, nft_chain_nat, nft_ct and nft_masq; or use \
         --network user",
        "another kernel",
    ),
    ("use a smaller tar", "the limit is 64 GiB"),
    (
        "use at most {}",
        "of the monitor's crate: the command line refuses more disks than a VM can have",
    ),
    (
        "install one: microagent kernel install",
        "only if the kernel disappears while `perf boot` runs, whose first run installs one",
    ),
];
