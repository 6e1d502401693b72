//! Why a specification is refused.

use std::fmt;

use microagent_pipeline::ReferenceError;

use crate::spec::Field;

/// A value that no workspace can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A value is invalid, or conflicts with another one.
    #[error(transparent)]
    Invalid(Invalid),
    /// The image reference is malformed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// An invalid value. [`Display`](fmt::Display) names the field.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The field that has it, if it is that of one.
    pub field: Option<Field>,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub remediation: Option<String>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => f.write_str(&in_field(field, &self.message)),
            None => f.write_str(&self.message),
        }
    }
}

impl PlanError {
    /// An invalid value.
    pub fn invalid(message: impl Into<String>) -> PlanError {
        PlanError::Invalid(Invalid {
            message: message.into(),
            ..Invalid::default()
        })
    }

    /// Sets the field that has the value.
    #[must_use]
    pub fn at(mut self, field: Field) -> PlanError {
        if let PlanError::Invalid(invalid) = &mut self {
            invalid.field = Some(field);
        }
        self
    }

    /// The field that has the value, if it is that of one.
    pub fn field(&self) -> Option<Field> {
        match self {
            PlanError::Invalid(invalid) => invalid.field.clone(),
            PlanError::Reference(_) => Some(Field::new("image")),
        }
    }

    /// Sets the way out.
    #[must_use]
    pub fn remediation(mut self, remediation: impl Into<String>) -> PlanError {
        if let PlanError::Invalid(invalid) = &mut self {
            invalid.remediation = Some(remediation.into());
        }
        self
    }
}

/// A message about a field. The field is not named twice.
pub fn in_field(field: &Field, message: &str) -> String {
    let field = field.to_string();
    match message.starts_with(&field) {
        true => message.to_owned(),
        false => format!("{field}: {message}"),
    }
}
