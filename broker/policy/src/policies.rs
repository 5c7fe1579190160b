//! A policy set that is ready to decide: read, checked, indexed.

use std::{collections::HashMap, path::Path};

use cedar_policy::Policy;
use serde_json::Value;

use crate::{
    KnownNames, LoadError, PolicyFile, Report, check, conditions::Rules, files, index::Index,
    schema::Language,
};

/// Policies, checked and ready to decide. A set never changes; to change policy, load another one.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) language: Language,
    pub(crate) rules: Rules,
    pub(crate) index: Index,
    /// `@reason` by policy id.
    pub(crate) reasons: HashMap<String, String>,
    files: Vec<PolicyFile>,
    hash: String,
    len: usize,
    reads_counts: bool,
}

/// The counters in the context of a request for access.
const COUNTERS: [&str; 2] = ["liveInTask", "liveOfAgent"];

impl PolicySet {
    /// Reads the `.cedar` files of `dir`. An error in any of them refuses the whole set; warnings
    /// do not. A directory without such files makes a set that denies everything.
    pub fn load_dir(dir: &Path) -> Result<Self, LoadError> {
        Self::parse(&files::read_dir(dir)?)
    }

    /// Reads the `.cedar` files of `dir` once. Returns what a check of them finds, with references
    /// compared against `known`, and the set of the same texts, unless the check finds an error.
    pub fn load_and_check(
        dir: &Path,
        known: &KnownNames,
    ) -> Result<(Report, Option<Self>), LoadError> {
        Self::inspect(&files::read_dir(dir)?, Some(known))
    }

    /// Makes the set from texts that were read already, in any order.
    pub fn parse(files: &[PolicyFile]) -> Result<Self, LoadError> {
        let (report, set) = Self::inspect(files, None)?;
        set.ok_or(LoadError::Refused(report))
    }

    fn inspect(
        files: &[PolicyFile],
        known: Option<&KnownNames>,
    ) -> Result<(Report, Option<Self>), LoadError> {
        let language = Language::load().map_err(LoadError::Schema)?;
        let (policies, report) = check::inspect(&language, files, known);
        if report.has_errors() {
            return Ok((report, None));
        }
        let set = Self::of(language, &policies, files).map_err(LoadError::Schema)?;
        Ok((report, Some(set)))
    }

    /// Makes the set from policies that were checked, and the files they are in.
    pub(crate) fn of(
        language: Language,
        policies: &[Policy],
        files: &[PolicyFile],
    ) -> Result<Self, String> {
        let reasons = policies
            .iter()
            .filter_map(|p| Some((p.id().to_string(), p.annotation("reason")?.to_owned())))
            .collect();
        let forms: Vec<Option<Value>> = policies.iter().map(|p| p.to_json().ok()).collect();
        let reads = |form: &Option<Value>| form.as_ref().is_none_or(reads_counts);
        let reads_counts = forms.iter().any(reads);
        let rules = Rules::of(policies, forms);
        Ok(Self {
            reads_counts,
            index: Index::build(&language, policies, &rules)?,
            rules,
            language,
            reasons,
            hash: files::set_hash(files),
            files: files.to_vec(),
            len: policies.len(),
        })
    }

    /// The files the set was made from, as they were read.
    pub fn files(&self) -> &[PolicyFile] {
        &self.files
    }

    /// SHA-256 in hex over the schema and the names and contents of the files. Records name the set
    /// by it.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// How many policies there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether a policy reads how many credentials are live. A decision of such a set holds only
    /// while there are no more of them.
    pub const fn reads_counts(&self) -> bool {
        self.reads_counts
    }

    /// Whether there are no policies, so that everything is denied.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Whether a policy names a counter. The JSON form has no comments; a counter's name in a text is
/// taken for the counter. A policy without a JSON form is taken to read them.
fn reads_counts(form: &Value) -> bool {
    let text = form.to_string();
    COUNTERS.iter().any(|counter| text.contains(counter))
}

#[cfg(test)]
mod tests {
    use crate::testing::{World, policies};

    #[test]
    fn a_set_knows_whether_it_reads_counts() {
        let with = |condition: &str| {
            let text = format!(
                "permit (principal, action in Taskpass::Action::\"access\", resource) when {{ {condition} }};"
            );
            policies(&text).reads_counts()
        };
        assert!(with("context.liveOfAgent < 10"));
        assert!(with("context.ttlSeconds < 60 || context.liveInTask == 0"));
        assert!(with("context has liveInTask"));
        assert!(!with("context.ttlSeconds < 60 // liveOfAgent\n"));
        assert!(!World::new().starter().reads_counts());
    }
}
