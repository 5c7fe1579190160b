//! More callers than the broker takes at once: how long those wait that are let in, and what the others are told.
//!
//! Every caller asks for certificates, which costs the broker a signature and a durable entry, as fast as it gets them.

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
/// When a caller asks again that was refused.
#[derive(Debug, Clone, Copy)]
pub enum Again {
    /// When it was told to.
    AsTold,
    /// After this time, whatever it was told.
    After(Duration),
}

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// Of the requests that were let in.
    pub admitted: Latency,
    /// Requests that were refused with `RESOURCE_EXHAUSTED` or `UNAVAILABLE` and a time when to ask again.
    pub refused: usize,
    /// Those of them that were the caller's own doing, `RESOURCE_EXHAUSTED`.
    pub exhausted: usize,
    /// What else went wrong; there should be nothing.
    pub other: Vec<Status>,
}

#[derive(Default)]
struct Noted {
    admitted: Vec<Duration>,
    refused: usize,
    exhausted: usize,
    other: Vec<Status>,
}

/// `callers` in a closed loop for `span`, spread over the agents; each agent has one connection.
pub fn run(
    address: &str,
    agents: &[Certificate],
    callers: usize,
    span: Duration,
    again: Again,
) -> Outcome {
    let wires: Vec<Wire> = agents
        .iter()
        .map(|agent| Wire::new(address, Some(agent)))
        .collect();
    let message = pb::RenewSvidRequest {
        csr: KeyAndCsr::new().csr,
    }
    .encode_to_vec();
    // Before the clock runs: every connection has its handshake behind it.
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
        all.admitted.extend(noted.admitted);
        all.refused += noted.refused;
        all.exhausted += noted.exhausted;
        all.other.extend(noted.other);
    }
    Outcome {
        admitted: Latency::of(all.admitted),
        refused: all.refused,
        exhausted: all.exhausted,
        other: all.other,
    }
}

async fn call_until(end: Instant, wire: Wire, message: Vec<u8>, again: Again) -> Noted {
    let mut noted = Noted::default();
    while Instant::now() < end {
        let asked = Instant::now();
        match wire.call_async(RENEW, message.clone()).await {
            Ok(_) => noted.admitted.push(asked.elapsed()),
            Err(status) => match (hint(&status), again) {
                (None, _) => noted.other.push(status),
                (Some(wait), Again::AsTold) | (Some(_), Again::After(wait)) => {
                    noted.refused += 1;
                    noted.exhausted += usize::from(status.code() == Code::ResourceExhausted);
                    tokio::time::sleep(wait).await;
                }
            },
        }
    }
    noted
}

/// When to ask again, as an orderly refusal says.
fn hint(status: &Status) -> Option<Duration> {
    let info = status.get_details_retry_info()?;
    let delay = info.retry_delay.filter(|delay| !delay.is_zero());
    let orderly = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable);
    delay.filter(|_| orderly)
}
