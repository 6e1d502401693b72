//! Which images the guests of this machine run: operating system, architecture, and the variant of
//! the architecture.
//!
//! Names are normalised as by containerd (`platforms.Normalize`): `x86_64` is `amd64`, `i386` is
//! `386`, case does not matter. Guests have a 64-bit kernel that also runs 32-bit programs
//! (`CONFIG_IA32_EMULATION`); 64-bit images are preferred.
//!
//! A variant of `amd64` is a level of the x86-64 psABI ("Micro-Architecture Levels"), `v1` to `v4`,
//! each with the instructions of those below it. An image without a variant is for `v1`. What
//! counts is the guest's processor, which depends on the engine ([`GuestCpu`]).

use std::fmt;
use std::sync::Arc;

use super::document::{Descriptor, Index, Platform};

/// The platform of images, in OCI terms: operating system and architecture.
pub const PLATFORM: (&str, &str) = ("linux", "amd64");

/// A level of the x86-64 psABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuLevel {
    /// Every x86-64 processor.
    V1,
    /// SSE4.2, POPCNT, CMPXCHG16B; about 2009.
    V2,
    /// AVX2, BMI2, FMA; about 2013.
    V3,
    /// AVX-512 F, BW, CD, DQ, VL.
    V4,
}

impl CpuLevel {
    /// The level of this machine's processor, as far as its operating system lets programs use it.
    pub fn of_host() -> CpuLevel {
        // LAHF and SAHF, which v2 requires, cannot be asked for; every processor with SSE4.2 has
        // them.
        let v2 = is_x86_feature_detected!("cmpxchg16b")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("sse3")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1")
            && is_x86_feature_detected!("sse4.2");
        let v3 = is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("movbe")
            && is_x86_feature_detected!("xsave");
        let v4 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        CpuLevel::highest(v2, v3, v4)
    }

    /// The level of a processor whose CPUID has these registers: ECX of leaf 1, EBX of leaf 7, ECX
    /// of leaf 0x8000_0001. Whether an operating system saves the registers of AVX is not in them.
    pub fn of_cpuid(leaf1_ecx: u32, leaf7_ebx: u32, extended1_ecx: u32) -> CpuLevel {
        let has = |register: u32, bits: &[u32]| bits.iter().all(|bit| register >> bit & 1 == 1);
        // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF.
        let v2 = has(leaf1_ecx, &[0, 9, 13, 19, 20, 23]) && has(extended1_ecx, &[0]);
        // FMA, MOVBE, XSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT.
        let v3 = has(leaf1_ecx, &[12, 22, 26, 28, 29])
            && has(leaf7_ebx, &[3, 5, 8])
            && has(extended1_ecx, &[5]);
        // AVX-512 F, DQ, CD, BW, VL.
        let v4 = has(leaf7_ebx, &[16, 17, 28, 30, 31]);
        CpuLevel::highest(v2, v3, v4)
    }

    /// The level with the features of these levels; a level includes those below it.
    fn highest(v2: bool, v3: bool, v4: bool) -> CpuLevel {
        match (v2, v2 && v3, v2 && v3 && v4) {
            (_, _, true) => CpuLevel::V4,
            (_, true, _) => CpuLevel::V3,
            (true, ..) => CpuLevel::V2,
            _ => CpuLevel::V1,
        }
    }

    fn of_variant(variant: &str) -> Option<CpuLevel> {
        match variant {
            "" | "v1" => Some(CpuLevel::V1),
            "v2" => Some(CpuLevel::V2),
            "v3" => Some(CpuLevel::V3),
            "v4" => Some(CpuLevel::V4),
            _ => None,
        }
    }
}

/// The processor of the guests. It is asked only if an image exists for more than one level,
/// because the answer may need the choice of an engine.
#[derive(Clone)]
pub struct GuestCpu(Arc<dyn Fn() -> CpuLevel + Send + Sync>);

impl GuestCpu {
    /// A processor whose level `level` returns.
    pub fn new(level: impl Fn() -> CpuLevel + Send + Sync + 'static) -> GuestCpu {
        GuestCpu(Arc::new(level))
    }

