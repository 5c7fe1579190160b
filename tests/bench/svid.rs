//! X.509-SVIDs: the broker, its bare limit, and OpenBao's PKI engine, all signing for the same
//! requests.

use std::{future::Future, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use serde_json::{Value, json};
use taskpass_proto::v1::RenewSvidRequest;
use taskpass_tests::wire::{Certificate, KeyAndCsr, Wire};

use crate::{
    Effort,
    bao_client::Client,
    bare::Bare,
    broker,
    load::{Sample, Samples, closed_loop},
    process::resident,
    raft_bao::RaftBao,
    report::{Figure, Limit, Report, Rounds},
};

const KEPT: &str = "X.509-SVID issue, kept connections";
const NEW: &str = "X.509-SVID issue, a new connection for each";
const RENEW: &str = "/taskpass.v1.IdentityService/RenewSvid";
const BARE: &str = "bare limit";
const STORED: &str = "OpenBao, stored";
const LEASED: &str = "OpenBao, stored with a lease";
/// The number of different keys to sign for, made before anything is measured.
const KEYS: usize = 64;
/// Agents, each with one connection that its callers share.
const AGENTS: usize = 8;

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let csrs: Vec<Vec<u8>> = (0..KEYS).map(|_| KeyAndCsr::new().csr).collect();
    let bare = Bare::start();
    let installation = broker::installation();
    let running = broker::start(&installation);
    let agents: Vec<Certificate> = (0..AGENTS)
        .map(|i| broker::certificate(&running, &format!("agent-{i}")))
        .collect();
    let bao = RaftBao::start();
    let stage = Stage {
        messages: csrs
            .iter()
            .map(|csr| {
                RenewSvidRequest {
                    csr: csr.clone(),
                    consistent_with: 0,
                }
                .encode_to_vec()
            })
            .collect(),
        bodies: csrs.iter().map(|csr| body(csr)).collect(),
        bare: Line::new(&bare.address, vec![bare.client.clone()]),
        ours: Line::new(running.address(), agents),
        bao: bao.client.clone(),
        fresh_bao: bao.fresh_client(),
    };
    let stage = Arc::new(stage);
    for &in_flight in effort.in_flight {
        kept(effort, &stage, in_flight, report);
        let rss = [running.pid(), bare.pid(), bao.pid()].map(|pid| Rounds::from(resident(pid)));
        let [ours, bare, bao] = rss;
        let name = format!("RSS after {in_flight} in flight");
        let figure = || Figure::low(KEPT, name.clone(), "MiB", &ours);
        report.add(figure().beside(BARE, &ours, &bare));
        report.add(figure().beside("OpenBao", &ours, &bao));
    }
    for &in_flight in effort.new_connections {
        new(effort, &stage, in_flight, report);
    }
}

/// The servers, and the requests for them.
struct Stage {
    messages: Vec<Vec<u8>>,
    bodies: Vec<Value>,
    bare: Line,
    ours: Line,
    bao: Client,
    fresh_bao: Client,
}

/// A server that speaks our protocol.
struct Line {
    address: String,
    certificates: Vec<Certificate>,
    wires: Vec<Wire>,
}

impl Line {
    fn new(address: &str, certificates: Vec<Certificate>) -> Self {
        let callers = certificates.iter().cycle().take(AGENTS);
        Self {
            address: address.to_owned(),
            wires: callers.map(|c| Wire::new(address, Some(c))).collect(),
            certificates,
        }
    }

    fn kept(&self, caller: usize) -> Wire {
        self.wires[caller % self.wires.len()].clone()
    }

    fn new_wire(&self, caller: usize) -> Wire {
        let certificate = &self.certificates[caller % self.certificates.len()];
        Wire::new(&self.address, Some(certificate))
    }
}

impl Stage {
    /// Each caller goes through the keys from a different start.
    fn message(&self, caller: usize, number: usize) -> Vec<u8> {
        self.messages[(caller * 7 + number) % KEYS].clone()
    }

    fn load<F, R>(self: &Arc<Self>, effort: &Effort, in_flight: usize, call: F) -> Sample
    where
        F: Fn(Arc<Self>, usize, usize) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let stage = Arc::clone(self);
        closed_loop(in_flight, effort.span, move |caller, number| {
            call(Arc::clone(&stage), caller, number)
        })
    }
}

