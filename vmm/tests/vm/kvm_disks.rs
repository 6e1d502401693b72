//! Disks of a stock kernel over virtio-mmio, in the lab: several at once, with verified checksums,
//! trimmed, and inspected on the host afterwards.
//!
//! As in `kvm_linux.rs`, the test runs its own program inside the lab, where [`INSIDE`] is set.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::guest::{self, PROGRAM, Vm};
use microagent_tests::lab::Machine;
use microagent_tests::{or_skip, tool};
use microagent_vmm::engine::{Device, DeviceKind};
use microagent_vmm::virtio::block::{Backend, Block, Overlay, Raw};
use rustix::fs::{MemfdFlags, memfd_create};

/// Set inside the lab: the program that trims free blocks, or `true`.
const INSIDE: &str = "MICROAGENT_TEST_TRIM";

/// Writes files of 1 MiB to two disks at once, reads them back from the disks, deletes them and
/// runs the trim program. The third disk is read-only.
const SCRIPT: &str = r#"
mount -t sysfs none /sys
read -r line < /proc/cmdline
trim=${line##*trim=}
mkdir -p /a /b /c
mount /dev/vda /a && mount -o discard /dev/vdb /b && mount -o ro /dev/vdc /c
work() {
    for round in 1 2 3 4 5 6 7 8; do
        dd if=/dev/urandom of=$1/$round bs=64k count=16 2>/dev/null
        sha256sum $1/$round >> $1/sums
        dd if=/dev/urandom bs=4k count=3 seek=$round conv=notrunc of=$1/1 2>/dev/null
    done
    sed -i '\|/1$|d' $1/sums; sha256sum $1/1 >> $1/sums
    sync
}
work /a & work /b & wait
echo 3 > /proc/sys/vm/drop_caches
for disk in /a /b; do
    echo "GUEST $disk $(sha256sum -c $disk/sums 2>/dev/null | grep -c OK)"
    rm $disk/?; sync
done
echo "GUEST $(cat /c/name)"
echo x 2>/dev/null > /dev/vdc || echo "GUEST read only"
$trim /a && echo "GUEST trimmed"
echo "GUEST $(cat /sys/block/vda/queue/discard_granularity) $(cat /sys/block/vda/queue/physical_block_size) $(cat /sys/block/vda/serial)"
umount /a /b /c
"#;

fn run(trim: &str) {
    // libtest prints the test's name first, without a newline.
    println!();
    let mut config = guest::config(2, 256);
    config.extra_cmdline = Some(format!("trim={trim}"));
    let base = || File::open("/disk").unwrap();
    let len = base().metadata().unwrap().len();
    // In memory, whatever the lab's root file system is.
    let file = || File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
    let (delta, mut image) = (file(), file());
    std::io::copy(&mut base(), &mut image).unwrap();
    let used = |file: &File| file.metadata().unwrap().blocks() / 2;
    println!("COPIED {}", used(&image));
    let overlay = Overlay::new(base(), len, delta.try_clone().unwrap()).unwrap();
    let backends: [Box<dyn Backend>; 3] = [
        Box::new(overlay),
        Box::new(Raw::new(image.try_clone().unwrap(), len, false)),
        Box::new(Raw::new(base(), len, true)),
    ];
    let devices = backends.into_iter().zip(0..).map(|(backend, n)| Device {
        kind: DeviceKind::Block,
        device: Box::new(Block::new(backend, &format!("disk{n}"))),
    });
    Vm::start(&config, devices.collect()).finish(110, &["GUEST "]);
    println!("DELTA {}", used(&delta));
    println!("IMAGE {}", used(&image));
}

#[test]
fn disks_keep_written_data_and_free_discarded_blocks() {
    if let Ok(trim) = std::env::var(INSIDE) {
        return run(&trim);
    }
    for program in ["cpio", "rustc", "mkfs.ext4"] {
        or_skip!(tool::find(program));
    }
    let dir = tempfile::tempdir().unwrap();
    let guest = guest::guest(dir.path(), SCRIPT);
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("name"), "only read").unwrap();
    let disk = dir.path().join("disk");
    File::create(&disk).unwrap().set_len(24 << 20).unwrap();
    let mut make = Command::new("mkfs.ext4");
    tool::output(make.args(["-q", "-d"]).arg(&tree).arg(&disk)).unwrap();

    let mut lab = or_skip!(guest.lab(Machine {
        cpus: 1,
        ..Machine::default()
    }));
    lab.file(&disk, "/disk").unwrap();
    let test = "kvm_disks::disks_keep_written_data_and_free_discarded_blocks";
    for trim in ["true", "fstrim"] {
        let script = format!("{INSIDE}={trim} {PROGRAM} --exact {test} --nocapture");
        lab.step(trim, &script, 120);
    }
    let report = lab.boot().unwrap();
    let mut deltas = Vec::new();
    for trim in ["true", "fstrim"] {
        let text = guest::text_of(report.step(trim));
        let lines = |word: &str| guest::lines_after(&text, word);
        assert_eq!(
            lines("GUEST "),
            [
                "/a 8",
                "/b 8",
                "only read",
                "read only",
                "trimmed",
                "4096 4096 disk0"
            ]
        );
        assert_eq!(lines("END "), ["Ok(PowerOff)"]);
        // In KiB. The file system on the image is mounted with `discard`.
        let kib = |word: &str| lines(word)[0].parse::<u64>().unwrap();
        deltas.push(kib("DELTA "));
        assert_eq!(kib("COPIED "), 24 << 10);
        assert!(kib("IMAGE ") <= (24 << 10) - (7 << 10), "{text}");
    }
    let [kept, trimmed] = deltas[..] else {
        panic!("two VMs")
    };
    assert!(kept >= 8 << 10, "{kept} KiB");
    assert!(trimmed <= 1 << 10, "{trimmed} KiB");
}