    pub(crate) fn level(&self) -> CpuLevel {
        (self.0)()
    }
}

/// The processor of this machine.
impl Default for GuestCpu {
    fn default() -> GuestCpu {
        GuestCpu::new(CpuLevel::of_host)
    }
}

impl fmt::Debug for GuestCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestCpu")
    }
}

/// How well a platform suits guests with a suitable processor; the best is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// 32-bit x86.
    Bits32,
    /// 64-bit x86 of this level.
    Bits64(CpuLevel),
}

impl Fit {
    /// Whether the processor of the guests is sufficient.
    pub(crate) fn runs_on(self, cpu: &GuestCpu) -> bool {
        match self {
            Fit::Bits32 | Fit::Bits64(CpuLevel::V1) => true,
            Fit::Bits64(level) => level <= cpu.level(),
        }
    }
}

/// What a platform says about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fits(Fit),
    /// It does not name an architecture.
    Silent,
    Other,
}

/// Reads a platform of an index or a configuration.
pub(crate) fn verdict(os: &str, architecture: &str, variant: &str) -> Verdict {
    let lower = |text: &str| text.to_ascii_lowercase();
    if !matches!(lower(os).as_str(), "" | "linux") {
        return Verdict::Other;
    }
    match lower(architecture).as_str() {
        "" => Verdict::Silent,
        "amd64" | "x86_64" | "x86-64" => match CpuLevel::of_variant(&lower(variant)) {
            Some(level) => Verdict::Fits(Fit::Bits64(level)),
            None => Verdict::Other,
        },
        "386" | "i386" | "i486" | "i586" | "i686" => Verdict::Fits(Fit::Bits32),
        _ => Verdict::Other,
    }
}

/// A platform as text: `linux/arm/v7`.
pub(crate) fn text(os: &str, architecture: &str, variant: &str) -> String {
    let parts = [os, architecture, variant];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

/// The entries of an index in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct Candidates<'a> {
    /// 64-bit entries, the best first.
    pub(crate) bits64: Vec<&'a Descriptor>,
    /// Entries whose configuration decides.
    pub(crate) silent: Vec<&'a Descriptor>,
    /// 32-bit entries.
    pub(crate) bits32: Vec<&'a Descriptor>,
    /// The other platforms.
    pub(crate) others: Vec<String>,
}

