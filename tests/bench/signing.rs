//! X.509-SVIDs: the broker, its bare limit, and OpenBao's PKI engine, all signing for the same requests.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use serde_json::{Value, json};
use taskpass_proto::v1::RenewSvidRequest;
use taskpass_tests::wire::{KeyAndCsr, Wire};

use crate::{
    Effort,
    bare::Bare,
    broker,
    load::{Sample, closed_loop, ms},
    raft_bao::RaftBao,
    report::{Budget, Report},
};

const TOPIC: &str = "X.509-SVID over kept mTLS connections";
const RENEW: &str = "/taskpass.v1.IdentityService/RenewSvid";
/// Different keys to sign for, made before anything is measured.
const KEYS: usize = 64;
/// Connections that the callers share.
const CONNECTIONS: usize = 8;
const IN_FLIGHT: [usize; 3] = [1, 8, 64];

pub(crate) fn measure(effort: Effort, report: &mut Report) {
    let csrs: Arc<Vec<Vec<u8>>> = Arc::new((0..KEYS).map(|_| KeyAndCsr::new().csr).collect());
    let bare = {
        let server = Bare::start();
        let wires = (0..CONNECTIONS)
            .map(|_| Wire::new(&server.address, Some(&server.client)))
            .collect();
        of_wires("bare limit", effort.span, wires, &csrs, report)
    };
    let ours = {
        let installation = broker::installation();
        let running = installation.start();
        let wires = (0..CONNECTIONS)
            .map(|i| broker::agent(&running, &format!("agent-{i}")))
            .collect();
        let samples = of_wires("Taskpass", effort.span, wires, &csrs, report);
        report.figure(
            TOPIC,
            "Taskpass, RSS after it",
            broker::resident(&running).expect("memory"),
            "MiB",
        );
        samples
    };
    let bao = RaftBao::start();
    let stored = of_bao("stored", &bao, effort.span, &csrs, report);
    let leased = of_bao("leased", &bao, effort.span, &csrs, report);

    let many = IN_FLIGHT.len() - 1;
    let ratio = |a: Sample, b: Sample| a.per_second / b.per_second;
    let share = 100.0 * ratio(ours[many], bare[many]);
    report.budgeted(
        TOPIC,
        "Taskpass of the bare limit, 64 in flight",
        share,
        "%",
        Budget::AtLeast(70.0),
    );
    let times = ratio(ours[many], stored[many]);
    report.budgeted(
        TOPIC,
        "Taskpass to OpenBao stored, 64 in flight",
        times,
        "×",
        Budget::AtLeast(5.0),
    );
    let times = ratio(ours[many], leased[many]);
    report.budgeted(
        TOPIC,
        "Taskpass to OpenBao with a lease, 64 in flight",
        times,
        "×",
        Budget::AtLeast(7.0),
    );
    let tail = ms(ours[many].p99) / ms(leased[many].p99);
    report.budgeted(
        TOPIC,
        "p99 of Taskpass to OpenBao with a lease, 64 in flight",
        tail,
        "×",
        Budget::AtMost(1.0 / 6.0),
    );
    let single = ms(ours[0].p50) / ms(leased[0].p50);
    report.budgeted(
        TOPIC,
        "p50 of Taskpass to OpenBao with a lease, 1 in flight",
        single,
        "×",
        Budget::AtMost(1.0 / 3.0),
    );
}

fn of_wires(
    who: &str,
    span: Duration,
    wires: Vec<Wire>,
    csrs: &Arc<Vec<Vec<u8>>>,
    report: &mut Report,
) -> Vec<Sample> {
    let wires = Arc::new(wires);
    let messages: Vec<Vec<u8>> = csrs
        .iter()
        .map(|csr| RenewSvidRequest { csr: csr.clone() }.encode_to_vec())
        .collect();
    let messages = Arc::new(messages);
    let measured = IN_FLIGHT.map(|in_flight| {
        let (wires, messages) = (Arc::clone(&wires), Arc::clone(&messages));
        let sample = closed_loop(in_flight, span, move |caller, number| {
            let wire = wires[caller % wires.len()].clone();
            let message = messages[(caller * 7 + number) % messages.len()].clone();
            async move {
                wire.call_async(RENEW, message).await.expect("an SVID");
            }
        });
        report.sample(TOPIC, &format!("{who}, {in_flight} in flight"), sample);
        sample
    });
    measured.to_vec()
}

fn of_bao(
    role: &'static str,
    bao: &RaftBao,
    span: Duration,
    csrs: &Arc<Vec<Vec<u8>>>,
    report: &mut Report,
) -> Vec<Sample> {
    let bodies: Arc<Vec<Value>> = Arc::new(csrs.iter().map(|csr| body(csr)).collect());
    let measured = IN_FLIGHT.map(|in_flight| {
        let (client, bodies) = (bao.client.clone(), Arc::clone(&bodies));
        let sample = closed_loop(in_flight, span, move |caller, number| {
            let (client, bodies) = (client.clone(), Arc::clone(&bodies));
            async move {
                let body = &bodies[(caller * 7 + number) % bodies.len()];
                client
                    .must("POST", &format!("pki/sign/{role}"), Some(body))
                    .await;
            }
        });
        report.sample(
            TOPIC,
            &format!("OpenBao {role}, {in_flight} in flight"),
            sample,
        );
        sample
    });
    measured.to_vec()
}

fn body(csr: &[u8]) -> Value {
    let text = STANDARD.encode(csr);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    let pem = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    );
    json!({ "csr": pem, "common_name": "agent.bench.test", "ttl": "1h" })
}
