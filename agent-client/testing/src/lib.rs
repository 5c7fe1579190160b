//! A broker in the process of the tests: real TLS, real gRPC, and a script for its faults.

pub mod fake;
pub mod ledger;
pub mod pki;
pub mod services;
