//! Limits of policy files, by name. Units are last in the names.

/// Bytes of one policy file.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Files in a policy directory.
pub const FILES_MAX: usize = 1000;
/// Policies in a policy set.
pub const POLICIES_MAX: usize = 10_000;
/// Characters of an `@id`, which every decision repeats.
pub const ID_CHARS_MAX: usize = 128;
/// Characters of a `@reason`, which a refused caller is shown.
pub const REASON_CHARS_MAX: usize = 240;
/// Policies named in one decision, so that its record stays small.
pub const DECIDING_POLICIES_MAX: usize = 16;
/// Errors kept in one decision.
pub const ERRORS_MAX: usize = 4;
/// Findings kept in one report.
pub const FINDINGS_MAX: usize = 200;
