//! The provider against a real OpenBao, and against servers that behave badly.
#![expect(
    clippy::disallowed_methods,
    reason = "the proxy between provider and server runs beside the test"
)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of the tests fail the test"
)]

mod behaviour;
mod check;
mod cluster;
mod conformance;
mod consistency;
mod engines;
mod failures;
mod http2;
mod in_doubt;
mod rights;
mod server;
mod sessions;
mod tokens;
mod transit;
mod world;