async fn renew(wire: Wire, message: Vec<u8>) {
    wire.call_async(RENEW, message).await.expect("an SVID");
}

async fn sign(client: Client, role: &str, body: &Value) {
    client
        .must("POST", &format!("pki/sign/{role}"), Some(body))
        .await;
}

fn kept(effort: &Effort, stage: &Arc<Stage>, in_flight: usize, report: &mut Report) {
    let [mut bare, mut ours, mut stored, mut leased] = [const { Samples::new() }; 4];
    for _ in 0..effort.rounds {
        bare.push(
            stage.load(effort, in_flight, |s, caller, number| async move {
                renew(s.bare.kept(caller), s.message(caller, number)).await;
            }),
        );
        ours.push(
            stage.load(effort, in_flight, |s, caller, number| async move {
                renew(s.ours.kept(caller), s.message(caller, number)).await;
            }),
        );
        for (role, samples) in [("stored", &mut stored), ("leased", &mut leased)] {
            samples.push(
                stage.load(effort, in_flight, move |s, caller, number| async move {
                    let body = &s.bodies[(caller * 7 + number) % KEYS];
                    sign(s.bao.clone(), role, body).await;
                }),
            );
        }
    }
    let peers = [(BARE, &bare), (STORED, &stored), (LEASED, &leased)];
    for (name, peer) in peers {
        let (rate, other) = (ours.rate(), peer.rate());
        let figure = Figure::high(KEPT, format!("{in_flight} in flight"), "/s", &rate);
        let figure = figure.beside(name, &rate, &other);
        report.add(match (in_flight, name) {
            (64, BARE) => figure.budget_of_ratio(Limit::AtLeast(0.7)),
            (64, STORED) => figure.budget_of_ratio(Limit::AtLeast(5.0)),
            (64, LEASED) => figure.budget_of_ratio(Limit::AtLeast(7.0)),
            _ => figure,
        });
    }
    for (name, peer) in peers {
        let (p50, other) = (ours.p50(), peer.p50());
        let figure = Figure::low(KEPT, format!("{in_flight} in flight, p50"), "ms", &p50);
        let figure = figure.beside(name, &p50, &other);
        report.add(match (in_flight, name) {
            (1, LEASED) => figure.budget_of_ratio(Limit::AtMost(1.0 / 3.0)),
            _ => figure,
        });
        let (p99, other) = (ours.p99(), peer.p99());
        let figure = Figure::low(KEPT, format!("{in_flight} in flight, p99"), "ms", &p99);
        let figure = figure.beside(name, &p99, &other);
        report.add(match (in_flight, name) {
            (64, LEASED) => figure.budget_of_ratio(Limit::AtMost(1.0 / 6.0)),
            _ => figure,
        });
    }
}

fn new(effort: &Effort, stage: &Arc<Stage>, in_flight: usize, report: &mut Report) {
    let [mut bare, mut ours, mut stored] = [const { Samples::new() }; 3];
    for _ in 0..effort.rounds {
        bare.push(
            stage.load(effort, in_flight, |s, caller, number| async move {
                renew(s.bare.new_wire(caller), s.message(caller, number)).await;
            }),
        );
        ours.push(
            stage.load(effort, in_flight, |s, caller, number| async move {
                renew(s.ours.new_wire(caller), s.message(caller, number)).await;
            }),
        );
        stored.push(
            stage.load(effort, in_flight, |s, caller, number| async move {
                let body = &s.bodies[(caller * 7 + number) % KEYS];
                sign(s.fresh_bao.clone(), "stored", body).await;
            }),
        );
    }
    for (name, peer) in [(BARE, &bare), (STORED, &stored)] {
        let what = format!("{in_flight} in flight");
        let (rate, other) = (ours.rate(), peer.rate());
        report.add(Figure::high(NEW, what.clone(), "/s", &rate).beside(name, &rate, &other));
        for (which, ours, other) in [
            ("p50", ours.p50(), peer.p50()),
            ("p99", ours.p99(), peer.p99()),
        ] {
            let figure = Figure::low(NEW, format!("{what}, {which}"), "ms", &ours);
            report.add(figure.beside(name, &ours, &other));
        }
    }
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
