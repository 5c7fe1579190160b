//! The inside of this crate for the fuzz target in `tests/fuzz`: checks texts without reading the
//! schema anew for each.

use crate::{KnownNames, LoadError, PolicyFile, Report, check::inspect, schema::Language};

/// [`crate::check_files`] for many sets.
#[derive(Debug)]
pub struct Checker(Language);

impl Checker {
    /// Reads the schema.
    pub fn new() -> Result<Self, LoadError> {
        Language::load().map(Self).map_err(LoadError::Schema)
    }

    /// The findings in these texts.
    pub fn check(&self, files: &[PolicyFile], known: &KnownNames) -> Report {
        inspect(&self.0, files, Some(known)).1
    }
}
