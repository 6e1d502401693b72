//! The disk of a workspace's guest as one file, put together as docs say: the base in the store, and
//! over it the blocks of the delta that the presence map has.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Error, tool};

const BLOCK: usize = 4096;
/// Where the bits of a presence map begin, in bytes.
const BITS: usize = 4096;

/// Writes the disk of `workspace` in the state directory `state` to `out`.
///
/// # Errors
/// Those of the file system, and [`Error::Unexpected`] if there is no such workspace.
pub fn write(state: &Path, workspace: &str, out: &Path) -> Result<(), Error> {
    let directory = state.join("workspaces").join(workspace);
    let path = directory.join("spec.json");
    let text = fs::read(&path).map_err(Error::file(&path))?;
    let spec: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let digest = spec["recorded"]["rootfs"].as_str().unwrap_or_default();
    let base = digest.strip_prefix("sha256:");
    let base = base.ok_or_else(|| Error::Unexpected {
        what: "no root file system is recorded".to_owned(),
        got: path.display().to_string(),
    })?;
    let base = state.join("cas/sparse").join(base);
    tool::run(
        "cp",
        [
            "--sparse=always".as_ref(),
            base.as_os_str(),
            out.as_os_str(),
        ],
    )?;
    let delta = directory.join("root.delta");
    let presence = directory.join("root.presence");
    if !fs::metadata(&delta).is_ok_and(|delta| delta.len() > 0) {
        return Ok(());
    }
    let map = fs::read(&presence).map_err(Error::file(&presence))?;
    let from = File::open(&delta).map_err(Error::file(&delta))?;
    let to = File::options().write(true).open(out);
    let to = to.map_err(Error::file(out))?;
    let length = from.metadata().map_err(Error::file(&delta))?.len();
    let mut block = [0; BLOCK];
    // Least significant bit first, in little-endian words: byte by byte.
    for (index, bits) in map[BITS..].iter().enumerate() {
        for bit in 0..8 {
            let offset = ((index * 8 + bit) * BLOCK) as u64;
            if bits >> bit & 1 == 0 || offset >= length {
                continue;
            }
            let part = &mut block[..BLOCK.min((length - offset) as usize)];
            from.read_exact_at(part, offset)
                .and_then(|()| to.write_all_at(part, offset))
                .map_err(Error::file(out))?;
        }
    }
    Ok(())
}
