//! Numbers that no part of the broker counts up: they are read from its parts when a scraper reads
//! the metrics.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use taskpass_core::ProviderName;

type Float = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPeer {
    peer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProvider {
    provider: String,
}

/// The state of the broker at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Open connections with a client certificate.
    pub authenticated_connections: usize,
    /// Open connections without one, handshakes included.
    pub unauthenticated_connections: usize,
    /// Requests in flight.
    pub requests_in_flight: usize,
    /// Entries in the ledger.
    pub ledger_entries: u64,
    /// Events that wait for the ledger's writer.
    pub ledger_queue: usize,
    /// Open tasks.
    pub open_tasks: usize,
    /// How long the oldest credential that has to be revoked has been waiting.
    pub oldest_pending_revocation: Duration,
    /// Bytes free on the volume of the data directory; `None` if they cannot be read.
    pub disk_free: Option<u64>,
    /// Days until that volume is full, if it goes on filling up as in the last day; `None` while it
    /// does not.
    pub disk_full_days: Option<f64>,
    /// The configured providers.
    pub providers: Vec<ProviderSample>,
}

/// The state of one provider.
#[derive(Debug, Clone)]
pub struct ProviderSample {
    /// Its name.
    pub name: ProviderName,
    /// Whether issuing is refused for a while because the provider failed often.
    pub circuit_open: bool,
    /// Calls that run or wait.
    pub calls_in_flight: usize,
    /// Live credentials.
    pub live_credentials: u32,
    /// Credentials that have to be revoked.
    pub pending_revocations: u32,
}

/// The gauges that show a [`Sample`].
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    connections: Family<OfPeer, Gauge>,
    requests_in_flight: Gauge,
    ledger_entries: Gauge,
    ledger_queue: Gauge,
    open_tasks: Gauge,
    oldest_pending_revocation: Float,
    disk_free: Gauge,
    disk_full: Float,
    circuit_open: Family<OfProvider, Gauge>,
    calls_in_flight: Family<OfProvider, Gauge>,
    live_credentials: Family<OfProvider, Gauge>,
    pending_revocations: Family<OfProvider, Gauge>,
}

impl Gauges {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        gauges.register_load(registry);
        gauges.register_work(registry);
        gauges
    }

    fn register_load(&self, registry: &mut Registry) {
        registry.register(
            "connections",
            "Open connections, by whether the peer has a client certificate",
            self.connections.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests in flight",
            self.requests_in_flight.clone(),
        );
        registry.register(
            "ledger_entries",
            "Entries in the ledger",
            self.ledger_entries.clone(),
        );
        registry.register(
            "ledger_queue_events",
            "Events that wait for the ledger's writer",
            self.ledger_queue.clone(),
        );
        registry.register_with_unit(
            "disk_free",
            "Bytes free on the volume of the data directory",
            Unit::Bytes,
            self.disk_free.clone(),
        );
        registry.register(
            "disk_full_days",
            "Days until the volume of the data directory is full, at the pace of the last day",
            self.disk_full.clone(),
        );
    }

    fn register_work(&self, registry: &mut Registry) {
        registry.register("open_tasks", "Open tasks", self.open_tasks.clone());
        registry.register(
            "live_credentials",
            "Live credentials, by provider",
            self.live_credentials.clone(),
        );
        registry.register(
            "pending_revocations",
            "Credentials that have to be revoked, by provider",
            self.pending_revocations.clone(),
        );
        registry.register_with_unit(
            "oldest_pending_revocation",
            "How long the oldest credential that has to be revoked has been waiting",
            Unit::Seconds,
            self.oldest_pending_revocation.clone(),
        );
        registry.register(
            "provider_circuit_open",
            "1 while issuing is refused because the provider failed often",
            self.circuit_open.clone(),
        );
        registry.register(
            "provider_calls_in_flight",
            "Calls to a provider that run or wait",
            self.calls_in_flight.clone(),
        );
    }

    pub(crate) fn set(&self, sample: &Sample) {
        for (peer, count) in [
            ("authenticated", sample.authenticated_connections),
            ("unauthenticated", sample.unauthenticated_connections),
        ] {
            set(&self.connections.get_or_create(&OfPeer { peer }), count);
        }
        set(&self.requests_in_flight, sample.requests_in_flight);
        set(&self.ledger_entries, sample.ledger_entries);
        set(&self.ledger_queue, sample.ledger_queue);
        set(&self.open_tasks, sample.open_tasks);
        let oldest = sample.oldest_pending_revocation.as_secs_f64();
        self.oldest_pending_revocation.set(oldest);
        set(&self.disk_free, sample.disk_free.unwrap_or(0));
        let never = f64::INFINITY;
        self.disk_full.set(sample.disk_full_days.unwrap_or(never));
        self.set_providers(&sample.providers);
    }

    /// A provider that is no longer configured disappears.
    fn set_providers(&self, providers: &[ProviderSample]) {
        let families = [
            &self.circuit_open,
            &self.calls_in_flight,
            &self.live_credentials,
            &self.pending_revocations,
        ];
        for family in families {
            family.clear();
        }
        for sample in providers {
            let of = OfProvider {
                provider: sample.name.to_string(),
            };
            let values = [
                u64::from(sample.circuit_open),
                sample.calls_in_flight as u64,
                u64::from(sample.live_credentials),
                u64::from(sample.pending_revocations),
            ];
            for (family, value) in families.into_iter().zip(values) {
                set(&family.get_or_create(&of), value);
            }
        }
    }
}

fn set<N: TryInto<i64>>(gauge: &Gauge, value: N) {
    gauge.set(value.try_into().unwrap_or(i64::MAX));
}
