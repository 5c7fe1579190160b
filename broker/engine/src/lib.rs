//! The broker's use cases, in plain Rust: no gRPC, HTTP or TLS is linked in. [`Engine`] carries them out for callers,
//! and the loops in [`reconcile`] carry out the same use cases when a deadline passes or a call has to be repeated.
//!
//! Every use case goes the same way: look up, `authorize`, commit the intent, call the provider or the
//! authority, commit the outcome. A use case that is refused ends with an [`Error`] that says what to do.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use taskpass_core::TaskId;
//! # use taskpass_engine::{Call, EndTask, Ending, Engine, Error};
//! # async fn end(engine: &Arc<Engine>, call: &Call, task: TaskId) -> Result<(), Error> {
//! let request = EndTask { task, how: Ending::Complete, wait: None };
//! let ended = engine.end_task(call, &request).await?;
//! println!("{:?}", ended.receipts);
//! # Ok(())
//! # }
//! ```

mod agents;
mod anchors;
mod attest;
mod authenticate;
mod authorize;
mod backend;
mod caller;
mod end_task;
mod error;
pub mod failpoint;
mod handover;
mod heartbeat;
mod history;
mod idempotency;
mod in_flight;
mod issue;
mod join_token;
mod outage;
mod providers;
mod queries;
#[cfg(test)]
mod races;
pub mod rate;
mod rate_limits;
pub mod reconcile;
mod renew;
mod renew_svid;
mod revocation;
mod revoke;
mod settings;
#[cfg(test)]
mod simulation;
mod start_task;
#[cfg(test)]
mod testing;
mod timer;
mod upkeep;
mod wait;

pub use agents::{CreateJoinToken, CreatedJoinToken, RegisterAgent};
pub use attest::{Attest, IssuedSvid};
pub use backend::BackendStatus;
pub(crate) use backend::RevokeSlot;
pub use caller::{Call, Caller};
pub use end_task::{EndTask, Ended, Ending, Receipt};
pub use error::{Error, Field};
pub use handover::Handover;
pub use heartbeat::Heartbeat;
pub use history::{Consistency, ExportFilter, ExportPlan, ProvenEntry};
pub use idempotency::RequestKey;
pub use issue::{IssueCredential, IssuedCredential};
pub use join_token::JoinTokenText;
pub use providers::ProviderView;
pub use queries::{AgentView, CredentialView, TaskView};
pub use renew::{RenewCredential, RenewedCredential};
pub(crate) use revocation::Progress;
pub use revoke::RevokeCredential;
pub use settings::{ProviderSettings, Rate, Settings};
pub use start_task::{StartTask, StartedTask, TaskRoles};
pub use timer::{SystemTimer, Timer};

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_ca::Authority;
use taskpass_core::{
    Clock, Entropy, Event, ProviderName, RoleName, RoleSpec, Timestamp, TrustDomain,
};
use taskpass_ledger::{Reader, VerifyingKey};
use taskpass_policy::PolicySet;
use taskpass_provider::Provider;
use taskpass_store::{Batch, Committed, Guard, Priority, Store};
use tokio_util::task::TaskTracker;

use backend::Backend;
use heartbeat::Heartbeats;
use in_flight::InFlight;
use outage::Outage;
use rate_limits::RateLimits;
use renew::Renewals;

/// How far the wall clock may lag behind the newest ledger entry before nothing more is issued.
pub const CLOCK_LAG_MAX: Duration = Duration::from_secs(5);

/// What the engine is made of.
#[derive(Debug)]
pub struct Deps {
    /// The installation's trust domain.
    pub trust_domain: TrustDomain,
    /// State and ledger.
    pub store: Arc<dyn Store>,
    /// The history, for export and proofs.
    pub ledger: Reader,
    /// With which the ledger's checkpoints are verified.
    pub ledger_key: VerifyingKey,
    /// The policy set in force.
    pub policy: Arc<PolicySet>,
    /// Signs SVIDs.
    pub authority: Arc<Authority>,
    /// The configured back ends.
    pub providers: Vec<Arc<dyn Provider>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Waiting.
    pub timer: Arc<dyn Timer>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The time of the newest entry in the ledger.
    pub newest: Timestamp,
    /// Limits and defaults.
    pub settings: Settings,
    /// Where background work is spawned, so that draining waits for it.
    pub tasks: TaskTracker,
}

/// The broker's use cases. Shared by all connections.
#[derive(Debug)]
pub struct Engine {
    trust_domain: TrustDomain,
    store: Arc<dyn Store>,
    ledger: Reader,
    ledger_key: VerifyingKey,
    policy: Arc<PolicySet>,
    authority: Arc<Authority>,
    backends: BTreeMap<ProviderName, Arc<Backend>>,
    /// Of the providers that credentials are left of and that are not configured any more.
    unconfigured: Arc<Outage>,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    entropy: Arc<dyn Entropy>,
    settings: Settings,
    tasks: TaskTracker,
    heartbeats: Heartbeats,
    in_flight: InFlight,
    renewals: Renewals,
    rates: RateLimits,
    /// The newest committed time: a clock that falls behind it went backwards.
    newest: Mutex<Newest>,
}

