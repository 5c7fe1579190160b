//! Numbers that no part of the broker counts up: they are read from its parts when a scraper reads
//! the metrics.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
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

metrics! {
    /// The gauges that show a [`Sample`].
    pub(crate) struct Gauges {
        connections: Family<OfPeer, Gauge> =
            "Open connections, by whether the peer has a client certificate";
        requests_in_flight: Gauge = "Requests in flight";
        ledger_entries: Gauge = "Entries in the ledger";
        ledger_queue_events: Gauge = "Events that wait for the ledger's writer";
        disk_free: Gauge, Bytes = "Bytes free on the volume of the data directory";
        disk_full_days: Float =
            "Days until the volume of the data directory is full, at the pace of the last day";
        open_tasks: Gauge = "Open tasks";
        live_credentials: Family<OfProvider, Gauge> = "Live credentials, by provider";
        pending_revocations: Family<OfProvider, Gauge> =
            "Credentials that have to be revoked, by provider";
        oldest_pending_revocation: Float, Seconds =
            "How long the oldest credential that has to be revoked has been waiting";
        provider_circuit_open: Family<OfProvider, Gauge> =
            "1 while issuing is refused because the provider failed often";
        provider_calls_in_flight: Family<OfProvider, Gauge> =
            "Calls to a provider that run or wait";
    }
}

impl Gauges {
    pub(crate) fn set(&self, sample: &Sample) {
        for (peer, count) in [
            ("authenticated", sample.authenticated_connections),
            ("unauthenticated", sample.unauthenticated_connections),
        ] {
            set(&self.connections.get_or_create(&OfPeer { peer }), count);
        }
        set(&self.requests_in_flight, sample.requests_in_flight);
        set(&self.ledger_entries, sample.ledger_entries);
        set(&self.ledger_queue_events, sample.ledger_queue);
        set(&self.open_tasks, sample.open_tasks);
        let oldest = sample.oldest_pending_revocation.as_secs_f64();
        self.oldest_pending_revocation.set(oldest);
        set(&self.disk_free, sample.disk_free.unwrap_or(0));
        let never = f64::INFINITY;
        self.disk_full_days
            .set(sample.disk_full_days.unwrap_or(never));
        self.set_providers(&sample.providers);
    }

    /// A provider that is no longer configured disappears.
    fn set_providers(&self, providers: &[ProviderSample]) {
        let families = [
            &self.provider_circuit_open,
            &self.provider_calls_in_flight,
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
