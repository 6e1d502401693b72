//! Finds or builds what a VM boots, and says what that leads to on the command line.

use std::path::Path;

use microagent_pipeline::{ErrorKind, Pipeline};
use microagent_vmm::boot::minimum_memory_mib;
use microagent_workspace::disk_image::DiskImageError;
use microagent_workspace::prepare::{
    self, BootPlan, PrepareError, PrepareFailure, Prepared, Times,
};
use microagent_workspace::shell;

use super::disks::image_failure;
use super::phases::{Phases, millis};
use crate::failure::{EXIT_RUN_FAILED, Failure};
use crate::output::Output;
use crate::termination::Termination;

/// Finds or builds all artifacts; `root` makes the root file system.
pub fn prepare<R>(
    pipeline: &Pipeline,
    plan: &BootPlan,
    output: Output,
    phases: &mut Phases,
    termination: &Termination,
    root: impl FnOnce(&mut Times) -> Result<R, PrepareError>,
) -> Result<Prepared<R>, Failure> {
    let install = || output.notice("no kernel is installed; installing the distribution's kernel");
    let prepared = match prepare::prepare(pipeline, plan, install, root) {
        Ok(prepared) => prepared,
        Err(PrepareFailure {
            error,
            installing: false,
        }) => return Err((*error).into()),
        // The kernel thread is still installing; terminate as for an interrupt.
        Err(PrepareFailure { error, .. }) => {
            let failure = Failure::from(*error);
            termination.terminate(failure.exit_code(EXIT_RUN_FAILED), &failure)
        }
    };
    let times = &prepared.times;
    phases.resolve = times.resolve.map(millis);
    phases.rootfs = times.rootfs.map(millis);
    phases.bundles = times.bundles.map(millis);
    phases.kernel = times.kernel.map(millis);
    phases.initramfs = times.initramfs.map(millis);
    Ok(prepared)
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Failure {
        match error {
            PrepareError::Pipeline(error) => error.into(),
            PrepareError::NoCommand(_) => Failure::caused(ErrorKind::Usage, &error)
                .remediation("use --exec 'COMMAND', or add a command after the image"),
            PrepareError::Disk { path, source } => root_failure(&path, source),
            PrepareError::Size { minimum, .. } => Failure::usage(error.to_string())
                .remediation(format!("use --size-mib {minimum} or more, or leave it out")),
            PrepareError::Thread(error) => Failure::caused(ErrorKind::Host, &error),
            error => Failure::caused(ErrorKind::Internal, &error),
        }
    }
}

/// The failure of a root file system of the user.
fn root_failure(path: &Path, error: DiskImageError) -> Failure {
    let name = format!("the root file system {}", path.display());
    match error {
        DiskImageError::NotAFile { directory } => {
            let failure = Failure::new(
                ErrorKind::Unsupported,
                format!("{name} is not a regular file"),
            );
            match directory {
                true => failure.remediation(format!(
                    "make one of the directory: mke2fs -t ext4 -d {} rootfs.ext4 1G",
                    shell::word(path)
                )),
                false => failure,
            }
        }
        DiskImageError::Unclean => Failure::new(ErrorKind::Conflict, format!("{name} {error}"))
            .remediation(format!("repair it: e2fsck -p {}", shell::word(path))),
        error => image_failure(&name, error),
    }
}

/// Refuses a VM in which the kernel could not start the command; `given` is the flag or field with
/// its memory.
///
/// # Errors
/// A usage error that names the minimum.
pub fn check_memory(
    kernel: &Path,
    initramfs: &Path,
    memory_mib: u64,
    cpu_count: u32,
    given: &str,
) -> Result<(), Failure> {
    let minimum = minimum_memory_mib(kernel, initramfs, cpu_count).map_err(|error| {
        Failure::caused(ErrorKind::Host, &error).maybe_remediation(error.remediation())
    })?;
    if memory_mib >= minimum {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{given} {memory_mib} is below the minimum of {minimum} MiB for this kernel"
    ))
    .remediation(format!("use --memory {minimum} or more")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_default_command_needs_one() {
        let failure = Failure::from(PrepareError::NoCommand("oci:x".into()));
        assert_eq!(
            failure,
            Failure::new(ErrorKind::Usage, "image oci:x has no default command")
                .remediation("use --exec 'COMMAND', or add a command after the image")
        );
    }
}
