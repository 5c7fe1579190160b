//! A provider as the engine calls it: with a deadline, limits on concurrent calls, a queue and a
//! circuit breaker.
//!
//! Issuing and revoking have permits of their own, so that neither can starve the other, and one
//! provider's failure does not affect another. Agents share the permits (see `places.rs`). The
//! breakers only stop issuing. Revoking never stops: while the provider is out, one call at a time
//! goes on (see `pacer.rs`).

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use taskpass_core::{AgentName, Clock, RoleName};
use taskpass_provider::{Provider, ProviderError};

use crate::{ConfiguredProvider, Error, ProviderSettings, Timer, timer};

use super::{
    gate::{Closed, Gate, Passed},
    pacer::{Attempt, Pacer, PacerPermit, Pause},
    places::{Full, Holder, Place, Places},
};

/// The state of a provider, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendStatus {
    /// Whether issuing from all roles is refused for a while, because the provider could not be
    /// reached several times.
    pub circuit_open: bool,
    /// The roles from which issuing is refused for a while, because calls for them failed often.
    pub paused_roles: Vec<RoleName>,
    /// Its calls to issue, renew and check.
    pub issue: CallCounts,
    /// Its calls to revoke. A revocation waits in the ledger, without a call.
    pub revoke: CallCounts,
}

/// Calls of one kind to a provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls that run.
    pub running: usize,
    /// Calls that wait for a permit.
    pub waiting: usize,
}

impl BackendStatus {
    /// Calls that the provider works on, and calls to issue that wait.
    pub const fn in_flight(&self) -> usize {
        let issue = self.issue.running.saturating_add(self.issue.waiting);
        issue.saturating_add(self.revoke.running)
    }
}

/// When a caller should try again after its call did not fit into the queue.
const QUEUE_RETRY: Duration = Duration::from_secs(1);

/// The right to one call to issue. It counts as running or waiting until it is dropped.
#[derive(Debug)]
pub(crate) struct IssuePermit {
    #[expect(dead_code, reason = "held, never looked at")]
    passed: Passed,
    queued: Place,
    /// The role to issue from; `None` for a check.
    role: Option<RoleName>,
}

/// The right to one call to revoke at a back end. There is no back end to call for a provider that
/// is not configured.
#[derive(Debug)]
pub(crate) struct RevokePermit {
    called: Option<(Arc<Backend>, Place)>,
    paced: PacerPermit,
}

impl RevokePermit {
    /// For a provider that is not configured: the attempt will fail.
    pub(crate) const fn unconfigured(paced: PacerPermit) -> Self {
        Self {
            called: None,
            paced,
        }
    }

    /// The back end to call, if there is one.
    pub(crate) fn backend(&self) -> Option<&Arc<Backend>> {
        self.called.as_ref().map(|(backend, _)| backend)
    }

    /// Uses the permit. Returns the back end to call, if there is one, with its concurrency permit.
    pub(crate) fn spend(self) -> (Option<(Arc<Backend>, Place)>, Attempt) {
        (self.called, self.paced.spend())
    }
}

/// One provider, its limits, and how it does.
#[derive(Debug)]
pub(crate) struct Backend {
    provider: Arc<dyn Provider>,
    fingerprint: String,
    place: BTreeMap<String, String>,
    settings: ProviderSettings,
    clock: Arc<dyn Clock>,
    gate: Gate,
    /// Calls to issue that run or wait: `issue_concurrency` and `issue_queue` together.
    issue_queue: Places,
    timer: Arc<dyn Timer>,
    /// Calls to issue that run.
    issuing: Places,
    revoking: Places,
    /// Due groups of credentials that rested or had no permit when the revoker last looked.
    revokes_waiting: AtomicUsize,
    pacer: Arc<Pacer>,
}

impl Backend {
    pub(crate) fn new(
        configured: ConfiguredProvider,
        settings: ProviderSettings,
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
    ) -> Self {
        let share = settings.agent_share();
        Self {
            provider: configured.provider,
            fingerprint: configured.fingerprint,
            place: configured.place,
            clock,
            gate: Gate::new(),
            issue_queue: Places::new(issue_queue(&settings), share),
            timer,
            issuing: Places::new(settings.issue_concurrency, share),
            revoking: Places::new(settings.revoke_concurrency, share),
            revokes_waiting: AtomicUsize::new(0),
            pacer: Arc::default(),
            settings,
        }
    }

