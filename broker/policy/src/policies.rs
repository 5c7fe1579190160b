//! A policy set that is ready to decide: read, checked, indexed.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::{PolicyFile, Report, check, files, index::Index, limits, schema::Language};

/// Why a policy set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory or one of its files cannot be read.
    #[error("cannot read `{}`: check that it exists and that this process may read it", path.display())]
    Unreadable {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is over [`limits::FILE_BYTES_MAX`].
    #[error("`{}` is larger than {} bytes: split it into several files", path.display(), limits::FILE_BYTES_MAX)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There are more than [`limits::FILES_MAX`] files.
    #[error("`{}` has more than {} policy files: put several policies into one file", path.display(), limits::FILES_MAX)]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// A file is not text.
    #[error("`{}` is not UTF-8 text: save it as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where it stops being text.
        source: std::str::Utf8Error,
    },
    /// Policies are wrong. The message is the first finding.
    #[error("{}", .0.summary())]
    Refused(Report),
    /// The schema that is built in cannot be used; a bug.
    #[error("BUG: {0}")]
    Schema(String),
}

/// Policies, checked and ready to decide. Never changes; to change policy, load another set.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) language: Language,
    pub(crate) index: Index,
    /// `@reason` by policy id.
    pub(crate) reasons: HashMap<String, String>,
    files: Vec<PolicyFile>,
    hash: String,
    len: usize,
}

impl PolicySet {
    /// Reads the `.cedar` files of `dir`. Any error in any of them refuses the whole set; warnings do not. No files
    /// make a set that denies everything.
    pub fn load_dir(dir: &Path) -> Result<Self, LoadError> {
        Self::parse(&files::read_dir(dir)?)
    }

    /// The same from texts already read, in any order.
    pub fn parse(files: &[PolicyFile]) -> Result<Self, LoadError> {
        let language = Language::load().map_err(LoadError::Schema)?;
        let (policies, report) = check::inspect(&language, files, None);
        if report.has_errors() {
            return Err(LoadError::Refused(report));
        }
        let reasons = policies
            .iter()
            .filter_map(|p| Some((p.id().to_string(), p.annotation("reason")?.to_owned())))
            .collect();
        Ok(Self {
            index: Index::build(&language, &policies).map_err(LoadError::Schema)?,
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

    /// SHA-256 over the schema, the names of the files and what is in them, in hex: what records name the set by.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// How many policies there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no policies, so that everything is denied.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}
