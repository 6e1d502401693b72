//! `--output NAME=/guest/path`.

use microagent_workspace::plan::outputs;
use microagent_workspace::spec::OutputPath;

use crate::failure::Failure;

/// Validates the values of `--output`.
///
/// # Errors
/// The first invalid value.
pub(super) fn parse(words: &[String]) -> Result<Vec<OutputPath>, Failure> {
    let outputs = words.iter().map(|word| {
        let (name, path) = word.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--output {word:?} has no name"))
                .remediation("use --output NAME=/guest/path")
        })?;
        Ok(OutputPath {
            name: name.to_owned(),
            path: path.to_owned(),
        })
    });
    let outputs = outputs.collect::<Result<Vec<_>, Failure>>()?;
    outputs::check(&outputs)?;
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_have_unique_names_and_absolute_paths() {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let outputs = parse(&words(&["a=/x=y", "b-1=/b/"])).unwrap();
        assert_eq!((&*outputs[0].name, &*outputs[0].path), ("a", "/x=y"));
        for (given, message) in [
            (&["/x"][..], "--output \"/x\" has no name"),
            (&["A=/x"], "invalid output name \"A\""),
            (
                &["a=x"],
                "output a: invalid path \"x\": not an absolute path",
            ),
            (&["a="], "output a: invalid path \"\": not an absolute path"),
            (
                &["a=//."],
                "output a: invalid path \"//.\": the whole root is not an output",
            ),
            (&["a=/x", "a=/y"], "two outputs are named \"a\""),
        ] {
            assert_eq!(parse(&words(given)).unwrap_err().message, message);
        }
    }
}
