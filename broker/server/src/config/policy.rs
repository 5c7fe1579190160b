//! `[policy]`: where the policies are.

use std::path::PathBuf;

use super::section::section;

section! {
    /// Where the policies are.
    Policy = "policy" {
        /// The directory with the `.cedar` files, relative to this file.
        dir: PathBuf = PathBuf::from("policy");
    }
}
