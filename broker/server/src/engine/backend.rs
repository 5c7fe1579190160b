//! A provider as the engine calls it: with a deadline, a bound on calls, a queue and a circuit breaker.
//!
//! Issuing and revoking have places of their own, so that neither can starve the other, and one provider's
//! trouble stays its own. The breaker only ever stops issuing: revoking never gives up.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::Clock;
use taskpass_provider::{Provider, ProviderError};
use tokio::sync::Semaphore;

use super::{Error, ProviderSettings};

/// How a provider stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendStatus {
    /// Whether issuing is refused for a while because the provider failed often.
    pub circuit_open: bool,
    /// Calls that run or wait.
    pub in_flight: usize,
}

/// One provider and how busy it is.
#[derive(Debug)]
pub(crate) struct Backend {
    provider: Arc<dyn Provider>,
    settings: ProviderSettings,
    clock: Arc<dyn Clock>,
    issue_slots: Semaphore,
    revoke_slots: Semaphore,
    waiting: AtomicUsize,
    breaker: Mutex<Breaker>,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    /// Monotonic time until which issuing is refused.
    open_until: Option<Duration>,
}

impl Backend {
    pub(super) fn new(
        provider: Arc<dyn Provider>,
        settings: ProviderSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            provider,
            clock,
            issue_slots: Semaphore::new(settings.issue_concurrency),
            revoke_slots: Semaphore::new(settings.revoke_concurrency),
            waiting: AtomicUsize::new(0),
            breaker: Mutex::default(),
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
            in_flight: busy(&self.issue_slots, self.settings.issue_concurrency)
                + busy(&self.revoke_slots, self.settings.revoke_concurrency)
                + self.waiting.load(Ordering::Relaxed),
        }
    }

    /// Refuses before an intent is recorded, when the call would not go through anyway.
    pub(super) fn admit(&self) -> Result<(), Error> {
        let full = self.waiting.load(Ordering::Relaxed) >= self.settings.issue_queue;
        let (message, retry_after) = match (self.pause_left(), full) {
            (Some(left), _) => {
                let error = ProviderError::Retryable {
                    message: "it failed several times in a row and is given a pause".to_owned(),
                    after: Some(left),
                };
                return Err(self.error(error));
            }
            (None, true) => (
                "too many requests wait for provider",
                Duration::from_secs(1),
            ),
            (None, false) => return Ok(()),
        };
        Err(Error::Exhausted {
            message: format!("{message} `{}`", self.provider.name()),
            retry_after,
        })
    }

    /// Runs a call to issue or renew: in turn, within the deadline, counted by the breaker.
    pub(super) async fn issue<T>(
        &self,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let slot =
            tokio::time::timeout(self.settings.issue_timeout, self.issue_slots.acquire()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let Ok(Ok(_slot)) = slot else {
            // Nothing was sent, so nothing was minted.
            return Err(ProviderError::Unsupported(
                "the provider was too busy to be asked in time".to_owned(),
            ));
        };
        let result = within(self.settings.issue_timeout, call).await;
        self.count(result.as_ref().err());
        result
    }

    /// Runs a call to revoke: in turn, within the deadline.
    pub(crate) async fn revoke<T>(
        &self,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let Ok(_slot) = self.revoke_slots.acquire().await else {
            return Err(ProviderError::retryable("the broker is stopping"));
        };
        let result = within(self.settings.revoke_timeout, call).await;
        if result.is_ok() {
            self.count(None);
        }
        result
    }

    /// Whether there is a place free to revoke right now.
    pub(crate) fn can_revoke(&self) -> bool {
        self.revoke_slots.available_permits() > 0
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
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, ProviderError>> + Send,
) -> Result<T, ProviderError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(ProviderError::retryable(format!(
            "no answer within {} s",
            limit.as_secs_f32()
        )))
    })
}