impl<'a> Candidates<'a> {
    /// Sorts the entries of an index for guests with this processor.
    pub(crate) fn of(index: &'a Index, cpu: &GuestCpu) -> Candidates<'a> {
        let mut found = Candidates::default();
        let mut bits64 = Vec::new();
        for entry in &index.manifests {
            let none = Platform::default();
            let Platform {
                os,
                architecture,
                variant,
            } = entry.platform.as_ref().unwrap_or(&none);
            match verdict(os, architecture, variant) {
                Verdict::Silent => found.silent.push(entry),
                Verdict::Fits(Fit::Bits32) => found.bits32.push(entry),
                Verdict::Fits(fit) if fit.runs_on(cpu) => bits64.push((fit, entry)),
                // Attestations are for `unknown/unknown`.
                _ if os == "unknown" => {}
                _ => found.others.push(text(os, architecture, variant)),
            }
        }
        // The sort is stable: of two equal entries the first is the best.
        bits64.sort_by_key(|(fit, _)| std::cmp::Reverse(*fit));
        found.bits64 = bits64.into_iter().map(|(_, entry)| entry).collect();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[(&str, &str, &str)]) -> Index {
        let entry = |(number, (os, architecture, variant)): (usize, &(&str, &str, &str))| {
            let platform = Platform {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: (*variant).into(),
            };
            Descriptor {
                size: number as i64,
                platform: Some(platform).filter(|_| *os != "none"),
                ..Descriptor::default()
            }
        };
        Index {
            manifests: platforms.iter().enumerate().map(entry).collect(),
        }
    }

    /// The numbers of the 64-bit, silent and 32-bit candidates on a processor of this level.
    fn order(platforms: &[(&str, &str, &str)], level: CpuLevel) -> [Vec<i64>; 3] {
        let index = index(platforms);
        let cpu = GuestCpu::new(move || level);
        let found = Candidates::of(&index, &cpu);
        [found.bits64, found.silent, found.bits32]
            .map(|entries| entries.iter().map(|entry| entry.size).collect())
    }

    #[test]
    fn the_best_level_that_the_processor_runs_is_first() {
        use CpuLevel::{V1, V2, V3, V4};
        let all = [
            ("linux", "amd64", "v4"),
            ("linux", "amd64", ""),
            ("linux", "amd64", "v3"),
            ("linux", "amd64", "v1"),
            ("linux", "amd64", "v2"),
            ("linux", "amd64", "v5"),
        ];
        for (level, expected) in [
            (V1, vec![1, 3]),
            (V2, vec![4, 1, 3]),
            (V3, vec![2, 4, 1, 3]),
            (V4, vec![0, 2, 4, 1, 3]),
        ] {
            assert_eq!(order(&all, level), [expected, vec![], vec![]]);
        }
        let host = CpuLevel::of_host();
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags: Vec<&str> = flags.split_ascii_whitespace().collect();
        assert_eq!(flags.contains(&"avx512vl"), host == V4);
        assert_eq!(
            flags.contains(&"avx2") && flags.contains(&"bmi2"),
            host >= V3
        );
    }

    #[test]
    fn the_level_of_a_cpuid_is_that_of_the_psabi() {
        use CpuLevel::{V1, V2, V3, V4};
        // Xeon 8370C (Ice Lake), as KVM reports it; without AVX-512; without XSAVE, as KVM in an
        // emulated host; without SSE4.2.
        let (ecx, ebx, extended) = (0x7ffa_3203 | 1 << 13, 0xf1bf_07ab, 0x121);
        let avx512 = 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31;
        for (ecx, ebx, extended, level) in [
            (ecx, ebx, extended, V4),
            (ecx, ebx & !avx512, extended, V3),
            (ecx, ebx & !(1 << 31), extended, V3),
            (ecx & !(1 << 26), ebx, extended, V2),
            (ecx, ebx & !(1 << 5), extended, V2),
            (ecx, ebx, extended & !(1 << 5), V2),
            (ecx, ebx, extended & !1, V1),
            (ecx & !(1 << 20), ebx, extended, V1),
            (0, 0, 0, V1),
        ] {
            assert_eq!(
                CpuLevel::of_cpuid(ecx, ebx, extended),
                level,
                "{ecx:x} {ebx:x} {extended:x}"
            );
        }
    }

    #[test]
    fn the_processor_is_asked_only_if_it_matters() {
        let cpu = GuestCpu::new(|| panic!("asked"));
        let index = index(&[("linux", "amd64", ""), ("linux", "386", "")]);
        assert_eq!(Candidates::of(&index, &cpu).bits64.len(), 1);
    }

    #[test]
    fn names_are_normalised_and_entries_without_a_platform_are_kept_apart() {
        let platforms = [
            ("Linux", "X86_64", ""),
            ("linux", "x86-64", "V1"),
            ("", "AMD64", ""),
            ("linux", "i386", ""),
            ("linux", "i686", ""),
            ("linux", "386", "sse2"),
            ("none", "", ""),
            ("", "", ""),
            ("linux", "", ""),
            ("unknown", "unknown", ""),
            ("windows", "amd64", ""),
            ("linux", "arm", "v7"),
            ("windows", "", ""),
            ("linux", "amd64", "x"),
        ];
        assert_eq!(
            order(&platforms, CpuLevel::V1),
            [vec![0, 1, 2], vec![6, 7, 8], vec![3, 4, 5]]
        );
        let index = index(&platforms);
        assert_eq!(
            Candidates::of(&index, &GuestCpu::default()).others,
            ["windows/amd64", "linux/arm/v7", "windows", "linux/amd64/x"]
        );
    }
}
