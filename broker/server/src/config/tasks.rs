//! `[tasks]`: how long tasks live and how many there may be.

use taskpass_core::Ttl;

use super::{lifetime, section::section};

section! {
    /// How long tasks live and how many there may be.
    Tasks = "tasks" {
        /// The life of a task when the caller does not say.
        ttl_default: Ttl = lifetime(1800), lifetime(1)..=Ttl::MAX;
        /// The longest life of a task.
        ttl_max: Ttl = lifetime(8 * 3600), lifetime(1)..=Ttl::MAX;
        /// The shortest heartbeat interval that a task may ask for.
        heartbeat_min: Ttl = lifetime(2), lifetime(1)..=lifetime(3600);
        /// Open tasks of one agent; one more is refused.
        open_per_agent: u32 = 100, 1..=100_000;
    }
}
