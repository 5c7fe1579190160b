//! The policy that a new installation begins with.

use taskpass_core::OperatorName;

use crate::PolicyFile;

/// The parameters of the starter policy.
#[derive(Debug, Clone, Copy)]
pub struct StarterOptions<'a> {
    /// The operator who may do everything that operators can do.
    pub admin: &'a OperatorName,
}

/// The starter policy, commented for the people who will change it.
pub fn starter_policy(options: &StarterOptions<'_>) -> PolicyFile {
    // INVARIANT: an operator's name has only letters, digits and `-`, so it cannot end the string
    // it is put into.
    let text = include_str!("starter.cedar").replace("{admin}", options.admin.as_str());
    PolicyFile {
        name: "starter.cedar".to_owned(),
        text,
    }
}

#[cfg(test)]
mod tests;
