//! `[credentials]`: how many live at once, and how long a caller waits for revoking.

use std::time::Duration;

use super::section::section;

section! {
    /// How many credentials live at once, and how long a caller waits for revoking. Revoking goes on after the wait.
    Credentials = "credentials" {
        /// Live credentials of one agent; one more is refused.
        live_per_agent: u32 = 1000, 1..=1_000_000;
        /// Live credentials of one task and everything below it; a task may ask for less.
        live_per_task: u32 = 100, 1..=1_000_000;
        /// How long ending a task or revoking waits for the provider when the caller does not say.
        revoke_wait_default: Duration = Duration::from_secs(10), Duration::ZERO..=Duration::from_secs(600);
        /// The longest such wait that a caller may ask for.
        revoke_wait_max: Duration = Duration::from_secs(60), Duration::ZERO..=Duration::from_secs(600);
    }
}
