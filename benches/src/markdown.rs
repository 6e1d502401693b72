//! A section of a Markdown file that a benchmark writes.

use std::fs;
use std::path::Path;

use crate::Error;

/// Puts a section between the two marks of this benchmark, `<!-- NAME: begin -->` and
/// `<!-- NAME: end -->`; the rest of the file stays as it is.
///
/// # Errors
/// When there is no such file, or it lacks a mark.
pub fn put(path: &Path, name: &str, section: &str) -> Result<(), Error> {
    let text = fs::read_to_string(path).map_err(Error::file(path))?;
    let [begin, end] = ["begin", "end"].map(|side| format!("<!-- {name}: {side} -->"));
    let missing = |marker: &str| Error::NoPlace {
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
    fn only_what_is_between_the_marks_is_replaced() {
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
