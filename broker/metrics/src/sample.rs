//! Numbers that no part of the broker counts up: they are read from its parts when a scraper reads
//! the metrics.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{family::Family, gauge::Gauge},
};
use taskpass_core::{ProviderName, RoleName};

type Float = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPeer {
    peer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoot {
    root: String,
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReconciler {
    reconciler: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProvider {
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    role: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    provider: String,
    call: &'static str,
}

/// The labels of a number that has none and may be missing. A family that is cleared leaves its
/// number out of the text; a plain gauge would show 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Only;

impl EncodeLabelSet for Only {
    fn encode(&self, _encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}

/// The state of the broker at one moment. `disk_free` and `providers` are `None` when they could
/// not be read, and are left out of the text then: a reader would take a zero for the truth.
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
    /// Indexes that did not fit the ledger and were moved aside; `None` when that could not be
    /// read.
    pub indexes_set_aside: Option<usize>,
    /// Open tasks.
    pub open_tasks: usize,
    /// Agents by state.
    pub agents: Vec<(&'static str, u64)>,
    /// How long the oldest credential that has to be revoked has been waiting.
    pub oldest_pending_revocation: Duration,
    /// Bytes free on the volume of the data directory.
    pub disk_free: Option<u64>,
    /// Days until that volume is full, if it goes on filling up as in the last day; `None` while it
    /// does not.
    pub disk_full_days: Option<f64>,
    /// How many rounds of each reconciler failed in a row.
    pub reconcilers: Vec<(&'static str, u32)>,
    /// How far the wall clock is ahead of the time that has passed, in seconds, while it is in
    /// doubt.
    pub clock_ahead: Option<f64>,
    /// The roots of the trust bundle.
    pub roots: Vec<RootSample>,
    /// The configured providers, and the providers that only revoke.
    pub providers: Option<Vec<ProviderSample>>,
}

/// One root of the trust bundle.
#[derive(Debug, Clone)]
pub struct RootSample {
    /// Its number.
    pub root: String,
    /// How far it has come.
    pub stage: &'static str,
    /// From when it is valid, in seconds of the Unix epoch.
    pub from_seconds: i64,
    /// Until when it is valid, in seconds of the Unix epoch.
    pub until_seconds: i64,
}

/// The state of one provider.
#[derive(Debug, Clone)]
pub struct ProviderSample {
    /// Its name.
    pub name: ProviderName,
    /// Whether issuing is refused for a while because the provider could not be reached.
    pub circuit_open: bool,
    /// The roles from which issuing is refused for a while because calls for them failed often.
    pub paused_roles: Vec<RoleName>,
    /// Whether it left the configuration and only revokes what it minted.
    pub is_retired: bool,
    /// Its calls to issue and renew.
    pub issue: CallSample,
    /// Its calls to revoke.
    pub revoke: CallSample,
    /// Live credentials.
    pub live_credentials: u32,
    /// Credentials that have to be revoked.
    pub pending_revocations: u32,
}

/// Calls of one kind to one provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallSample {
    /// Calls that run.
    pub running: usize,
    /// Calls that wait until a running call ends.
    pub waiting: usize,
}

metrics! {
    /// The gauges that show a [`Sample`].
    pub(crate) struct Gauges {
        connections: Family<OfPeer, Gauge> =
            "Open connections, by whether the peer has a client certificate";
        requests_in_flight: Gauge = "Requests in flight";
        ledger_entries: Gauge = "Entries in the ledger";
        ledger_queue_events: Gauge = "Events that wait for the ledger's writer";
        index_set_aside: Family<Only, Gauge> =
            "Indexes that did not fit the ledger and were moved aside for a person to look at";
        disk_free: Family<Only, Gauge>, Bytes =
            "Bytes free on the volume of the data directory";
        disk_full_days: Family<Only, Float> =
            "Days until the volume of the data directory is full, at the pace of the last day";
        reconciler_failures: Family<OfReconciler, Gauge> =
            "Rounds of a reconciler that failed in a row; 0 when the last one did not";
        clock_in_doubt: Gauge =
            "1 while the wall clock is far from the time that has passed, and nothing is issued";
        clock_ahead: Float, Seconds =
            "How far the wall clock is ahead of the time that has passed while it is in doubt, else 0";
        root_valid_from_timestamp: Family<OfRoot, Gauge>, Seconds =
            "From when a root of the trust bundle is valid, by its number and stage";
        root_valid_until_timestamp: Family<OfRoot, Gauge>, Seconds =
            "Until when a root of the trust bundle is valid, by its number and stage";
        open_tasks: Gauge = "Open tasks";
        agents: Family<OfState, Gauge> = "Registered agents, by state";
        live_credentials: Family<OfProvider, Gauge> = "Live credentials, by provider";
        pending_revocations: Family<OfProvider, Gauge> =
            "Credentials that have to be revoked, by provider";
        oldest_pending_revocation: Float, Seconds =
            "How long the oldest credential that has to be revoked has been waiting";
        provider_circuit_open: Family<OfProvider, Gauge> =
            "1 while issuing is refused because the provider could not be reached";
        role_circuit_open: Family<OfRole, Gauge> =
            "1 while issuing from the role is refused because calls for it failed often";
        provider_retired: Family<OfProvider, Gauge> =
            "1 for a provider that left the configuration and only revokes what it minted";
        provider_calls_running: Family<OfCall, Gauge> =
            "Calls to a provider that run, to issue and to revoke";
        provider_calls_waiting: Family<OfCall, Gauge> =
            "Calls to a provider that wait, to issue and to revoke";
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
        set(&self.clock_in_doubt, u8::from(sample.clock_ahead.is_some()));
        self.clock_ahead.set(sample.clock_ahead.unwrap_or(0.0));
        for (state, count) in &sample.agents {
            set(&self.agents.get_or_create_owned(&OfState { state }), *count);
        }
        let oldest = sample.oldest_pending_revocation.as_secs_f64();
        self.oldest_pending_revocation.set(oldest);
        self.index_set_aside.clear();
        if let Some(count) = sample.indexes_set_aside {
            set(&self.index_set_aside.get_or_create(&Only), count);
        }
        self.disk_free.clear();
        if let Some(free) = sample.disk_free {
            set(&self.disk_free.get_or_create(&Only), free);
        }
        self.disk_full_days.clear();
        // Without a look at the disk there is no forecast, not a good one.
        if sample.disk_free.is_some() {
            let days = sample.disk_full_days.unwrap_or(f64::INFINITY);
            self.disk_full_days.get_or_create(&Only).set(days);
        }
        self.set_roots(&sample.roots);
        for (reconciler, failures) in &sample.reconcilers {
            let of = OfReconciler { reconciler };
            set(
                &self.reconciler_failures.get_or_create_owned(&of),
                *failures,
            );
        }
        self.set_providers(sample.providers.as_deref().unwrap_or_default());
    }

    /// A root that is retired disappears.
    fn set_roots(&self, roots: &[RootSample]) {
        self.root_valid_from_timestamp.clear();
        self.root_valid_until_timestamp.clear();
        for sample in roots {
            let of_root = OfRoot {
                root: sample.root.clone(),
                stage: sample.stage,
            };
            let from = self.root_valid_from_timestamp.get_or_create(&of_root);
            from.set(sample.from_seconds);
            let until = self.root_valid_until_timestamp.get_or_create(&of_root);
            until.set(sample.until_seconds);
        }
    }

    /// A provider that is gone disappears.
    fn set_providers(&self, providers: &[ProviderSample]) {
        let families = [
            &self.provider_circuit_open,
            &self.provider_retired,
            &self.live_credentials,
            &self.pending_revocations,
        ];
        for family in families {
            family.clear();
        }
        self.role_circuit_open.clear();
        self.provider_calls_running.clear();
        self.provider_calls_waiting.clear();
        for sample in providers {
            let provider = sample.name.to_string();
            for (call, calls) in [("issue", sample.issue), ("revoke", sample.revoke)] {
                let provider = provider.clone();
                let of = OfCall { provider, call };
                set(
                    &self.provider_calls_running.get_or_create(&of),
                    calls.running,
                );
                set(
                    &self.provider_calls_waiting.get_or_create(&of),
                    calls.waiting,
                );
            }
            for role in &sample.paused_roles {
                let role = role.to_string();
                set(&self.role_circuit_open.get_or_create(&OfRole { role }), 1);
            }
            let of = OfProvider { provider };
            let values = [
                u32::from(sample.circuit_open),
                u32::from(sample.is_retired),
                sample.live_credentials,
                sample.pending_revocations,
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