    /// The same back end under these settings. The back end keeps its health; running calls keep
    /// the permits of the settings under which they began.
    pub(crate) fn with_settings(this: &Arc<Self>, settings: &ProviderSettings) -> Arc<Self> {
        if this.settings == *settings {
            return Arc::clone(this);
        }
        let configured = ConfiguredProvider {
            provider: Arc::clone(&this.provider),
            fingerprint: this.fingerprint.clone(),
            place: this.place.clone(),
        };
        let (clock, timer) = (Arc::clone(&this.clock), Arc::clone(&this.timer));
        Arc::new(Self {
            gate: this.gate.clone(),
            pacer: Arc::clone(&this.pacer),
            ..Self::new(configured, settings.clone(), clock, timer)
        })
    }

    /// The gate, for a back end that takes the place of this one and revokes what it minted.
    pub(crate) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// The same behind the gate of the back end whose place it takes: requests that still hold that
    /// one pass it, too.
    pub(crate) fn behind(self, gate: Option<Gate>) -> Self {
        let gate = gate.unwrap_or(self.gate);
        Self { gate, ..self }
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether an instance with this configuration revokes all that this one minted, and may begin
    /// while this one still works.
    pub(crate) fn can_become(&self, next: &ConfiguredProvider) -> bool {
        let stays = |(part, digest): (&String, &String)| next.place.get(part) == Some(digest);
        next.fingerprint == self.fingerprint
            || (self.provider.may_overlap() && self.place.iter().all(stays))
    }

    /// Whether an older snapshot holds the back end in any incarnation, or a call uses it.
    pub(crate) fn is_in_use(this: &Arc<Self>) -> bool {
        Arc::strong_count(this) > 1 || this.gate.is_shared()
    }

    /// Keeps every further call from minting, in all incarnations; `None` while such a call runs.
    pub(crate) fn close(&self) -> Option<Closed> {
        self.gate.close()
    }

    pub(crate) fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    pub(crate) fn status(&self) -> BackendStatus {
        let (queued, issuing) = (self.issue_queue.taken(), self.issuing.taken());
        let now = self.clock.monotonic();
        BackendStatus {
            circuit_open: self.pacer.provider_pause(now).is_some(),
            paused_roles: self.pacer.paused_roles(now),
            issue: CallCounts {
                running: issuing,
                waiting: queued.saturating_sub(issuing),
            },
            revoke: CallCounts {
                running: self.revoking.taken(),
                waiting: self.revokes_waiting.load(Ordering::Relaxed),
            },
        }
    }

    /// Notes how many due groups of credentials rest or have no permit to revoke.
    pub(crate) fn note_waiting(&self, groups: usize) {
        self.revokes_waiting.store(groups, Ordering::Relaxed);
    }

    /// A permit for one call of an agent to issue from a role. It is asked for before the intent is
    /// recorded, so that a call that a breaker or the queue would refuse leaves no intent.
    pub(crate) fn acquire(&self, agent: &AgentName, role: &RoleName) -> Result<IssuePermit, Error> {
        if let Some(pause) = self.pacer.issue_pause(role, self.clock.monotonic()) {
            // Without the provider's own words: they may name things of another agent.
            let (why, left) = match pause {
                Pause::Provider(left) => ("it could not be reached".to_owned(), left),
                Pause::Role(left) => (format!("role `{role}` failed"), left),
            };
            return Err(self.error(ProviderError::Retryable {
                message: format!(
                    "{why} several times in a row and is given a pause; operators find why in the broker's log"
                ),
                after: Some(left),
            }));
        }
        self.enter(&Some(agent.clone()), Some(role.clone()))
    }

    /// The same for a health check, which goes through although the breaker is open.
    pub(crate) fn acquire_regardless(&self) -> Result<IssuePermit, Error> {
        self.enter(&None, None)
    }

    fn enter(&self, holder: &Holder, role: Option<RoleName>) -> Result<IssuePermit, Error> {
        let passed = self.gate.pass().ok_or_else(|| {
            self.error(ProviderError::retryable(
                "its configuration was replaced meanwhile; try again",
            ))
        })?;
        let queued = self
            .issue_queue
            .try_acquire(holder)
            .map_err(|full| self.no_place(holder, full))?;
        Ok(IssuePermit {
            passed,
            queued,
            role,
        })
    }

    fn no_place(&self, holder: &Holder, full: Full) -> Error {
        let name = self.provider.name();
        let message = match (full, holder) {
            (Full::Share(held), Some(agent)) => format!(
                "agent `{agent}` has {held} requests at provider `{name}`, which is its share (`provider_calls.agent_share`)"
            ),
            _ => format!("too many requests wait for provider `{name}`"),
        };
        Error::Exhausted {
            message,
            retry_after: QUEUE_RETRY,
        }
    }

    /// Runs a call to issue or renew when its turn comes, within the deadline, and tells the
    /// pacer how it went.
    pub(crate) async fn issue<T>(
        &self,
        permit: IssuePermit,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        self.issue_if(permit, std::future::ready(Ok(())), call)
            .await
    }

    /// The same, unless `wanted` says when its turn has come that the call is not wanted any more.
    /// The pacer learns nothing then: the provider was not called.
    pub(crate) async fn issue_if<T>(
        &self,
        permit: IssuePermit,
        wanted: impl Future<Output = Result<(), ProviderError>> + Send,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let limit = self.settings.issue_timeout;
        let turn = self.issuing.acquire(permit.queued.holder());
        let Some(_running) = timer::within(self.timer.as_ref(), limit, turn).await else {
            // Nothing was sent, so nothing was minted.
            return Err(ProviderError::Unsupported(
                "the provider was too busy to be called in time".to_owned(),
            ));
        };
        wanted.await?;
        let result = self.within(limit, call).await;
        let result = result.unwrap_or_else(|| Err(no_answer(limit)));
        self.pacer.issued(
            permit.role.as_ref(),
            result.as_ref().err(),
            &self.settings,
            self.clock.monotonic(),
        );
        result
    }

    /// Runs a call to revoke, within the deadline, with the permit that it was given.
    pub(crate) async fn revoke<T>(
        &self,
        _running: Place,
        attempt: Attempt,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let limit = self.settings.revoke_timeout;
        let Some(result) = self.within(limit, call).await else {
            // A timeout is no outage: one thing behind the provider may hang while others work.
            // Such calls are few, since each holds a permit.
            return Err(no_answer(limit));
        };
        match &result {
            Ok(_) => self.revokes_again(attempt),
            Err(error) => self.cannot_revoke(attempt, error),
        }
        result
    }

    /// Runs the provider's own maintenance. It takes no place of revocations: revocations that hang
    /// would delay it, and with it the maintenance of the other providers. There is one call at a
    /// time, since one reconciler maintains all providers. Its result says nothing about revoking.
    pub(crate) async fn maintain(&self) -> Result<(), ProviderError> {
        let limit = self.settings.revoke_timeout;
        let maintained = self.within(limit, self.provider.maintain()).await;
        maintained.unwrap_or_else(|| Err(no_answer(limit)))
    }

    /// Whether each call to issue that was sent before this time is over.
    pub(crate) async fn calls_are_over(&self, sent_before: Duration) -> Result<(), ProviderError> {
        let limit = self.settings.revoke_timeout;
        let asked = self.within(limit, self.provider.calls_are_over(sent_before));
        asked.await.unwrap_or_else(|| Err(no_answer(limit)))
    }

    fn revokes_again(&self, attempt: Attempt) {
        if attempt.succeeded() {
            tracing::info!(provider = %self.provider.name(), "the provider revokes again, and what waited is due now");
        }
    }

    fn cannot_revoke(&self, attempt: Attempt, error: &ProviderError) {
        if attempt.failed(self.clock.monotonic()) {
            let name = self.provider.name();
            tracing::warn!(
                provider = %name, %error,
                "the provider revokes nothing any more; what is due waits, and one attempt at a time finds out when it does again: see `taskpass provider check {name}`"
            );
        }
    }

    /// A permit to revoke credentials of an agent, if there is one right now.
    pub(crate) fn revoke_permit(
        self: &Arc<Self>,
        agent: &AgentName,
        is_new: bool,
    ) -> Option<RevokePermit> {
        let permit = self.revoking.try_acquire(&Some(agent.clone())).ok()?;
        let paced = self.pacer.acquire(is_new, self.clock.monotonic())?;
        Some(RevokePermit {
            called: Some((Arc::clone(self), permit)),
            paced,
        })
    }

    /// The provider's error with its name.
    pub(crate) fn error(&self, source: ProviderError) -> Error {
        Error::Provider {
            provider: self.provider.name().clone(),
            source,
        }
    }

    async fn within<T>(&self, limit: Duration, call: impl Future<Output = T> + Send) -> Option<T> {
        timer::within(self.timer.as_ref(), limit, call).await
    }
}

fn no_answer(limit: Duration) -> ProviderError {
    ProviderError::retryable(format!("no answer within {} s", limit.as_secs_f32()))
}

const fn issue_queue(settings: &ProviderSettings) -> usize {
    settings
        .issue_concurrency
        .saturating_add(settings.issue_queue)
}
