//! Outputs.

use super::{PlanError, name};
use crate::spec::{Field, OutputPath};

/// Validates outputs.
///
/// # Errors
/// The first invalid name or path.
pub fn check(outputs: &[OutputPath]) -> Result<(), PlanError> {
    for (index, output) in outputs.iter().enumerate() {
        let OutputPath { name, path } = output;
        let field = |name| Field::new("outputs").index(index).name(name);
        name::check(name, "output").map_err(|error| error.at(field("name")))?;
        if outputs[..index].iter().any(|other| other.name == *name) {
            return Err(
                PlanError::invalid(format!("two outputs are named {name:?}"))
                    .at(field("name"))
                    .remediation("use a unique name for each output"),
            );
        }
        let why = match path {
            path if !path.starts_with('/') => "not an absolute path",
            path if path.contains('\0') => "contains a NUL byte",
            path if path.trim_matches(['/', '.']).is_empty() => "the whole root is not an output",
            _ => continue,
        };
        let message = format!("output {name}: invalid path {path:?}: {why}");
        return Err(PlanError::invalid(message)
            .at(field("path"))
            .remediation("use --output NAME=/guest/path"));
    }
    Ok(())
}
