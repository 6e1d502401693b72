//! The frequency of the guest's time stamp counter, passed to the guest rather than measured by it.
//!
//! Under TCG the guest's TSC is the host's. A guest that measures its frequency compares it with an
//! emulated timer. On a busy host that fails; a kernel with hardware-reduced ACPI then has no clock
//! and hangs. Therefore the host's frequency is passed on the kernel command line.

use std::fs;

/// The kernel parameter (`tsc_early_khz`, kernel-parameters.txt); `None` when this host does not
/// report the frequency.
pub fn kernel_parameter() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    Some(format!("tsc_early_khz={}", khz(&cpuinfo)?))
}

/// The TSC's frequency in kHz. Linux derives `bogomips` from it: twice the frequency in MHz.
fn khz(cpuinfo: &str) -> Option<u64> {
    let line = cpuinfo.lines().find(|line| line.starts_with("bogomips"))?;
    let (_, value) = line.split_once(':')?;
    let (whole, hundredths) = value.trim().split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    let mips_100 = whole.parse::<u64>().ok()?.checked_mul(100)? + hundredths.parse::<u64>().ok()?;
    Some(mips_100.checked_mul(5)?).filter(|khz| *khz > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bogomips_are_twice_the_frequency() {
        let cpuinfo = "processor\t: 0\ncpu MHz\t\t: 3000.1\nbogomips\t: 4799.99\nflags\t: a\n";
        assert_eq!(khz(cpuinfo), Some(2_399_995));
    }

    #[test]
    fn an_invalid_frequency_is_none() {
        for text in [
            "",
            "bogomips",
            "bogomips: x.yy",
            "bogomips: 1",
            "bogomips: 0.00",
        ] {
            assert_eq!(khz(text), None, "{text}");
        }
    }
}
