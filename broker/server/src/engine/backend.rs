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

use super::{Error, ProviderSettings, Timer, outage::Outage, timer};

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

/// Characters kept of a provider's error, enough for its cause.
const ERROR_CHARS_MAX: usize = 300;

/// A place among the calls to issue that run or wait.
#[derive(Debug)]
pub(super) struct IssuePlace(
    #[expect(dead_code, reason = "held, never looked at")] OwnedSemaphorePermit,
);

/// A slot for one call to revoke. What is no longer configured is not called, and needs none.
#[derive(Debug)]
pub(crate) struct RevokeSlot(
    #[expect(dead_code, reason = "held, never looked at")] Option<OwnedSemaphorePermit>,
);

impl RevokeSlot {
    /// For a provider that is no longer configured.
    pub(super) const fn of_nobody() -> Self {
        Self(None)
    }
}

/// One provider and how busy it is.
#[derive(Debug)]
pub(crate) struct Backend {
    provider: Arc<dyn Provider>,
    settings: ProviderSettings,
    clock: Arc<dyn Clock>,
    /// Calls to issue that run or wait: as many as there are slots and places in the queue.
    issue_places: Arc<Semaphore>,
    timer: Arc<dyn Timer>,
    issue_slots: Semaphore,
    revoke_slots: Arc<Semaphore>,
    breaker: Mutex<Breaker>,
    outage: Outage,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    /// Monotonic time until which issuing is refused.
    open_until: Option<Duration>,
    /// What the provider said last. Its errors carry no secrets.
    last_error: String,
}

impl Backend {
    pub(super) fn new(
        provider: Arc<dyn Provider>,
        settings: ProviderSettings,
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
    ) -> Self {
        Self {
            provider,
            clock,
            issue_places: Arc::new(Semaphore::new(issue_places(&settings))),
            timer,
            issue_slots: Semaphore::new(settings.issue_concurrency),
            revoke_slots: Arc::new(Semaphore::new(settings.revoke_concurrency)),
            breaker: Mutex::default(),
            outage: Outage::default(),
            settings,
        }
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
                message: self.why_paused(),
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
        if result.is_ok() {
            self.answered();
        }
        result
    }

    /// Runs a call to revoke, within the deadline, in the slot that it was given.
    pub(super) async fn revoke<T>(
        &self,
        _slot: RevokeSlot,
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
            Err(error) => self.cannot_revoke(error),
        }
        result
    }

    fn answered(&self) {
        if self.outage.answered() {
            tracing::info!(provider = %self.provider.name(), "the provider revokes again, and what waited is due now");
        }
    }

    fn cannot_revoke(&self, error: &ProviderError) {
        if self.outage.failed(self.clock.monotonic()) {
            let name = self.provider.name();
            tracing::warn!(
                provider = %name, %error,
                "the provider revokes nothing any more; what is due waits, and one attempt at a time finds out when it does again: see `taskpass provider check {name}`"
            );
        }
    }

    /// A slot to revoke in, in turn.
    pub(super) async fn next_revoke_slot(&self) -> Result<RevokeSlot, ProviderError> {
        let slot = Arc::clone(&self.revoke_slots).acquire_owned().await;
        slot.map(|slot| RevokeSlot(Some(slot)))
            .map_err(|_closed| ProviderError::retryable("the broker is stopping"))
    }

    /// A slot to revoke in, if one is free right now. What was tried before waits while the provider is down; what is
    /// new has its first try at once, since not everything behind a provider need be down.
    pub(super) fn revoke_slot(&self, is_new: bool) -> Option<RevokeSlot> {
        let slot = Arc::clone(&self.revoke_slots).try_acquire_owned().ok()?;
        let may_ask = is_new || self.outage.may_ask(self.clock.monotonic());
        may_ask.then_some(RevokeSlot(Some(slot)))
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
        let Some(error) = error.filter(|error| error.is_retryable()) else {
            *breaker = Breaker::default();
            return;
        };
        breaker.last_error = error.to_string().chars().take(ERROR_CHARS_MAX).collect();
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= self.settings.breaker_failures {
            breaker.open_until = Some(self.clock.monotonic() + self.settings.breaker_pause);
        }
    }

    fn why_paused(&self) -> String {
        let breaker = self.breaker.lock();
        format!(
            "it failed several times in a row and is given a pause; at last it said: {}",
            breaker.last_error
        )
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
