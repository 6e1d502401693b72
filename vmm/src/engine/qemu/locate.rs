//! Is there a QEMU, and can it do what is needed?

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::engine::EngineError;

/// The program's name.
const PROGRAM: &str = "qemu-system-x86_64";

/// Front ends that a VM needs, as QEMU lists them.
const FRONT_ENDS: [&str; 3] = [
    "vhost-user-blk",
    "vhost-user-vsock-device",
    "virtio-rng-device",
];

/// What a QEMU is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuInfo {
    /// The program.
    pub path: PathBuf,
    /// Its version, as it says.
    pub version: String,
    /// What it lacks of what a VM needs: the `microvm` machine, front ends. Empty when it is fit.
    pub missing: Vec<&'static str>,
}

/// Finds QEMU on the search path.
///
/// # Errors
/// [`EngineError::Missing`] with the package that has it.
pub fn locate() -> Result<PathBuf, EngineError> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(PROGRAM))
        .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file())
        .ok_or_else(|| EngineError::Missing {
            what: format!("{PROGRAM} is not installed"),
            remediation: "install QEMU: `apt-get install qemu-system-x86` (Debian, Ubuntu), `dnf install qemu-system-x86` (Fedora)".into(),
        })
}

/// Finds QEMU and asks it what it can do; starts it once.
///
/// # Errors
/// [`EngineError::Missing`] when there is none, [`EngineError::Qemu`] when it does not run.
pub fn describe() -> Result<QemuInfo, EngineError> {
    let path = locate()?;
    // One process for all questions: the monitor knows the version, the machines and the devices.
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
        .stdin(questions().map_err(super::failed("ask QEMU"))?)
        .stderr(Stdio::piped())
        .output()
        .map_err(super::failed("start QEMU"))?;
    let answers = String::from_utf8_lossy(&output.stdout);
    let version = answers.lines().find_map(greeting).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        EngineError::Qemu(said.lines().last().unwrap_or("did not answer").to_owned())
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

/// What is asked, as a standard input.
fn questions() -> std::io::Result<Stdio> {
    const QUESTIONS: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n\
        {\"execute\":\"query-machines\"}\n\
        {\"execute\":\"qom-list-types\",\"arguments\":{\"implements\":\"virtio-device\"}}\n\
        {\"execute\":\"quit\"}\n";
    let (reader, writer) = std::io::pipe()?;
    // Far less than a pipe holds, so this does not wait.
    std::io::Write::write_all(&mut &writer, QUESTIONS)?;
    Ok(reader.into())
}

/// The version in the monitor's first line.
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
    fn the_qemu_that_is_installed_is_fit() {
        // Without QEMU there is nothing to test; the harness says so where it matters.
        if locate().is_err() {
            return;
        }
        let info = describe().unwrap();
        let asked = Command::new(&info.path).arg("--version").output().unwrap();
        let asked = String::from_utf8(asked.stdout).unwrap();
        assert!(
            asked.contains(&format!("version {}", info.version)),
            "{asked}: {}",
            info.version
        );
        assert_eq!(info.missing, Vec::<&str>::new());
    }
}
