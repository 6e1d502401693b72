//! The guest: it reads and writes its disk.

use crate::Error;
use crate::guest::Guest;

/// The measurements: a name, and the arguments of busybox's `dd`. Direct I/O bypasses the guest's
/// page cache. `dd` issues one request at a time, so the small ones measure latency.
pub const WORK: [(&str, &str); 4] = [
    ("read, 1 MiB", "if=/dev/vda of=/dev/null bs=1M iflag=direct"),
    (
        "write, 1 MiB",
        "if=/dev/zero of=/dev/vda bs=1M oflag=direct",
    ),
    ("read, 4 KiB", "if=/dev/vda of=/dev/null bs=4k iflag=direct"),
    (
        "write, 4 KiB",
        "if=/dev/zero of=/dev/vda bs=4k oflag=direct",
    ),
];

/// The prefix of result lines on the console.
const MARK: &str = "DISK ";

/// Builds a guest that transfers `mib` MiB in each measurement.
///
/// # Errors
/// When a tool or the kernel's package is missing.
pub fn guest(mib: u32) -> Result<Guest, Error> {
    Guest::new(&script(mib), &[])
}

/// The commands. Writes the disk once before measuring, so that the file is fully allocated.
fn script(mib: u32) -> String {
    let mut script = String::new();
    // The only clock available to busybox with a resolution better than 10 ms.
    script += "now() { $b sed -n 's/^now at \\([0-9]*\\) nsecs/\\1/p;3q' /proc/timer_list; }\n";
    script +=
        &format!("$b dd if=/dev/zero of=/dev/vda bs=1M count={mib} oflag=direct 2>/dev/null\n");
    for (number, (_, arguments)) in WORK.iter().enumerate() {
        let blocks = match arguments.contains("bs=1M") {
            true => mib,
            false => mib * 256,
        };
        script += &format!(
            "start=$(now); $b dd {arguments} count={blocks} 2>/dev/null && \
             echo \"{MARK}{number} {} $start $(now)\"\n",
            u64::from(mib) << 20
        );
    }
    script
}

/// Parses the MB/s of each measurement in [`WORK`] from the console; `None` when one is missing.
pub fn rates(console: &str) -> Option<Vec<f64>> {
    let line = |number: usize| {
        let mark = format!("{MARK}{number} ");
        console.lines().find_map(|line| line.split_once(&mark))
    };
    (0..WORK.len())
        .map(|number| rate(line(number)?.1))
        .collect()
}

/// The MB/s of a line `BYTES START END`, times in nanoseconds.
fn rate(line: &str) -> Option<f64> {
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (bytes, start, end) = (next()?, next()?, next()?);
    let nanoseconds = end.checked_sub(start).filter(|passed| *passed > 0)?;
    Some(bytes as f64 * 1e3 / nanoseconds as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_rates_from_the_console() {
        let console: String = (0..WORK.len())
            .map(|number| format!("[    1.0] x {MARK}{number} 64000000 1000 250001000\r\n"))
            .collect();
        assert_eq!(rates(&console), Some(vec![256.0; WORK.len()]));
        let cut = console.rsplit_once("[ ").map_or("", |(most, _)| most);
        assert_eq!(rates(cut), None);
        for line in ["", "64 1 ", "64 2 1", "64 2 2", "64 1 x"] {
            assert_eq!(rate(line), None, "{line}");
        }
    }
}
