//! Short names for steps that several topics share.

use std::time::Duration;

use serde_json::Value;
use taskpass_tests::{Broker, Cli, wire::Wire};

pub use taskpass_tests::{
    History, export, vkey,
    witness::{
        CERT_PATH, assert_nothing_untracked, client, is_waiting_for_probation, runtime, text, time,
        wait_for_state, wait_one_sweep,
    },
};

/// Asserts that a renewal did not shorten a credential. Back ends count in whole seconds, so at the
/// longest possible life the end may be a moment earlier.
pub fn assert_not_shortened(before: &Value, after: &Value) {
    let (before, after) = (time(before, "expires_at"), time(after, "expires_at"));
    assert!(
        after.plus(Duration::from_secs(2)) >= before,
        "{before} became {after}"
    );
}

/// What gRPC health says about issuing: 1 when it goes on, 2 when it does not.
pub fn health_of_issuing(broker: &Broker<'_>) -> Option<u8> {
    const SERVICE: &[u8] = b"\x0a\x10taskpass.issuing";
    let asked = Wire::new(broker.address(), None)
        .call("/grpc.health.v1.Health/Check", SERVICE.to_vec())
        .ok()?;
    asked.concat().last().copied()
}

/// Ends a task.
pub fn end(agent: &Cli, task: &str) -> Value {
    agent.json(&["task", "end", task])
}

/// The receipt of an issued credential.
pub fn receipt<'a>(ended: &'a Value, issued: &Value) -> &'a Value {
    let id = text(issued, "credential_id");
    let receipts = ended["receipts"].as_array().expect("receipts");
    receipts
        .iter()
        .find(|r| text(r, "credential_id") == id)
        .unwrap_or_else(|| panic!("no receipt of {id}: {ended}"))
}

/// `taskpass` as the operator and as an agent that has attested before.
pub fn both(broker: &Broker<'_>, agent: &str) -> (Cli, Cli) {
    (broker.operator(), broker.attested(agent))
}
