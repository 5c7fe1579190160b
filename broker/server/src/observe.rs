//! The view that operators have of a running broker: its log, a span for each request, and its
//! metrics.
//!
//! The other parts of the broker count in [`taskpass_metrics::Metrics`]. Here are the parts that
//! know HTTP, files and sockets: `request` gives each request its id and span, `disk` and
//! `provider` measure the disk and the providers that they wrap, `sample` reads the state of the
//! broker, `recent` spares a second look within a second, and `endpoint` serves it all to
//! Prometheus. `reconciler` and `breaker` are what `doctor` asks a running broker for.

pub mod breaker;
pub(crate) mod disk;
pub(crate) mod endpoint;
mod forecast;
pub mod logging;
pub(crate) mod provider;
mod recent;
pub mod reconciler;
pub(crate) mod request;
pub(crate) mod sample;
