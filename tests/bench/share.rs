//! The broker's own share of a Vault credential: the same lease issued through the broker and
//! directly, in turn, so that noise of the machine reaches both. Both keep their connection to
//! OpenBao, over TLS. This OpenBao keeps everything in memory: the less time it takes, the clearer
//! is the time that the broker adds.

use std::time::{Duration, Instant};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use taskpass_tests::{OpenBao, wire::runtime};

use crate::{
    Effort,
    bao_client::{Client, http},
    broker,
    caller::{self, CERT},
    load::{self, Samples},
    report::{Figure, Limit, Report},
};

const AREA: &str = "A Vault credential (PKI lease), 1 in flight";
const PEER: &str = "the direct call";

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let bao = OpenBao::start_with_tls();
    let installation = broker::installation();
    installation.configure(&bao.provider("vault-main", ""));
    let running = broker::start(&installation);
    let agent = broker::agent(&running, "builder");
    let root = json!({ "policies": ["root"] });
    let root = bao
        .call("POST", "auth/token/create-orphan", Some(root))
        .expect("a token");
    let root = root["auth"]["client_token"].as_str().expect("a token");
    let authority = CertificateDer::from_pem_file(bao.authority()).expect("a certificate");
    let http = http(authority, true);
    let direct = Client::new(http, bao.address().to_owned(), root.to_owned());
    let session = runtime().block_on(session(&direct, "cert"));
    let task = caller::start(&agent, CERT);
    caller::issue(&agent, &task, CERT);
    runtime().block_on(issue_directly(&session));
    let [mut ours, mut theirs] = [const { Samples::new() }; 2];
    for _ in 0..effort.rounds {
        let (mut through, mut directly) = (Vec::new(), Vec::new());
        for _ in 0..effort.pairs {
            directly.push(runtime().block_on(issue_directly(&session)));
            through.push(caller::issue(&agent, &task, CERT));
        }
        ours.push(load::of(through));
        theirs.push(load::of(directly));
    }
    for (which, ours, theirs, most) in [
        ("p50", ours.p50(), theirs.p50(), 1.0),
        ("p99", ours.p99(), theirs.p99(), 3.0),
    ] {
        let figure = Figure::low(AREA, format!("through Taskpass, {which}"), "ms", &ours);
        report.add(figure.beside(PEER, &ours, &theirs));
        let added = ours.minus(&theirs);
        let figure = Figure::low(AREA, format!("added, {which}"), "ms", &added);
        report.add(figure.budget(Limit::AtMost(most)));
    }
}

/// A token like a task's, with which one lease after the other is issued.
pub(crate) async fn session(direct: &Client, policy: &str) -> Client {
    let body = json!({ "policies": [policy], "ttl": "30m", "no_default_policy": true });
    let made = direct
        .must("POST", "auth/token/create-orphan", Some(&body))
        .await;
    direct.with_token(made["auth"]["client_token"].as_str().expect("a token"))
}

pub(crate) async fn issue_directly(session: &Client) -> Duration {
    let body = json!({ "common_name": "a.bench.test" });
    let began = Instant::now();
    session.must("POST", "pki/issue/ci", Some(&body)).await;
    began.elapsed()
}
