//! `[provider_calls]`: how every provider is called.

use std::time::Duration;

use super::section::section;

section! {
    /// How every provider is called. Each provider has queues and a breaker of its own.
    ProviderCalls = "provider_calls" {
        /// The deadline of one call to issue or renew.
        issue_timeout: Duration = Duration::from_secs(15), Duration::from_millis(100)..=Duration::from_secs(300);
        /// The deadline of one call to revoke.
        revoke_timeout: Duration = Duration::from_secs(60), Duration::from_millis(100)..=Duration::from_secs(600);
        /// Calls to issue or renew at the same time.
        issue_concurrency: usize = 64, 1..=4096;
        /// Calls to issue or renew that wait for their turn; one more is refused.
        issue_queue: usize = 256, 0..=65_536;
        /// Calls to revoke at the same time. They have places of their own: issuing cannot starve revoking.
        revoke_concurrency: usize = 8, 1..=4096;
        /// Failures in a row after which issuing is refused for a while.
        breaker_failures: u32 = 5, 1..=1000;
        /// How long it is then refused before one call may try again.
        breaker_pause: Duration = Duration::from_secs(5), Duration::from_millis(100)..=Duration::from_secs(300);
    }
}
