//! `--output NAME=/guest/path`.

use microagent_workspace::spec::OutputPath;

use super::name;
use crate::failure::Failure;

/// Validates the values of `--output`.
///
/// # Errors
/// The first invalid value.
pub(super) fn parse(words: &[String]) -> Result<Vec<OutputPath>, Failure> {
    let outputs = words.iter().map(|word| {
        let (name, path) = word.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--output {word:?} has no name")).remediation(FORM)
        })?;
        Ok(OutputPath {
            name: name.to_owned(),
            path: path.to_owned(),
        })
    });
    let outputs = outputs.collect::<Result<Vec<_>, Failure>>()?;
    check(&outputs)?;
    Ok(outputs)
}

const FORM: &str = "use --output NAME=/guest/path";

/// Validates outputs, also those of a document.
///
/// # Errors
/// The first invalid name or path.
pub(super) fn check(outputs: &[OutputPath]) -> Result<(), Failure> {
    for (index, output) in outputs.iter().enumerate() {
        let OutputPath { name, path } = output;
        name::check(name, "output")?;
        if outputs[..index].iter().any(|other| other.name == *name) {
            return Err(Failure::usage(format!("two outputs are named {name:?}"))
                .remediation("use a unique name for each output"));
        }
        let why = match path {
            path if !path.starts_with('/') => "not an absolute path",
            path if path.contains('\0') => "contains a NUL byte",
            path if path.trim_matches(['/', '.']).is_empty() => "the whole root is not an output",
            _ => continue,
        };
        let message = format!("output {name}: invalid path {path:?}: {why}");
        return Err(Failure::usage(message).remediation(FORM));
    }
    Ok(())
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
