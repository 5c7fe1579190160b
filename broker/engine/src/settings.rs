//! What configuration tells the engine: lifetimes, quotas and how to treat a provider.

use std::time::Duration;

use taskpass_core::Ttl;

pub use crate::rate::Rate;

/// Limits and defaults of the engine. Every field is a key of `taskpass.toml`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Life of a task when the caller does not say.
    pub task_ttl_default: Ttl,
    /// The longest life of a task.
    pub task_ttl_max: Ttl,
    /// The shortest heartbeat interval a task may ask for.
    pub heartbeat_min: Ttl,
    /// Open tasks of one agent.
    pub open_tasks_per_agent: u32,
    /// Live credentials of one agent.
    pub live_credentials_per_agent: u32,
    /// Live credentials of one task and everything below it; a task may ask for less.
    pub live_credentials_per_task: u32,
    /// Idempotency keys of one agent with all its tasks, or of one operator, that are remembered at a time.
    pub idempotency_keys_per_caller: u32,
    /// How often one agent, or one operator, may ask for anything at all, heartbeats included.
    pub requests_per_agent: Rate,
    /// How often credentials may be issued or renewed within one task.
    pub requests_per_task: Rate,
    /// Refused attempts to attest, over all callers, since nobody is known before it succeeds.
    pub attestations: Rate,
    /// How long ending a task or revoking waits for the provider when the caller does not say.
    pub revoke_wait_default: Duration,
    /// The longest such wait.
    pub revoke_wait_max: Duration,
    /// How providers are called.
    pub provider: ProviderSettings,
}

/// How one provider is called; the same for all.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// The deadline of one call to issue or renew.
    pub issue_timeout: Duration,
    /// The deadline of one call to revoke.
    pub revoke_timeout: Duration,
    /// Calls to issue or renew at the same time.
    pub issue_concurrency: usize,
    /// Calls to issue or renew that may wait for their turn; one more is refused.
    pub issue_queue: usize,
    /// Calls to revoke at the same time. They have places of their own: issuing cannot starve revoking.
    pub revoke_concurrency: usize,
    /// Failures in a row after which issuing is refused for a while.
    pub breaker_failures: u32,
    /// How long it is then refused before one call may try again.
    pub breaker_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            task_ttl_default: seconds(1800),
            task_ttl_max: seconds(8 * 3600),
            heartbeat_min: seconds(2),
            open_tasks_per_agent: 100,
            live_credentials_per_agent: 1000,
            live_credentials_per_task: 100,
            idempotency_keys_per_caller: 100_000,
            requests_per_agent: Rate {
                per_second: 100,
                burst: 500,
            },
            requests_per_task: Rate {
                per_second: 10,
                burst: 50,
            },
            attestations: Rate {
                per_second: 50,
                burst: 200,
            },
            revoke_wait_default: Duration::from_secs(10),
            revoke_wait_max: Duration::from_secs(60),
            provider: ProviderSettings::default(),
        }
    }
}

impl Default for ProviderSettings {
    fn default() -> Self {
        Self {
            issue_timeout: Duration::from_secs(15),
            revoke_timeout: Duration::from_secs(60),
            issue_concurrency: 64,
            issue_queue: 256,
            revoke_concurrency: 8,
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(5),
        }
    }
}

/// INVARIANT: only called with numbers between one second and 366 days.
fn seconds(n: u64) -> Ttl {
    Ttl::from_seconds(n).unwrap_or(Ttl::MAX)
}
