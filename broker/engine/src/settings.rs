//! The configuration of the engine: lifetimes, quotas, and how providers are called.
//!
//! Each section is a table of `taskpass.toml`, or a part of one; this is the only place where its
//! keys, defaults and ranges stand.

use std::time::Duration;

use serde_json::{Value, json};
use taskpass_config::Setting;
use taskpass_core::{Share, Ttl};

pub use crate::rate::Rate;

/// Limits and defaults of the engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// `[agents]`
    pub agents: Agents,
    /// `[tasks]`
    pub tasks: Tasks,
    /// `[credentials]`
    pub credentials: Credentials,
    /// The engine's part of `[limits]`.
    pub requests: Requests,
    /// The budgets in `[limits]`.
    pub budgets: Budgets,
    /// `[provider_calls]`
    pub provider: ProviderSettings,
}

taskpass_config::section! {
    /// How the broker treats agents.
    pub struct Agents in "agents" {
        /// What follows when a superseded certificate of an agent is used for the first time. The
        /// use is refused and on record as `identity_conflict` in any case. `"freeze"` also freezes
        /// the agent until a person releases it; choose it where each agent keeps its identity in
        /// one place, since a copy that is only old does the same as a thief.
        on_identity_conflict: OnIdentityConflict = OnIdentityConflict::Record;
    }
}

/// What follows from the use of a superseded certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnIdentityConflict {
    /// It is on record, and no more.
    Record,
    /// The agent is frozen.
    Freeze,
}

impl Setting for OnIdentityConflict {
    fn schema() -> Value {
        json!({ "enum": ["record", "freeze"] })
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("freeze") => Ok(Self::Freeze),
            // The schema has refused every other word.
            _ => Ok(Self::Record),
        }
    }

    fn write(&self) -> Value {
        match self {
            Self::Record => Value::from("record"),
            Self::Freeze => Value::from("freeze"),
        }
    }
}

taskpass_config::section! {
    /// How long tasks live, and how many there may be.
    pub struct Tasks in "tasks" {
        /// The life of a task when the caller does not say.
        ttl_default: Ttl = seconds(1800), seconds(1)..=Ttl::MAX;
        /// The longest life of a task.
        ttl_max: Ttl = seconds(8 * 3600), seconds(1)..=Ttl::MAX;
        /// The shortest heartbeat interval that a task may ask for.
        heartbeat_min: Ttl = seconds(2), seconds(1)..=seconds(3600);
        /// Open tasks of one agent. The broker refuses one more.
        open_per_agent: u32 = 100, 1..=100_000;
    }
}

taskpass_config::section! {
    /// How many credentials live at once, and how long a caller waits for revoking. Revoking goes
    /// on after the wait.
    pub struct Credentials in "credentials" {
        /// Live credentials of one agent. The broker refuses one more.
        live_per_agent: u32 = 1000, 1..=1_000_000;
        /// Live credentials of one task and all tasks below it. A task may ask for less.
        live_per_task: u32 = 100, 1..=1_000_000;
        /// How long ending a task or revoking waits for the provider when the caller does not say.
        revoke_wait_default: Duration = Duration::from_secs(10), Duration::ZERO..=WAIT_MAX;
        /// The longest such wait that a caller may ask for.
        revoke_wait_max: Duration = Duration::from_secs(60), Duration::ZERO..=WAIT_MAX;
    }
}

taskpass_config::section! {
    /// How often a caller may ask, and how many of its idempotency keys the broker remembers.
    pub struct Requests in "limits" {
        /// Requests per second of one agent, or of one operator, in the long run. Heartbeats of
        /// open tasks have a rate of their own.
        agent_requests_per_second: u32 = 100, 1..=100_000;
        /// Requests of one agent, or of one operator, that may come at once.
        agent_requests_burst: u32 = 500, 1..=1_000_000;
        /// Credentials per second that may be issued or renewed within one task, in the long run.
        task_requests_per_second: u32 = 10, 1..=100_000;
        /// Credentials that may be issued or renewed within one task at once.
        task_requests_burst: u32 = 50, 1..=1_000_000;
        /// Heartbeats per second of one task, in the long run.
        task_heartbeats_per_second: u32 = 2, 1..=1000;
        /// Heartbeats of one task that may come at once.
        task_heartbeats_burst: u32 = 20, 1..=10_000;
        /// Idempotency keys that the broker remembers of one agent with all its tasks, or of one
        /// operator; each takes about 300 bytes of memory and never more than 512, however long the
        /// key is. A key of a request to a task is remembered until the task has ended, and any key
        /// for 24 hours at most. One task may use all keys that its agent has left. A request with
        /// one more key is refused with `RESOURCE_EXHAUSTED`: no key is forgotten early, since a
        /// repeated request would then be carried out twice.
        idempotency_keys_per_caller: u32 = 10_000, 1..=100_000_000;
        /// Refused attempts to attest per second, over all callers, in the long run: before an
        /// attempt succeeds, the broker does not know the caller. A good token is never delayed.
        attestations_per_second: u32 = 50, 1..=100_000;
        /// Refused attempts to attest, over all callers, that may come at once.
        attestations_burst: u32 = 200, 1..=1_000_000;
    }
}