impl Engine {
    /// Puts the engine together and takes up the open tasks' heartbeats, which begin anew after a restart.
    pub async fn new(deps: Deps) -> Result<Arc<Self>, Error> {
        let backends = deps
            .providers
            .into_iter()
            .map(|provider| {
                let name = provider.name().clone();
                let (clock, timer) = (Arc::clone(&deps.clock), Arc::clone(&deps.timer));
                let settings = deps.settings.provider.clone();
                let backend = Backend::new(provider, settings, clock, timer);
                (name, Arc::new(backend))
            })
            .collect();
        let newest = Newest {
            time: deps.newest,
            at: deps.clock.monotonic(),
        };
        let rates = RateLimits::new(&deps.settings, deps.clock.clone());
        let engine = Arc::new(Self {
            trust_domain: deps.trust_domain,
            store: deps.store,
            ledger: deps.ledger,
            ledger_key: deps.ledger_key,
            policy: deps.policy,
            authority: deps.authority,
            backends,
            unconfigured: Arc::default(),
            heartbeats: Heartbeats::new(deps.clock.clone()),
            clock: deps.clock,
            timer: deps.timer,
            entropy: deps.entropy,
            settings: deps.settings,
            tasks: deps.tasks,
            in_flight: InFlight::default(),
            renewals: Renewals::default(),
            rates,
            newest: Mutex::new(newest),
        });
        for task in engine.store.open_tasks().await? {
            engine.heartbeats.begin(&task);
        }
        Ok(engine)
    }

    /// The installation's trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authority that signs SVIDs.
    pub const fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The key with which the ledger's checkpoints are verified.
    pub const fn ledger_key(&self) -> &VerifyingKey {
        &self.ledger_key
    }

    /// Counts a request against its caller's rate.
    pub fn admit(&self, call: &Call) -> Result<(), Error> {
        match &call.caller {
            Caller::Agent { agent, .. } => self.rates.admit_agent(&agent.name),
            Caller::Operator { name, .. } => self.rates.admit_operator(name),
        }
    }

    /// SHA-256 of the policy set in force.
    pub fn policy_hash(&self) -> &str {
        self.policy.hash()
    }

    /// Where the time comes from.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// How reconcilers wait.
    pub(crate) const fn timer(&self) -> &Arc<dyn Timer> {
        &self.timer
    }

    /// The store, for authentication and reconcilers.
    pub(crate) const fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Where background work is spawned.
    pub(crate) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The time for decisions: the wall clock, but never before what the ledger already says. While the wall clock
    /// lags behind that, time goes on by the monotonic clock: retries and deadlines must still come due.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock
            .now()
            .max(self.newest.lock().flowed(self.clock.monotonic()))
    }

    /// Refuses to mint while the clock is behind the ledger: lifetimes would be computed from a wrong time.
    fn require_sane_clock(&self) -> Result<Timestamp, Error> {
        let (clock, now) = (self.clock.now(), self.now());
        if now.since(clock) > CLOCK_LAG_MAX {
            return Err(Error::ClockWentBack { clock, ledger: now });
        }
        Ok(now)
    }

    /// Commits events that give something out: refused when the disk is full.
    async fn commit(&self, events: Vec<Event>, guards: Vec<Guard>) -> Result<Committed, Error> {
        self.commit_with(events, guards, Priority::Normal).await
    }

    /// Commits events that take something back: these have room on a full disk, too.
    async fn commit_reserved(
        &self,
        events: Vec<Event>,
        guards: Vec<Guard>,
    ) -> Result<Committed, Error> {
        self.commit_with(events, guards, Priority::Reserved).await
    }

    async fn commit_with(
        &self,
        events: Vec<Event>,
        guards: Vec<Guard>,
        priority: Priority,
    ) -> Result<Committed, Error> {
        let committed = self
            .store
            .commit(Batch {
                events,
                guards,
                priority,
            })
            .await?;
        self.newest
            .lock()
            .advance(committed.time, self.clock.monotonic());
        Ok(committed)
    }

    /// The provider and the specification of a configured role.
    fn role(&self, name: &RoleName) -> Result<(&Arc<Backend>, &RoleSpec), Error> {
        let found = self.backends.get(name.provider()).and_then(|backend| {
            let spec = backend
                .provider()
                .roles()
                .iter()
                .find(|spec| spec.name == *name)?;
            Some((backend, spec))
        });
        found.ok_or_else(|| Error::NotFound {
            what: format!("role `{name}`"),
            advice: "see `taskpass provider list` for the configured roles",
        })
    }
}

/// The newest time the ledger has, and when that was on the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Newest {
    time: Timestamp,
    at: Duration,
}

impl Newest {
    fn flowed(&self, monotonic: Duration) -> Timestamp {
        self.time.plus(monotonic.saturating_sub(self.at))
    }

    /// A time that the ledger repeats, because the wall clock lags, is no news.
    fn advance(&mut self, time: Timestamp, monotonic: Duration) {
        if time > self.time {
            *self = Self {
                time,
                at: monotonic,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_flows_on_while_the_wall_clock_lags() {
        let (day, second) = (Duration::from_secs(86_400), Duration::from_secs(1));
        let tomorrow = Timestamp::EPOCH.plus(day);
        let mut newest = Newest {
            time: tomorrow,
            at: second,
        };
        assert_eq!(newest.flowed(second * 3), tomorrow.plus(second * 2));
        newest.advance(tomorrow, second * 5);
        assert_eq!(newest.flowed(second * 6), tomorrow.plus(second * 5));
        newest.advance(tomorrow.plus(day), second * 7);
        assert_eq!(newest.flowed(second * 7), tomorrow.plus(day));
    }
}
