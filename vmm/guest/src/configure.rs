//! Configures a VM: entropy, clock, host name, root, certificates, kernel modules, network, disks.
//!
//! Entropy and clock are set before any program of the image can run.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use microagent_proto::agent::{Configure, Failure, FailureKind, Network};
use microagent_proto::error_chain;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::cgroup::Cgroups;
use crate::disks;
use crate::module_disk;
use crate::network;
use crate::root;
use crate::trust;
use crate::uevent::Uevents;

/// Why a VM could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// The clock cannot be set.
    #[error("cannot set the guest's clock")]
    Clock(#[source] io::Error),
    /// The entropy pool cannot be changed.
    #[error("cannot add to the guest's entropy pool")]
    Entropy(#[source] io::Error),
    /// The kernel refuses the host name.
    #[error("cannot set the host name to {name:?}")]
    Hostname {
        /// The name.
        name: String,
        /// The error from the kernel.
        source: io::Error,
    },
    /// The root file system cannot be mounted.
    #[error(transparent)]
    Root(#[from] root::RootError),
    /// Another disk cannot be mounted.
    #[error(transparent)]
    Disk(#[from] disks::DiskError),
    /// The network interface cannot be configured.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// The certificates cannot be added to those of the image.
    #[error(transparent)]
    Trust(#[from] trust::TrustError),
}

impl From<ConfigureError> for Failure {
    fn from(error: ConfigureError) -> Failure {
        Failure {
            kind: match error {
                ConfigureError::Root(_) | ConfigureError::Disk(_) => FailureKind::Mount,
                _ => FailureKind::System,
            },
            message: error_chain(&error),
        }
    }
}

/// The result of a configuration.
#[derive(Debug, Default)]
pub struct Configured {
    /// The duration of all mounts, in microseconds.
    pub mount_micros: u64,
    /// The mount points of disks other than the root, in mount order.
    pub disks: Vec<PathBuf>,
    /// Where the groups of commands are made, if they have any.
    pub cgroups: Option<Arc<Cgroups>>,
    /// The root is mounted read-only.
    pub read_only: bool,
    /// The network interface as it is.
    pub network: Mutex<Option<Network>>,
}

/// Applies `request`: entropy, clock, name, root, certificates, modules, network, disks, in that order.
pub fn configure(request: &Configure, uevents: &Uevents) -> Result<Configured, ConfigureError> {
    identify(&request.entropy, request.unix_nanos, &request.hostname)?;
    let start = Instant::now();
    disks::wait_for_sizes(&request.disk_sectors, uevents)?;
    root::switch_to(&request.root, uevents)?;
    // Before mounting disks, which may cover these files.
    root::write_names(&request.hostname, request.root.read_only)?;
    trust::apply(&request.trust)?;
    module_disk::provide(request.modules.as_deref(), uevents);
    if let Some(network) = &request.network {
        network::configure(network, uevents)?;
        root::write_resolver(&network::resolv_conf(network), request.root.read_only)?;
    }
    let disks = disks::mount_all(&request.disks, uevents)?;
    let mount_micros = start.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
    Ok(Configured {
        mount_micros,
        disks,
        cgroups: (request.cgroups).then(Cgroups::prepare).flatten(),
        read_only: request.root.read_only,
        network: Mutex::new(request.network.clone()),
    })
}

/// Adds entropy, and sets the clock and the host name.
pub fn identify(entropy: &[u8], unix_nanos: u64, hostname: &str) -> Result<(), ConfigureError> {
    add_entropy(entropy).map_err(ConfigureError::Entropy)?;
    set_clock(unix_nanos).map_err(ConfigureError::Clock)?;
    rustix::system::sethostname(hostname.as_bytes()).map_err(|error| ConfigureError::Hostname {
        name: hostname.to_owned(),
        source: error.into(),
    })
}

fn set_clock(unix_nanos: u64) -> io::Result<()> {
    const NANOS: u64 = 1_000_000_000;
    let (Ok(tv_sec), Ok(tv_nsec)) = (
        (unix_nanos / NANOS).try_into(),
        (unix_nanos % NANOS).try_into(),
    ) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok(clock_settime(
        ClockId::Realtime,
        Timespec { tv_sec, tv_nsec },
    )?)
}

/// Mixes `bytes` into the pool, credits them, and reseeds the kernel's generator from the pool:
/// without the reseed a restored VM would continue the random numbers of the snapshot.
fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let pool = File::options().write(true).open("/dev/urandom")?;
    random::add(&pool, bytes)?;
    random::reseed(&pool)
}

/// The two ioctls of random(4), which none of the dependencies wraps.
#[allow(unsafe_code)]
mod random {
    use std::fs::File;
    use std::io;

    use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};

    /// The maximum number of bytes added at once.
    const MAX: usize = 64;

    /// `struct rand_pool_info` with its flexible array at a fixed size.
    #[repr(C)]
    struct PoolInfo {
        entropy_count: i32,
        buf_size: i32,
        buf: [u8; MAX],
    }

    /// `_IOW('R', 0x03, int[2])`.
    const RNDADDENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
    /// `_IO('R', 0x07)`.
    const RNDRESEEDCRNG: Opcode = opcode::none(b'R', 0x07);

    pub fn add(pool: &File, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len().min(MAX);
        let mut info = PoolInfo {
            entropy_count: 8 * length as i32,
            buf_size: length as i32,
            buf: [0; MAX],
        };
        info.buf[..length].copy_from_slice(&bytes[..length]);
        // SAFETY: needed because there is no safe wrapper of RNDADDENTROPY. The driver reads the
        // two counts and then `buf_size` bytes, at most the length of `buf`, and writes nothing.
        // `info` has the kernel's layout (two ints, then the bytes, no padding).
        unsafe { ioctl(pool, Setter::<RNDADDENTROPY, PoolInfo>::new(info))? };
        Ok(())
    }

    pub fn reseed(pool: &File) -> io::Result<()> {
        // SAFETY: needed because there is no safe wrapper of RNDRESEEDCRNG. It takes no argument
        // and accesses no memory of this process.
        unsafe { ioctl(pool, NoArg::<RNDRESEEDCRNG>::new())? };
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_codes_are_those_of_the_kernels_header() {
            // Values of linux/random.h, printed by a C program.
            assert_eq!(RNDADDENTROPY, 0x4008_5203);
            assert_eq!(RNDRESEEDCRNG, 0x5207);
        }
    }
}
