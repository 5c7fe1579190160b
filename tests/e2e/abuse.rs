//! Attacks by peers that want access, or want to deny it to others: certificates, messages and
//! connections that no well-behaved client would make. Each table names the class of the attack,
//! its bytes and the expected answer. After each row another caller is served as before.

mod certificates;
mod connections;
mod frames;
mod messages;
mod overload;

use std::time::Duration;

use prost::Message;
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Broker,
    load::Latency,
    wire::{Certificate, Wire, runtime, try_connect},
};

pub(crate) const WHO_AM_I: &str = "/taskpass.v1.IdentityService/WhoAmI";

/// Another caller; the attack must not slow it down.
pub(crate) struct Bystander {
    pub(crate) address: String,
    pub(crate) certificate: Certificate,
    open: Wire,
}

impl Bystander {
    pub(crate) fn new(broker: &Broker<'_>) -> Self {
        let certificate = Certificate::load(broker.agent("bystander").identity());
        let bystander = Self {
            address: broker.address().to_owned(),
            open: Wire::new(broker.address(), Some(&certificate)),
            certificate,
        };
        bystander.is_served("at first");
        bystander
    }

    /// Asserts that it is served on its open connection and on a new one.
    pub(crate) fn is_served(&self, after: &str) {
        self.goes_on(after);
        try_connect(&self.address, Some(&self.certificate))
            .unwrap_or_else(|e| panic!("after {after}, a new connection: {e}"));
    }

    /// Asserts that it is served on its open connection.
    pub(crate) fn goes_on(&self, after: &str) {
        let answer: pb::WhoAmIResponse = self
            .open
            .ask(WHO_AM_I, &pb::WhoAmIRequest {})
            .unwrap_or_else(|status| panic!("after {after}: {status:?}"));
        assert_eq!(
            answer.spiffe_id, "spiffe://acme.test/agent/bystander",
            "after {after}"
        );
    }

    /// The latency on its open connection.
    pub(crate) fn latency(&self, span: Duration) -> Latency {
        let request = pb::WhoAmIRequest {}.encode_to_vec();
        runtime().block_on(Latency::over(span, || async {
            let answer = self.open.call_async(WHO_AM_I, request.clone()).await;
            answer.expect("an answer");
        }))
    }
}

/// The peak memory of a process in bytes (VmHWM).
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let kib: u64 = kib.expect("a size").trim().parse().expect("a number");
    kib * 1024
}
