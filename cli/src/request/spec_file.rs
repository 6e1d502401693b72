//! A specification as the user wrote it, to say where a value that is refused comes from.

use std::path::{Path, PathBuf};

use microagent_workspace::plan::{PlanError, in_field};
use microagent_workspace::spec::{Field, Spec};
use serde_json::Value;

use crate::failure::Failure;

/// A document, parsed. Its default is an empty one.
#[derive(Debug, Default)]
pub struct SpecFile {
    /// What it says.
    pub spec: Spec,
    /// The directory of its relative paths.
    pub base: PathBuf,
    /// What messages call it.
    shown: String,
    text: String,
}

impl SpecFile {
    /// Parses `text`, the content of `path`: JSON if its name or its first character says so, otherwise
    /// YAML.
    ///
    /// # Errors
    /// The first mistake, with its line.
    pub fn parse(path: &Path, base: PathBuf, text: String) -> Result<SpecFile, Failure> {
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json")
            || text.trim_start().starts_with('{');
        let parsed = match is_json {
            true => Spec::from_json(&text),
            false => Spec::from_yaml(&text),
        };
        let shown = path.display().to_string();
        let spec = parsed.map_err(|error| {
            let separator = if error.line == 0 { ": " } else { ":" };
            Failure::usage(format!("{shown}{separator}{error}"))
                .remediation("the fields: microagent spec --schema")
        })?;
        Ok(SpecFile {
            spec,
            base,
            shown,
            text,
        })
    }

    /// The field of the document with the value of `field` in `used`, which was made of the document.
    /// `None` if the value is not that of the document.
    pub fn find(&self, field: &Field, used: &Spec) -> Option<Field> {
        let value = |spec: &Spec| serde_json::to_value(spec).unwrap_or(Value::Null);
        let resolved = self.absolute().unwrap_or_default();
        field.find_in(&value(&resolved), &value(used))
    }

    /// The failure of the document's `field`: file, line and field are named.
    pub fn failure(&self, field: &Field, failure: Failure) -> Failure {
        let message = in_field(field, &failure.message);
        let message = match field.line_in(&self.text) {
            0 => format!("{}: {message}", self.shown),
            line => format!("{}:{line}: {message}", self.shown),
        };
        Failure { message, ..failure }
    }

    /// Why no plan can be made of `used`, which was made of the document and of flags.
    pub fn plan_failure(&self, used: &Spec, error: PlanError) -> Failure {
        let field = error.field().and_then(|field| self.find(&field, used));
        match field {
            Some(field) => self.failure(&field, error.into()),
            None => error.into(),
        }
    }

    /// The specification, with absolute paths.
    ///
    /// # Errors
    /// An empty path.
    pub fn absolute(&self) -> Result<Spec, Failure> {
        let mut spec = self.spec.clone();
        let resolve = |field: Field, path: &mut PathBuf| -> Result<(), Failure> {
            *path = std::path::absolute(self.base.join(&*path)).map_err(|error| {
                let message = format!("invalid path {}: {error}", path.display());
                self.failure(&field, Failure::usage(message))
            })?;
            Ok(())
        };
        for (field, path) in [("kernel", &mut spec.kernel), ("rootfs", &mut spec.rootfs)] {
            if let Some(path) = path {
                resolve(Field::new(field), path)?;
            }
        }
        for (field, disks) in [("disks", &mut spec.disks), ("bundles", &mut spec.bundles)] {
            for (index, disk) in disks.iter_mut().enumerate() {
                resolve(Field::new(field).index(index).name("path"), &mut disk.path)?;
            }
        }
        for (index, file) in spec.files.iter_mut().enumerate() {
            resolve(Field::new("files").index(index).name("src"), &mut file.src)?;
        }
        for (index, path) in spec.ca_certs.iter_mut().enumerate() {
            resolve(Field::new("caCerts").index(index), path)?;
        }
        Ok(spec)
    }
}
