//! Ordered rules. The first that matches decides; if none matches, the answer is no.

mod decide;
mod error;
mod rule;

pub(crate) use decide::Decision;
pub use error::{PolicyError, RuleError, ShownRule};
pub(crate) use rule::Action;
use rule::Rule;

/// The maximum number of rules: what a new connection may cost.
pub const MAX_RULES: usize = 1000;

/// What a guest may send: rules in order.
///
/// An empty policy denies everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Parses a rule from each text.
    ///
    /// # Errors
    /// The first rule that is invalid, or more than [`MAX_RULES`] of them.
    pub fn parse<T: AsRef<str>>(rules: impl IntoIterator<Item = T>) -> Result<Self, PolicyError> {
        let rules = (rules.into_iter())
            .map(|text| text.as_ref().parse::<Rule>())
            .collect::<Result<Vec<_>, _>>()?;
        if rules.len() > MAX_RULES {
            return Err(PolicyError::TooMany { count: rules.len() });
        }
        Ok(Self { rules })
    }
}

#[cfg(test)]
mod tests;
