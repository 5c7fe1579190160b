//! The broker's metrics, as counters in memory and as OpenMetrics text. It opens no socket: the
//! server's `observe` serves the text.
//!
//! It is a crate of its own, below the engine, so that every part of the broker can count without
//! knowing the readers of the numbers. It is not part of `taskpass-core`, because agents link that
//! crate.
//!
//! Recording costs an atomic addition or a short lock; [`Sample`] is filled only when a scraper
//! reads the metrics. No label can take a value that a caller chooses: methods and actions come
//! from the closed lists in [`Labels`], providers from the configuration, and every other value
//! counts as `other`.
//!
//! ```
//! use std::time::Duration;
//! use taskpass_metrics::{Code, Labels, Metrics, Sample};
//!
//! let methods = vec!["TaskService/EndTask".to_owned()];
//! let metrics = Metrics::new(Labels { methods, ..Labels::default() });
//! let method = metrics.requests.method("TaskService/EndTask");
//! metrics.requests.done(method, Code::grpc(7), Duration::from_millis(3));
//! let text = metrics.encode(&Sample::default());
//! let labels = r#"method="TaskService/EndTask",code="PERMISSION_DENIED""#;
//! assert!(text.contains(&format!("taskpass_requests_total{{{labels}}} 1")));
//! ```

/// Declares metrics: the struct, and `new`, which registers each one under the name of its field.
/// A unit becomes a part of that name.
macro_rules! metrics {
    (
        $(#[$doc:meta])*
        $vis:vis struct $name:ident {
            $($field:ident: $type:ty $(, $unit:ident)? = $help:literal;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        $vis struct $name {
            $($field: $type,)*
        }

        impl $name {
            $vis fn new(registry: &mut prometheus_client::registry::Registry) -> Self {
                $(
                    let $field = <$type>::default();
                    metrics!(@register registry, $field, $help $(, $unit)?);
                )*
                Self { $($field,)* }
            }
        }
    };
    (@register $registry:ident, $field:ident, $help:literal) => {
        $registry.register(stringify!($field), $help, $field.clone());
    };
    (@register $registry:ident, $field:ident, $help:literal, $unit:ident) => {
        let unit = prometheus_client::registry::Unit::$unit;
        $registry.register_with_unit(stringify!($field), $help, unit, $field.clone());
    };
}

mod code;
mod events;
mod providers;
mod requests;
mod sample;

use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use code::Code;
pub use events::{Events, Prepared};
pub use providers::{Call, ProviderMetrics, Providers};
pub use requests::{Method, Requests};
pub use sample::{CallSample, ProviderSample, RootSample, Sample};

/// The prefix of every name.
const PREFIX: &str = "taskpass";
/// The label of a value that is not in its list.
const OTHER: &str = "other";

/// The values that labels may take.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// gRPC methods.
    pub methods: Vec<String>,
    /// Actions, as policies spell them.
    pub actions: Vec<String>,
    /// The version of the broker.
    pub version: String,
}

/// All metrics of one broker.
#[derive(Debug)]
pub struct Metrics {
    /// Requests by method and code.
    pub requests: Requests,
    /// Decisions, issues, revocations, tasks: counted by their events.
    pub events: Events,
    /// Calls to providers.
    pub providers: Providers,
    /// Syncs of the ledger.
    pub ledger: LedgerMetrics,
    gauges: sample::Gauges,
    registry: Registry,
    /// One reader at a time, or the gauges of two samples would mix.
    reading: Mutex<()>,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new(labels: Labels) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let version = Info::new(vec![("version", labels.version)]);
        registry.register("build", "The version of the broker", version);
        Self {
            requests: Requests::new(labels.methods, &mut registry),
            events: Events::new(labels.actions, &mut registry),
            providers: Providers::new(&mut registry),
            ledger: LedgerMetrics::new(&mut registry),
            gauges: sample::Gauges::new(&mut registry),
            registry,
            reading: Mutex::default(),
        }
    }

    /// The metrics as OpenMetrics 1.0 text, with the gauges as `sample` has them.
    pub fn encode(&self, sample: &Sample) -> String {
        let _one_at_a_time = self.reading.lock();
        self.gauges.set(sample);
        let mut text = String::new();
        // Writing into a `String` cannot fail.
        let _written = text::encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    /// Without any known method or action; for tests.
    fn default() -> Self {
        Self::new(Labels::default())
    }
}

/// The work of the ledger on its disk.
#[derive(Debug)]
pub struct LedgerMetrics {
    sync: Histogram,
    written: Counter,
}

impl LedgerMetrics {
    fn new(registry: &mut Registry) -> Self {
        let sync = Histogram::new([
            0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
        ]);
        let written = Counter::default();
        registry.register_with_unit(
            "ledger_sync",
            "Time that one fdatasync of the ledger took",
            Unit::Seconds,
            sync.clone(),
        );
        registry.register_with_unit(
            "ledger_written",
            "Bytes written to the ledger's files",
            Unit::Bytes,
            written.clone(),
        );
        Self { sync, written }
    }

    /// One `fdatasync` ended.
    pub fn synced(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
    }

    /// The disk took some bytes.
    pub fn wrote(&self, bytes: usize) {
        self.written.inc_by(bytes as u64);
    }
}

#[cfg(test)]
mod tests;
