//! A guest for tests: the distribution's cloud kernel and an initramfs with busybox and a script;
//! and a VM for it inside the lab, where each test runs its own program again ([`Guest::lab`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_proto::control::{Engine, VmConfig};
use microagent_tests::lab::{self, Lab, Machine, StepReport};
use microagent_tests::{Error, tool};
use microagent_vmm::console::Console;
use microagent_vmm::engine::{Device, Launch, RunningVm, kvm, qemu};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// In load order.
const MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    "failover",
    "net_failover",
    "virtio_net",
];

/// A guest to boot.
pub struct Guest {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// A guest that runs `script` in busybox's shell and powers off. Its initramfs is created in `dir`.
pub fn guest(dir: &Path, script: &str) -> Guest {
    guest_with(dir, script, &[])
}

/// The same, with further programs, which are compiled from the source files of these names.
pub fn guest_with(dir: &Path, script: &str, programs: &[&str]) -> Guest {
    let kernel = lab::kernel().unwrap();
    let root = dir.join("initramfs");
    for sub in ["bin", "modules"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    let tree = kernel.package.with_file_name("tree");
    for module in MODULES {
        let name = format!("{module}.ko");
        let found =
            tool::text("find", [tree.as_os_str(), "-name".as_ref(), name.as_ref()]).unwrap();
        fs::copy(found.trim(), root.join("modules").join(&name)).unwrap();
    }
    fs::write(
        root.join("modules.load"),
        MODULES.map(|name| format!("{name}\n")).concat(),
    )
    .unwrap();
    fs::write(root.join("script"), script).unwrap();
    fs::copy(tool::find("busybox").unwrap(), root.join("bin/busybox")).unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/guest");
    let init = root.join("init");
    fs::copy(sources.join("init.sh"), &init).unwrap();
    tool::run("chmod", ["+x".as_ref(), init.as_os_str()]).unwrap();
    for program in programs.iter().chain(&["vsock"]) {
        let mut compile = Command::new("rustc");
        let options = "--edition 2024 -C target-feature=+crt-static -C panic=abort -o";
        compile
            .args(options.split(' '))
            .arg(root.join("bin").join(program))
            .arg(sources.join(program).with_extension("rs"));
        tool::output(&mut compile).unwrap();
    }
    let initramfs = dir.join("initramfs.cpio");
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | cpio -o -H newc --quiet > \"$0\""])
        .arg(&initramfs)
        .current_dir(&root);
    tool::output(&mut pack).unwrap();
    Guest {
        kernel: kernel.image,
        initramfs,
    }
}

/// The paths of kernel and initramfs inside the lab.
pub const KERNEL: &str = "/vmlinuz";
pub const INITRAMFS: &str = "/initramfs.cpio";

/// The name of the test's own program inside the lab.
pub const PROGRAM: &str = "test-itself";

impl Guest {
    /// A lab that contains this guest and the test's own program.
    pub fn lab(&self, machine: Machine) -> Result<Lab, Error> {
        let mut lab = Lab::with_machine(machine)?;
        let program = std::env::current_exe().unwrap();
        lab.program(program, &format!("/bin/{PROGRAM}"))?;
        lab.file(&self.kernel, KERNEL)?;
        lab.file(&self.initramfs, INITRAMFS)?;
        Ok(lab)
    }
}

/// The configuration of a VM for [`Guest`] inside the lab.
pub fn config(cpus: u32, memory_mib: u64) -> VmConfig {
    VmConfig {
        name: "lab".into(),
        engine: Engine::Kvm,
        cpus,
        memory_mib,
        kernel: KERNEL.into(),
        initramfs: Some(INITRAMFS.into()),
        extra_cmdline: None,
        disks: Vec::new(),
        run_dir: "/tmp".into(),
        console_to_stderr: false,
        listen: Vec::new(),
        net: None,
        saved: None,
    }
}

/// A running VM.
pub struct Vm {
    vm: Box<dyn RunningVm>,
    console: Console,
}

impl Vm {
    pub fn start(config: &VmConfig, devices: Vec<Device>) -> Vm {
        let console = Console::new(false);
        let launch = Launch {
            config,
            devices,
            console: console.clone(),
        };
        let vm = match config.engine {
            Engine::Kvm => {
                let prepared = kvm::Prepared::begin(|| {}).unwrap();
                kvm::start(prepared, launch, |_| {})
            }
            Engine::Qemu => qemu::start(launch, |_| {}),
        };
        Vm {
            vm: vm.unwrap(),
            console,
        }
    }

    /// Starts a VM from a saved one ([`Vm::save`]).
    pub fn restore(config: &VmConfig, devices: Vec<Device>, state: &[u8], memory: &File) -> Vm {
        let console = Console::new(false);
        let launch = Launch {
            config,
            devices,
            console: console.clone(),
        };
        let prepared = kvm::Prepared::begin(|| {}).unwrap();
        Vm {
            vm: kvm::restore(
                prepared,
                launch,
                state,
                memory.try_clone().unwrap(),
                &[],
                |_| {},
            )
            .unwrap(),
            console,
        }
    }

    /// Pauses the VM and saves it, its memory to a file.
    pub fn save(&mut self, memory: &File) -> Vec<u8> {
        self.vm.pause().unwrap();
        self.vm.save(memory).unwrap()
    }

    /// What the guest has printed.
    pub fn console(&self) -> String {
        self.console.tail(usize::MAX)
    }

    /// Waits for the end of the VM and prints it, after those console lines that contain one of
    /// `words`, from that word on. If the VM does not end within `seconds`, prints the whole
    /// console and what the VM does.
    pub fn finish(mut self, seconds: i64, words: &[&str]) {
        let timeout = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        let ended = self.vm.ended_fd();
        let any = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout)).unwrap();
        let end = (any > 0).then(|| self.vm.end().unwrap());
        let hangs = end.is_none().then(|| self.vm.diagnose());
        drop(self.vm);
        // libtest prints the test's name first, without a newline.
        println!();
        let Some(end) = end else {
            println!("END none\n{}", self.console.tail(usize::MAX));
            println!("{}", hangs.unwrap_or_default());
            return;
        };
        for line in self.console.tail(usize::MAX).lines() {
            if let Some(at) = words.iter().find_map(|word| line.find(word)) {
                println!("{}", line[at..].trim_end());
            }
        }
        println!("END {end:?}");
    }
}

/// The lines of a step's output that start with `word`, without it.
pub fn lines_after<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let lines = text.lines();
    lines.filter_map(|line| line.strip_prefix(word)).collect()
}

/// The output of a step, which must have succeeded.
pub fn text_of(step: &StepReport) -> String {
    let text = step.text();
    println!("{}:\n{text}{}", step.name, step.errors());
    assert_eq!(step.code, 0, "{}", step.name);
    text
}
