//! Tests of the whole provider.
//!
//! Against ministack with `AUTH=true`, which enforces role policies, session policies and denials
//! by tag and by time, and against moto, which only checks the wire format. Neither knows the
//! packed size of policies, spreads a policy slowly, or counts the characters of a role's policies,
//! so these are not proved here. For histories too long for ministack, there is a store in memory
//! and an evaluator of IAM's rules of our own.

#![expect(
    clippy::disallowed_methods,
    reason = "emulators go by the machine's clock and are child processes of the test"
)]

mod conformance;
mod evaluator;
mod kms;
mod ministack;
mod moto;
mod properties;
mod scale;
mod support;