taskpass_config::section! {
    /// What one agent may use up in an hour of things that all agents share. A budget fills up
    /// again all the time: after half an hour, half of it is there. Operators have no budget, and
    /// no budget refuses the end of a task or a revocation.
    pub struct Budgets in "limits" {
        /// Bytes that one agent may write to the ledger in an hour: its decisions, tasks, SVIDs and
        /// credentials, with their ends. A call beyond it is refused with `BUDGET_EXCEEDED`.
        /// The default allows some 3,500 credentials an hour, and in ten minutes less than 16 MB.
        agent_ledger_bytes_per_hour: u32 = 12 * 1024 * 1024, 1024 * 1024..=u32::MAX;
        /// Tasks that one agent may start in an hour.
        agent_task_starts_per_hour: u32 = 2000, 1..=100_000_000;
        /// Denials of one agent that are recorded in an hour. Repeats of a denial within a minute
        /// are one entry with their number, and cost nothing. A further call that would be denied
        /// is refused with `BUDGET_EXCEEDED` instead.
        agent_denials_per_hour: u32 = 1000, 1..=100_000_000;
    }
}

taskpass_config::section! {
    /// How the broker calls providers. Each provider has queues of its own, and each role a
    /// breaker.
    pub struct ProviderSettings in "provider_calls" {
        /// The deadline of one call to issue or renew.
        issue_timeout: Duration = Duration::from_secs(15), CALL_MIN..=Duration::from_secs(300);
        /// The deadline of one call to revoke.
        revoke_timeout: Duration = Duration::from_secs(60), CALL_MIN..=Duration::from_secs(600);
        /// Calls to issue or renew at the same time.
        issue_concurrency: usize = 64, 1..=4096;
        /// Calls to issue or renew that may wait for a permit. The broker refuses one more.
        issue_queue: usize = 256, 0..=65_536;
        /// Calls to revoke at the same time. They have permits of their own, so that issuing cannot
        /// starve revoking.
        revoke_concurrency: usize = 16, 1..=4096;
        /// The part of the calls to issue that run, of all that run or wait, and of the calls to
        /// revoke, in percent, that one agent may take while no other agent takes any. Each share
        /// shrinks as more agents take some: at 50, an agent never takes more than it leaves free,
        /// so there is always a place for one more agent. The broker refuses a request over the
        /// share with `RESOURCE_EXHAUSTED`; a revocation waits.
        agent_share: u32 = 50, 1..=100;
        /// Failures in a row of one role after which the broker refuses to issue from this role for
        /// a while. As many failures in a row to reach the provider at all stop all its roles.
        breaker_failures: u32 = 5, 1..=1000;
        /// How long it then refuses before one call may try again.
        breaker_pause: Duration = Duration::from_secs(5), CALL_MIN..=Duration::from_secs(300);
    }
}

/// The longest that a caller may wait for revoking.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// No call to a provider is shorter.
const CALL_MIN: Duration = Duration::from_millis(100);

impl ProviderSettings {
    /// How much of a provider one agent may take.
    pub(crate) fn agent_share(&self) -> Share {
        Share::percent(self.agent_share)
    }
}

impl Requests {
    /// How often one agent, or one operator, may ask for anything.
    pub(crate) const fn per_agent(&self) -> Rate {
        Rate {
            per_second: self.agent_requests_per_second,
            burst: self.agent_requests_burst,
        }
    }

    /// How often credentials may be issued or renewed within one task.
    pub(crate) const fn per_task(&self) -> Rate {
        Rate {
            per_second: self.task_requests_per_second,
            burst: self.task_requests_burst,
        }
    }

    /// How often one task may send heartbeats.
    pub(crate) const fn heartbeats(&self) -> Rate {
        Rate {
            per_second: self.task_heartbeats_per_second,
            burst: self.task_heartbeats_burst,
        }
    }

    /// How often attempts to attest may be refused.
    pub(crate) const fn attestations(&self) -> Rate {
        Rate {
            per_second: self.attestations_per_second,
            burst: self.attestations_burst,
        }
    }
}

/// INVARIANT: only called with numbers between one second and 366 days.
fn seconds(n: u64) -> Ttl {
    Ttl::from_seconds(n).unwrap_or(Ttl::MAX)
}
