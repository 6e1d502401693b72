//! Finds QEMU and checks that it supports what a VM needs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::engine::EngineError;

/// The program's name.
const PROGRAM: &str = "qemu-system-x86_64";

/// The command that installs it on Debian and Ubuntu.
pub const INSTALL_QEMU: &str = "sudo apt-get install --yes qemu-system-x86";

/// The device types that a VM needs, by their QEMU names.
const FRONT_ENDS: [&str; 3] = [
    "vhost-user-blk",
    "vhost-user-vsock-device",
    "virtio-rng-device",
];

/// A QEMU installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuInfo {
    /// The program.
    pub path: PathBuf,
    /// The version that it reports.
    pub version: String,
    /// The missing requirements (the `microvm` machine, device types). Empty if it can be used.
    pub missing: Vec<&'static str>,
}

/// Finds QEMU on the search path.
///
/// # Errors
/// [`EngineError::Missing`], with the package to install.
pub fn locate() -> Result<PathBuf, EngineError> {
    // Without it, where execvp(3) searches.
    let paths = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&paths)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(PROGRAM))
        .find(|path| {
            rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
        })
        .ok_or_else(|| EngineError::Missing {
            what: format!("{PROGRAM} is not installed"),
            remediation: INSTALL_QEMU.into(),
        })
}

/// Finds QEMU and queries its version, machines and devices. Starts it once.
///
/// # Errors
/// [`EngineError::Missing`] when it is not installed, [`EngineError::Qemu`] when it does not run.
pub fn describe() -> Result<QemuInfo, EngineError> {
    let path = locate()?;
    // One process for all queries: QMP reports the version, the machines and the device types.
    let output = Command::new(&path)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "none",
            "-qmp",
            "stdio",
        ])
        .stdin(queries().map_err(super::failed("query QEMU"))?)
        .stderr(Stdio::piped())
        .output()
        .map_err(super::failed("start QEMU"))?;
    let answers = String::from_utf8_lossy(&output.stdout);
    let version = answers.lines().find_map(greeting).ok_or_else(|| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        EngineError::Qemu(stderr.lines().last().unwrap_or("did not answer").to_owned())
    })?;
    let has = |name: &str| answers.contains(&format!("\"{name}\""));
    let mut missing = Vec::new();
    if !has("microvm") {
        missing.push("microvm");
    }
    missing.extend(FRONT_ENDS.iter().filter(|name| !has(name)));
    Ok(QemuInfo {
        path,
        version,
        missing,
    })
}

/// A standard input that holds the queries.
fn queries() -> std::io::Result<Stdio> {
    const QUERIES: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n\
        {\"execute\":\"query-machines\"}\n\
        {\"execute\":\"qom-list-types\",\"arguments\":{\"implements\":\"virtio-device\"}}\n\
        {\"execute\":\"quit\"}\n";
    let (reader, writer) = std::io::pipe()?;
    // The text is far smaller than the pipe's buffer, so this does not block.
    std::io::Write::write_all(&mut &writer, QUERIES)?;
    Ok(reader.into())
}

/// The version in the QMP greeting.
fn greeting(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let version = line.get("QMP")?.get("version")?.get("qemu")?;
    let number = |key: &str| version.get(key)?.as_u64();
    Some(format!(
        "{}.{}.{}",
        number("major")?,
        number("minor")?,
        number("micro")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_qemu_has_everything_that_a_vm_needs() {
        // Without QEMU there is nothing to test; other tests report that it is missing.
        if locate().is_err() {
            return;
        }
        let info = describe().unwrap();
        let output = Command::new(&info.path).arg("--version").output().unwrap();
        let version = String::from_utf8(output.stdout).unwrap();
        assert!(
            version.contains(&format!("version {}", info.version)),
            "{version}: {}",
            info.version
        );
        assert_eq!(info.missing, Vec::<&str>::new());
    }
}
