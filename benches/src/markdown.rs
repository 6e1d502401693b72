//! Generated sections of Markdown files.

use std::fs;
use std::path::Path;

use crate::Error;

/// Replaces the section between the markers `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
///
/// # Errors
/// When the file cannot be read or written, or lacks a marker.
pub fn put(path: &Path, name: &str, section: &str) -> Result<(), Error> {
    let text = fs::read_to_string(path).map_err(Error::file(path))?;
    let [begin, end] = ["begin", "end"].map(|side| format!("<!-- {name}: {side} -->"));
    let missing = |marker: &str| Error::NoMarker {
        path: path.to_owned(),
        marker: marker.to_owned(),
    };
    let (before, rest) = text.split_once(&begin).ok_or_else(|| missing(&begin))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| missing(&end))?;
    fs::write(path, format!("{before}{begin}\n{section}{end}{after}")).map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_only_the_section_between_the_markers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.md");
        fs::write(&path, "a <!-- x: begin -->old<!-- x: end --> b\n").unwrap();
        put(&path, "x", "new\n").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "a <!-- x: begin -->\nnew\n<!-- x: end --> b\n");
        let error = put(&path, "y", "").unwrap_err().to_string();
        assert!(error.contains("<!-- y: begin -->"), "{error}");
    }
}
