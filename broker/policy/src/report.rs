//! The findings of a check of policies.

use std::fmt;

/// Whether a finding keeps the policy set from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The set is refused.
    Error,
    /// The set can be used, but its author probably meant another rule.
    Warning,
}

/// One mistake at one place. Displayed on one line, `file.cedar:12:3: error: message; hint`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file's name; empty when it is about the set as a whole.
    pub file: String,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// The column in characters, from 1; 0 when it is about the whole file.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// The mistake.
    pub message: String,
    /// A way to mend it.
    pub hint: Option<String>,
}

/// The findings of a check, displayed one on each line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// In the order of files and lines; at most [`crate::limits::FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many files were read.
    pub files: usize,
    /// How many policies could be parsed.
    pub policies: usize,
}

impl Report {
    /// Whether an error keeps the policies from being used.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Error)
    }

    /// The first error and how many more there are, in one line.
    pub fn summary(&self) -> String {
        let mut errors = self
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Error);
        match (errors.next(), errors.count()) {
            (None, _) => "the policies have no errors".to_owned(),
            (Some(first), 0) => first.to_string(),
            (Some(first), more) => {
                format!("{first} (and {more} more: see `taskpass policy check`)")
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings
            .iter()
            .try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.file.is_empty() {
            f.write_str(" ")?;
        }
        write!(f, "{}: {}", self.severity, self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}
