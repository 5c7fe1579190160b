//! The state of the broker at the moment in which its metrics are read.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_engine::{Engine, Error};
use taskpass_metrics::{Metrics, ProviderSample, Sample};
use taskpass_store::{LogStore, Store as _, StoreError};
use tokio_util::sync::CancellationToken;

use super::forecast::Forecast;
use crate::transport::Connections;

/// How often the free room of the disk is read for the forecast.
const DISK_EVERY: Duration = Duration::from_secs(60);
/// Retries are at most five minutes apart, so everything that has to be revoked is due by then.
const ALL_DUE_AFTER: Duration = Duration::from_secs(3600);
/// Credentials looked at, per provider, to find the longest wait.
const PENDING_MAX: usize = 8192;

/// Reads the broker's parts.
#[derive(Debug)]
pub(crate) struct Sampler {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<LogStore>,
    pub(crate) connections: Connections,
    pub(crate) data_dir: PathBuf,
    forecast: Mutex<Forecast>,
}

impl Sampler {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        engine: Arc<Engine>,
        store: Arc<LogStore>,
        connections: Connections,
        data_dir: PathBuf,
    ) -> Self {
        Self {
            metrics,
            engine,
            store,
            connections,
            data_dir,
            forecast: Mutex::default(),
        }
    }

    /// The metrics as text. A number that cannot be read stays zero: the other numbers matter all
    /// the more then.
    pub(crate) async fn text(&self) -> String {
        let sample = self.sample().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "some metrics could not be read");
            Sample::default()
        });
        self.metrics.encode(&sample)
    }

    async fn sample(&self) -> Result<Sample, Error> {
        let counts = self.connections.counts();
        let views = self.engine.provider_views().await?;
        let providers = views.into_iter().map(|view| ProviderSample {
            name: view.name,
            circuit_open: view.status.circuit_open,
            calls_in_flight: view.status.in_flight,
            live_credentials: view.usage.live_credentials,
            pending_revocations: view.usage.revoking,
        });
        Ok(Sample {
            authenticated_connections: counts.authenticated,
            unauthenticated_connections: counts.connections.saturating_sub(counts.authenticated),
            requests_in_flight: counts.requests,
            ledger_entries: self.store.size(),
            ledger_queue: self.store.queued_events(),
            open_tasks: self.store.open_tasks().await?.len(),
            oldest_pending_revocation: self.oldest_pending_revocation().await?,
            disk_free: self.disk_free(),
            disk_full_days: self.forecast.lock().days_left(),
            providers: providers.collect(),
        })
    }

    async fn oldest_pending_revocation(&self) -> Result<Duration, StoreError> {
        let now = self.engine.clock().now();
        let all_due = now.plus(ALL_DUE_AFTER);
        let pending = self.store.revocations(all_due, PENDING_MAX).await?.due;
        let mut oldest = Duration::ZERO;
        for id in pending.iter().flat_map(|group| &group.credentials) {
            let credential = self.store.credential(*id).await?;
            let revocation = credential.as_ref().and_then(|it| it.revocation.as_ref());
            oldest = oldest.max(revocation.map_or(Duration::ZERO, |it| now.since(it.since)));
        }
        Ok(oldest)
    }

    /// Bytes that this process may still use on the volume of the data directory.
    fn disk_free(&self) -> Option<u64> {
        let volume = rustix::fs::statvfs(&self.data_dir).ok()?;
        Some(volume.f_bavail.saturating_mul(volume.f_frsize))
    }

    /// Watches the disk until `stop`.
    pub(crate) async fn watch_disk(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Some(free) = self.disk_free() {
                let now = self.engine.clock().monotonic();
                self.forecast.lock().note(now, free);
            }
            stop.run_until_cancelled(tokio::time::sleep(DISK_EVERY))
                .await;
        }
    }
}
