//! Two hundred concurrent streams over the vsock device, in the lab: half of them opened by the
//! host and half by the guest (a stock kernel), or all by the guest. Each stream is echoed while it
//! is sent, and every byte is checked.
//!
//! As in `kvm_linux.rs`, the test runs its own program inside the lab, where [`INSIDE`] is set.
//! In a soak they carry one GiB in each direction, which takes about ten minutes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::guest::{self, PROGRAM, Vm};
use microagent_tests::lab::Machine;
use microagent_tests::{or_skip, soak, tool};
use microagent_vmm::engine::{Device, DeviceKind};
use microagent_vmm::virtio::vsock::{Services, Vsock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Set inside the lab: the number of streams that the host opens, the number that the guest opens,
/// the bytes of each, the number of vCPUs, and the guest's memory in MiB.
const INSIDE: &str = "MICROAGENT_TEST_STREAMS";

/// The amount of data of all streams together in each direction, in MiB, in the suite; and the
/// seconds that each MiB takes in the lab.
const AMOUNT: u32 = 32;
const SECONDS_PER_MIB: f64 = 0.5;
/// The amount in MiB if the guest opens all streams.
const AMOUNT_OF_THE_GUESTS: usize = 16;

const STREAMS: usize = 200;

/// The port on which the guest listens, after which it connects to the host's port of the same
/// number. The host also listens on the next port.
const PORT: u32 = 5000;

/// The kernel command line holds the numbers of streams of the host and of the guest.
const SCRIPT: &str = r#"
read -r line < /proc/cmdline
streams=${line##*streams=}
vsock serve 5000 ${streams%%,*} ${streams##*,}
"#;

/// The limit on additional memory of the process with 200 streams, in KiB. The maximum of the
/// connections (256 KiB each) is 50 MiB.
const MORE_KIB: u64 = 64 << 10;

/// The time limit without progress.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The data of all streams: each sends its own part of these bytes, which do not repeat.
struct Source {
    bytes: Vec<u8>,
    each: usize,
}

/// The distance between the parts of two streams: a prime, so that parts are not aligned.
const SHIFT: usize = 4099;

impl Source {
    fn new(each: usize) -> Source {
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let words = (each + STREAMS * SHIFT).div_ceil(8);
        Source {
            bytes: (0..words).flat_map(|_| next()).collect(),
            each,
        }
    }

    fn of(&self, stream: usize) -> &[u8] {
        &self.bytes[stream * SHIFT..][..self.each]
    }
}

/// One stream, which sends its part and reads the echo.
struct Stream<'a> {
    socket: UnixStream,
    part: &'a [u8],
    sent: usize,
    checked: usize,
    over: bool,
}

impl Stream<'_> {
    fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::IN;
        if self.sent < self.part.len() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    fn progress(&mut self, bytes: &mut [u8]) {
        if self.sent < self.part.len() {
            match self.socket.write(&self.part[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    if self.sent == self.part.len() {
                        self.socket.shutdown(Shutdown::Write).unwrap();
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        match self.socket.read(bytes) {
            Ok(0) => {
                assert_eq!(
                    (self.sent, self.checked),
                    (self.part.len(), self.part.len())
                );
                self.over = true;
            }
            Ok(n) => {
                let expected = &self.part[self.checked..self.sent];
                assert!(expected.len() >= n, "the echo is longer than the data");
                assert!(expected[..n] == bytes[..n], "after {} bytes", self.checked);
                self.checked += n;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}

/// Exchanges all data on all streams concurrently. Returns the peak of the process's memory, in
/// KiB.
fn exchange(streams: &mut Vec<Stream<'_>>) -> u64 {
    let mut bytes = vec![0; 256 << 10];
    let timeout = Timespec {
        tv_sec: TIMEOUT.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut memory = 0;
    for round in 0u64.. {
        if streams.is_empty() {
            break;
        }
        if round.is_multiple_of(1000) {
            memory = memory.max(own_memory());
        }
        let mut ready: Vec<PollFd<'_>> = streams
            .iter()
            .map(|stream| PollFd::new(&stream.socket, stream.interest()))
            .collect();
        let any = poll(&mut ready, Some(&timeout)).unwrap();
        assert!(any > 0, "{} streams stalled", streams.len());
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (stream, _) in streams.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            stream.progress(&mut bytes);
        }
        streams.retain(|stream| !stream.over);
    }
    memory
}

/// The resident memory of this process without the guest's, in KiB. Guest memory is excluded from
/// core dumps (flag `dd`).
fn own_memory() -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let kib = |line: &str| {
        let number = line.split_whitespace().nth(1);
        number.unwrap().parse::<u64>().unwrap()
    };
    let (mut own, mut resident) = (0, 0);
    for line in maps.lines() {
        if line.starts_with("Rss:") {
            resident = kib(line);
        } else if line.starts_with("VmFlags:") && !line.split(' ').any(|flag| flag == "dd") {
            own += resident;
        }
    }
    own
}

fn run(words: &str) {
    let mut words = words.split(' ').map(|word| word.parse().unwrap());
    let mut next = || -> usize { words.next().unwrap() };
    let (hosts, guests, each) = (next(), next(), next());
    let (cpus, guest_mib) = (next() as u32, next() as u64);
    let mut config = guest::config(cpus, guest_mib);
    config.extra_cmdline = Some(format!("streams={hosts},{guests}"));
    let source = Source::new(each);
    let (listening, ready) = mpsc::channel();
    let (begun, from_guest) = mpsc::channel();
    let services = Services::new()
        .with(PORT, move |stream| listening.send(stream).unwrap())
        .with(PORT + 1, move |stream| begun.send(stream).unwrap());
    let (device, vsock) = Vsock::new(3, services).unwrap();
    let before = own_memory();
    let device = Device {
        kind: DeviceKind::Vsock,
        device: Box::new(device),
    };
    let vm = Vm::start(&config, vec![device]);

    // The guest powers off when this stream is closed.
    let waiting = ready.recv_timeout(TIMEOUT).unwrap();
    let started = Instant::now();
    let from_host = (0..hosts).map(|_| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        vsock.connect(PORT, theirs);
        ours
    });
    let sockets: Vec<UnixStream> = from_host.collect();
    let from_guest = (0..guests).map(|_| from_guest.recv_timeout(TIMEOUT).unwrap());
    let mut streams: Vec<Stream<'_>> = sockets
        .into_iter()
        .chain(from_guest)
        .enumerate()
        .map(|(n, socket)| {
            socket.set_nonblocking(true).unwrap();
            Stream {
                socket,
                part: source.of(n),
                sent: 0,
                checked: 0,
                over: false,
            }
        })
        .collect();
    let count = streams.len();
    println!("OPEN {count} {:?}", started.elapsed());
    let started = Instant::now();
    let memory = exchange(&mut streams);
    let took = started.elapsed();
    drop(waiting);
    let total = (count * each) as f64;
    println!(
        "EXCHANGED {total} bytes each way in {took:?}: {:.1} MB/s each way",
        total / 1e6 / took.as_secs_f64()
    );

    vm.finish(60, &["GUEST "]);
    println!("BEFORE {before}\nMEMORY {memory}");
}

#[test]
fn two_hundred_streams_carry_every_byte_both_ways() {
    if let Ok(words) = std::env::var(INSIDE) {
        return run(&words);
    }
    for program in ["cpio", "rustc"] {
        or_skip!(tool::find(program));
    }
    let amount = soak::size(AMOUNT, SECONDS_PER_MIB);
    let dir = tempfile::tempdir().unwrap();
    let guest = guest::guest(dir.path(), SCRIPT);
    // A few seconds per MiB, on a host that is also busy with other work.
    let seconds = 300 + 3 * amount;
    let amount = amount as usize;
    let mut lab = or_skip!(guest.lab(Machine {
        deadline: Duration::from_secs(2 * u64::from(seconds)),
        ..Machine::default()
    }));
    let half = STREAMS / 2;
    let test = "kvm_streams::two_hundred_streams_carry_every_byte_both_ways";
    // Enough memory for 200 sockets of the guest with 256 KiB in each direction, in oversized
    // kernel allocations.
    let runs = [
        ("of both", half, half, amount, "2 1024"),
        (
            "of the guest",
            0,
            STREAMS,
            amount.min(AMOUNT_OF_THE_GUESTS),
            "1 384",
        ),
    ];
    for (name, hosts, guests, mib, machine) in runs {
        let words = format!("{hosts} {guests} {} {machine}", (mib << 20) / STREAMS);
        let script = format!("{INSIDE}='{words}' {PROGRAM} --exact {test} --nocapture");
        lab.step(name, &script, seconds);
    }
    let report = lab.boot().unwrap();
    for (name, _, _, mib, _) in runs {
        let text = guest::text_of(report.step(name));
        let lines = |word: &str| guest::lines_after(&text, word);
        assert_eq!(lines("GUEST "), ["served 200"]);
        assert_eq!(lines("END "), ["Ok(PowerOff)"]);
        let total = (mib << 20) / STREAMS * STREAMS;
        assert!(lines("EXCHANGED ")[0].starts_with(&format!("{total} bytes each way")));
        let kib = |word: &str| lines(word)[0].parse::<u64>().unwrap();
        let more = kib("MEMORY ").saturating_sub(kib("BEFORE "));
        assert!(more <= MORE_KIB, "{more} KiB");
    }
}
