//! More callers than the broker serves at once: the latency of served requests, and the answers to
//! the others.
//!
//! Every caller asks for certificates as fast as it gets answers. Each certificate costs the broker
//! a signature and a durable entry.

#![expect(
    clippy::disallowed_methods,
    reason = "callers run until the time is over, and latency is measured in real time"
)]

use std::time::{Duration, Instant};

use prost::Message;
use taskpass_proto::v1 as pb;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    load::Latency,
    wire::{Certificate, KeyAndCsr, Wire, runtime},
};

const RENEW: &str = "/taskpass.v1.IdentityService/RenewSvid";
/// When a refused caller asks again.
#[derive(Debug, Clone, Copy)]
pub enum Retry {
    /// After the time in the refusal.
    AsTold,
    /// After this time; the time in the refusal is ignored.
    After(Duration),
}

/// The result of a load.
#[derive(Debug)]
pub struct Outcome {
    /// Latency of the requests that were served.
    pub served: Latency,
    /// Requests that were refused with `RESOURCE_EXHAUSTED` or `UNAVAILABLE` and a time to ask
    /// again.
    pub refused: usize,
    /// The refused requests that exceeded the caller's own share, `RESOURCE_EXHAUSTED`.
    pub exhausted: usize,
    /// Other errors. There should be none.
    pub other: Vec<Status>,
}

#[derive(Default)]
struct Noted {
    served: Vec<Duration>,
    refused: usize,
    exhausted: usize,
    other: Vec<Status>,
}

/// Runs `callers` in a closed loop for `span`, spread over the agents. Each agent has one
/// connection.
pub fn run(
    address: &str,
    agents: &[Certificate],
    callers: usize,
    span: Duration,
    again: Retry,
) -> Outcome {
    let wires: Vec<Wire> = agents
        .iter()
        .map(|agent| Wire::new(address, Some(agent)))
        .collect();
    let message = pb::RenewSvidRequest {
        csr: KeyAndCsr::new().csr,
        consistent_with: 0,
    }
    .encode_to_vec();
    // Every connection finishes its handshake before the clock starts.
    for wire in &wires {
        let made = wire.call(RENEW, message.clone());
        assert!(
            made.as_ref().map_or_else(|e| hint(e).is_some(), |_| true),
            "{made:?}"
        );
    }
    let end = Instant::now() + span;
    let running: Vec<_> = (0..callers)
        .map(|number| {
            let (wire, message) = (wires[number % wires.len()].clone(), message.clone());
            runtime().spawn(call_until(end, wire, message, again))
        })
        .collect();
    let mut all = Noted::default();
    for caller in running {
        let noted = runtime().block_on(caller).expect("a caller ends");
        all.served.extend(noted.served);
        all.refused += noted.refused;
        all.exhausted += noted.exhausted;
        all.other.extend(noted.other);
    }
    Outcome {
        served: Latency::of(all.served),
        refused: all.refused,
        exhausted: all.exhausted,
        other: all.other,
    }
}

async fn call_until(end: Instant, wire: Wire, message: Vec<u8>, again: Retry) -> Noted {
    let mut noted = Noted::default();
    while Instant::now() < end {
        let asked = Instant::now();
        match wire.call_async(RENEW, message.clone()).await {
            Ok(_) => noted.served.push(asked.elapsed()),
            Err(status) => match (hint(&status), again) {
                (None, _) => noted.other.push(status),
                (Some(wait), Retry::AsTold) | (Some(_), Retry::After(wait)) => {
                    noted.refused += 1;
                    noted.exhausted += usize::from(status.code() == Code::ResourceExhausted);
                    tokio::time::sleep(wait).await;
                }
            },
        }
    }
    noted
}

/// The time to ask again that a refusal carries.
fn hint(status: &Status) -> Option<Duration> {
    let info = status.get_details_retry_info()?;
    let delay = info.retry_delay.filter(|delay| !delay.is_zero());
    let orderly = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable);
    delay.filter(|_| orderly)
}
