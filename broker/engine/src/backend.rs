//! A provider as the engine calls it: with a deadline, a bound on calls, a queue and a circuit breaker.
//!
//! Issuing and revoking have places of their own, so that neither can starve the other, and one provider's
//! trouble stays its own. The breaker only ever stops issuing: revoking never gives up, and while the provider is down
//! goes on with one call at a time.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::Clock;
use taskpass_provider::{Provider, ProviderError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    ConfiguredProvider, Error, ProviderSettings, Timer,
    outage::{Asked, Leave, Outage},
    timer,
};

/// How a provider stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendStatus {
    /// Whether issuing is refused for a while because the provider failed often.
    pub circuit_open: bool,
    /// Calls that run or wait.
    pub in_flight: usize,
}

/// What a caller is told to wait whom the queue has no place for.
const QUEUE_RETRY: Duration = Duration::from_secs(1);

/// A place among the calls to issue that run or wait.
#[derive(Debug)]
pub(super) struct IssuePlace(
    #[expect(dead_code, reason = "held, never looked at")] OwnedSemaphorePermit,
);

/// A slot for one call to revoke at a back end. What is no longer configured is not called.
#[derive(Debug)]
pub(crate) struct RevokeSlot {
    called: Option<(Arc<Backend>, OwnedSemaphorePermit)>,
    leave: Leave,
}

impl RevokeSlot {
    /// For a provider that is no longer configured.
    pub(super) const fn of_nobody(leave: Leave) -> Self {
        Self {
            called: None,
            leave,
        }
    }

    /// The back end that is asked now, if there is one. Lets go of its permit with what is returned.
    pub(super) fn spend(self) -> (Option<(Arc<Backend>, OwnedSemaphorePermit)>, Asked) {
        (self.called, self.leave.spend())
    }
}

/// One provider and how busy it is.
#[derive(Debug)]
pub(crate) struct Backend {
    provider: Arc<dyn Provider>,
    fingerprint: String,
    settings: ProviderSettings,
    clock: Arc<dyn Clock>,
    /// Calls to issue that run or wait: as many as there are slots and places in the queue.
    issue_places: Arc<Semaphore>,
    timer: Arc<dyn Timer>,
    issue_slots: Semaphore,
    revoke_slots: Arc<Semaphore>,
    breaker: Arc<Mutex<Breaker>>,
    outage: Arc<Outage>,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    /// Monotonic time until which issuing is refused.
    open_until: Option<Duration>,
}

impl Backend {
    pub(super) fn new(
        configured: ConfiguredProvider,
        settings: ProviderSettings,
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
    ) -> Self {
        Self {
            provider: configured.provider,
            fingerprint: configured.fingerprint,
            clock,
            issue_places: Arc::new(Semaphore::new(issue_places(&settings))),
            timer,
            issue_slots: Semaphore::new(settings.issue_concurrency),
            revoke_slots: Arc::new(Semaphore::new(settings.revoke_concurrency)),
            breaker: Arc::default(),
            outage: Arc::default(),
            settings,
        }
    }

