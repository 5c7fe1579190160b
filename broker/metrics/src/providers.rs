//! Calls to providers: how long they take and how they end.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use taskpass_core::ProviderName;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    provider: Arc<str>,
    call: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    provider: Arc<str>,
    call: &'static str,
    outcome: &'static str,
}

/// The call to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Whether it can do its job.
    Check,
    /// To issue a credential.
    Issue,
    /// To renew one.
    Renew,
    /// To revoke credentials.
    Revoke,
    /// To prove that credentials are dead.
    Probe,
    /// To keep its own tokens and lists in order.
    Maintain,
}

impl Call {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::Probe => "probe",
            Self::Maintain => "maintain",
        }
    }
}

type Latencies = Family<OfCall, Histogram, fn() -> Histogram>;

/// The calls of all providers.
#[derive(Debug)]
pub struct Providers {
    took: Latencies,
    calls: Family<OfOutcome, Counter>,
}

impl Providers {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let took: Latencies = Family::new_with_constructor(|| {
            Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
            ])
        });
        let calls = Family::<OfOutcome, Counter>::default();
        registry.register_with_unit(
            "provider_call",
            "Time that a call to a provider took, by provider and call",
            Unit::Seconds,
            took.clone(),
        );
        registry.register(
            "provider_calls",
            "Calls to providers that ended, by provider, call and outcome",
            calls.clone(),
        );
        Self { took, calls }
    }

    /// The calls of one configured provider.
    pub fn of(&self, name: &ProviderName) -> ProviderMetrics {
        ProviderMetrics {
            provider: name.as_str().into(),
            took: self.took.clone(),
            calls: self.calls.clone(),
        }
    }
}

/// The calls of one provider.
#[derive(Debug, Clone)]
pub struct ProviderMetrics {
    provider: Arc<str>,
    took: Latencies,
    calls: Family<OfOutcome, Counter>,
}

impl ProviderMetrics {
    /// A call ended. `outcome` is `ok`, the kind of the error, or `cancelled`.
    pub fn called(&self, call: Call, outcome: &'static str, took: Duration) {
        let (provider, call) = (&self.provider, call.as_str());
        let of_call = OfCall {
            provider: Arc::clone(provider),
            call,
        };
        self.took
            .get_or_create(&of_call)
            .observe(took.as_secs_f64());
        let of_outcome = OfOutcome {
            provider: Arc::clone(provider),
            call,
            outcome,
        };
        self.calls.get_or_create(&of_outcome).inc();
    }
}
