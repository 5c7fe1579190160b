//! The state of the broker at the moment in which its metrics are read.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_ca::RootRecord;
use taskpass_core::AgentState;
use taskpass_engine::{CallCounts, Engine, Error, ProviderState, ProviderView};
use taskpass_metrics::{CallSample, Metrics, ProviderSample, RootSample, Sample};
use taskpass_store::{AgentCounts, LogStore, indexes_set_aside};
use tokio_util::sync::CancellationToken;

use super::{forecast::Forecast, recent::Recent};
use crate::transport::Connections;

/// How often the free room of the disk is read for the forecast.
const DISK_EVERY: Duration = Duration::from_secs(60);

/// Reads the broker's parts.
#[derive(Debug)]
pub(crate) struct Sampler {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<LogStore>,
    pub(crate) connections: Connections,
    pub(crate) data_dir: PathBuf,
    forecast: Mutex<Forecast>,
    recent: Recent,
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
            recent: Recent::new(Arc::clone(engine.clock())),
            metrics,
            engine,
            store,
            connections,
            data_dir,
            forecast: Mutex::default(),
        }
    }

    /// The metrics as text, as of now or up to a second ago.
    pub(crate) async fn text(&self) -> Arc<str> {
        let make = async { self.metrics.encode(&self.sample().await) };
        self.recent.get(make).await
    }

    /// The state of now. What cannot be read is left out.
    async fn sample(&self) -> Sample {
        let counts = self.connections.counts();
        let providers = self.providers().await.inspect_err(|error| {
            tracing::warn!(error = %error.message(), "the metrics of providers could not be read");
        });
        Sample {
            authenticated_connections: counts.authenticated,
            unauthenticated_connections: counts.connections.saturating_sub(counts.authenticated),
            requests_in_flight: counts.requests,
            ledger_entries: self.store.size(),
            ledger_queue: self.store.queued_events(),
            indexes_set_aside: indexes_set_aside(&self.data_dir)
                .ok()
                .map(|found| found.len()),
            open_tasks: self.store.open_task_count(),
            agents: self.agents(),
            oldest_pending_revocation: self.oldest_pending_revocation(),
            disk_free: self.disk_free(),
            disk_full_days: self.forecast.lock().days_left(),
            reconcilers: self
                .engine
                .reconcilers()
                .into_iter()
                .map(|status| (status.name, status.failures))
                .collect(),
            clock_ahead: self.clock_ahead(),
            roots: self.roots(),
            providers: providers.ok(),
        }
    }

    fn agents(&self) -> Vec<(&'static str, u64)> {
        let AgentCounts {
            active,
            frozen,
            retired,
        } = self.store.agent_counts();
        [
            (AgentState::Active, active),
            (AgentState::Frozen, frozen),
            (AgentState::Retired, retired),
        ]
        .map(|(state, count)| (state.as_str(), count))
        .to_vec()
    }

    fn roots(&self) -> Vec<RootSample> {
        let of_record = |root: RootRecord| RootSample {
            root: root.number.to_string(),
            stage: root.stage.as_str(),
            from_seconds: root.not_before.seconds(),
            until_seconds: root.not_after.seconds(),
        };
        let roots = self.engine.authority().roots();
        roots.into_iter().map(of_record).collect()
    }

    async fn providers(&self) -> Result<Vec<ProviderSample>, Error> {
        let views = self.engine.provider_views().await?;
        let of_view = |view: ProviderView| ProviderSample {
            name: view.name,
            circuit_open: view.status.circuit_open,
            paused_roles: view.status.paused_roles,
            is_retired: view.state == ProviderState::Retired,
            issue: calls(view.status.issue),
            revoke: calls(view.status.revoke),
            live_credentials: view.usage.live_credentials,
            pending_revocations: view.usage.revoking,
        };
        Ok(views.into_iter().map(of_view).collect())
    }

    fn clock_ahead(&self) -> Option<f64> {
        let doubt = self.engine.clock().doubt()?;
        Some(Duration::from_secs(doubt.ahead_seconds().unsigned_abs()).as_secs_f64()).map(|far| {
            if doubt.wall < doubt.trusted {
                -far
            } else {
                far
            }
        })
    }

    fn oldest_pending_revocation(&self) -> Duration {
        let since = self.store.oldest_revocation();
        since.map_or(Duration::ZERO, |since| {
            self.engine.clock().now().since(since)
        })
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

const fn calls(counts: CallCounts) -> CallSample {
    let CallCounts { running, waiting } = counts;
    CallSample { running, waiting }
}