    /// The same back end under these settings. What is known of its health goes on; calls that run keep the permits
    /// of the settings under which they began.
    pub(super) fn with_settings(this: &Arc<Self>, settings: &ProviderSettings) -> Arc<Self> {
        if this.settings == *settings {
            return Arc::clone(this);
        }
        let configured = ConfiguredProvider {
            provider: Arc::clone(&this.provider),
            fingerprint: this.fingerprint.clone(),
        };
        let (clock, timer) = (Arc::clone(&this.clock), Arc::clone(&this.timer));
        Arc::new(Self {
            breaker: Arc::clone(&this.breaker),
            outage: Arc::clone(&this.outage),
            ..Self::new(configured, settings.clone(), clock, timer)
        })
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    pub(super) fn status(&self) -> BackendStatus {
        let busy = |slots: &Semaphore, all: usize| all.saturating_sub(slots.available_permits());
        BackendStatus {
            circuit_open: self.pause_left().is_some(),
            in_flight: busy(&self.issue_places, issue_places(&self.settings))
                + busy(&self.revoke_slots, self.settings.revoke_concurrency),
        }
    }

    /// A place for one call to issue, kept until the call is over. Refuses before an intent is recorded, when the call
    /// would not go through anyway.
    pub(super) fn admit(&self) -> Result<IssuePlace, Error> {
        if let Some(left) = self.pause_left() {
            return Err(self.error(ProviderError::Retryable {
                // Not what it said: that may name what is another agent's.
                message: "it failed several times in a row and is given a pause; operators find why in the broker's log".to_owned(),
                after: Some(left),
            }));
        }
        self.place()
    }

    /// The same for a call that is to go through although the provider failed: people want to see how it is.
    pub(super) fn place(&self) -> Result<IssuePlace, Error> {
        match Arc::clone(&self.issue_places).try_acquire_owned() {
            Ok(permit) => Ok(IssuePlace(permit)),
            Err(_full) => Err(Error::Exhausted {
                message: format!(
                    "too many requests wait for provider `{}`",
                    self.provider.name()
                ),
                retry_after: QUEUE_RETRY,
            }),
        }
    }

    /// Runs a call to issue or renew: in turn, within the deadline, counted by the breaker.
    pub(super) async fn issue<T>(
        &self,
        _place: IssuePlace,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let limit = self.settings.issue_timeout;
        let slot = timer::within(self.timer.as_ref(), limit, self.issue_slots.acquire()).await;
        let Some(Ok(_slot)) = slot else {
            // Nothing was sent, so nothing was minted.
            return Err(ProviderError::Unsupported(
                "the provider was too busy to be asked in time".to_owned(),
            ));
        };
        let result = self.within(limit, call).await;
        let result = result.unwrap_or_else(|| Err(no_answer(limit)));
        self.count(result.as_ref().err());
        result
    }

    /// Runs a call to revoke, within the deadline, with the permit that it was given.
    pub(super) async fn revoke<T>(
        &self,
        _permit: OwnedSemaphorePermit,
        asked: Asked,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let limit = self.settings.revoke_timeout;
        let Some(result) = self.within(limit, call).await else {
            // One thing behind the provider may hang, and others not: such calls are few, since each keeps its slot.
            return Err(no_answer(limit));
        };
        match &result {
            Ok(_) => {
                self.count(None);
                self.answered();
            }
            Err(error) => self.cannot_revoke(asked, error),
        }
        result
    }

    /// Runs the provider's own upkeep in the next slot to revoke in. How that goes says nothing of revoking.
    pub(super) async fn upkeep(&self) -> Result<(), ProviderError> {
        let slot = self.revoke_slots.acquire().await;
        let _slot = slot.map_err(|_closed| ProviderError::retryable("the broker is stopping"))?;
        let limit = self.settings.revoke_timeout;
        let maintained = self.within(limit, self.provider.maintain()).await;
        maintained.unwrap_or_else(|| Err(no_answer(limit)))
    }

    fn answered(&self) {
        if self.outage.answered() {
            tracing::info!(provider = %self.provider.name(), "the provider revokes again, and what waited is due now");
        }
    }

    fn cannot_revoke(&self, asked: Asked, error: &ProviderError) {
        if self.outage.failed(asked, self.clock.monotonic()) {
            let name = self.provider.name();
            tracing::warn!(
                provider = %name, %error,
                "the provider revokes nothing any more; what is due waits, and one attempt at a time finds out when it does again: see `taskpass provider check {name}`"
            );
        }
    }

    /// A slot to revoke in, if one is free right now. What was tried before waits while the provider is down; what is
    /// new has its first try at once, since not everything behind a provider need be down.
    pub(super) fn revoke_slot(self: &Arc<Self>, is_new: bool) -> Option<RevokeSlot> {
        let slot = Arc::clone(&self.revoke_slots).try_acquire_owned().ok()?;
        let leave = self.outage.admit(is_new, self.clock.monotonic())?;
        Some(RevokeSlot {
            called: Some((Arc::clone(self), slot)),
            leave,
        })
    }

    /// The provider's error with its name.
    pub(super) fn error(&self, source: ProviderError) -> Error {
        Error::Provider {
            provider: self.provider.name().clone(),
            source,
        }
    }

    fn count(&self, error: Option<&ProviderError>) {
        let mut breaker = self.breaker.lock();
        if !error.is_some_and(ProviderError::is_retryable) {
            *breaker = Breaker::default();
            return;
        }
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= self.settings.breaker_failures {
            breaker.open_until = Some(self.clock.monotonic() + self.settings.breaker_pause);
        }
    }

    /// How long issuing is still refused. After the pause one failure more opens the breaker again.
    fn pause_left(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        self.breaker
            .lock()
            .open_until
            .filter(|until| *until > now)
            .map(|until| until - now)
    }

    async fn within<T>(&self, limit: Duration, call: impl Future<Output = T> + Send) -> Option<T> {
        timer::within(self.timer.as_ref(), limit, call).await
    }
}

fn no_answer(limit: Duration) -> ProviderError {
    ProviderError::retryable(format!("no answer within {} s", limit.as_secs_f32()))
}

const fn issue_places(settings: &ProviderSettings) -> usize {
    settings
        .issue_concurrency
        .saturating_add(settings.issue_queue)
}
