//! Ending a task with leases, compared with revoking the token of as many leases at OpenBao itself,
//! both until the last lease is gone. Then ending a task with credentials that need no call to a
//! provider.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Installation,
    wire::{Certificate, Wire, runtime},
};

use crate::{
    Effort,
    bao_client::Client,
    broker,
    caller::{self, CERT},
    fill::Fill,
    load::{closed_loop_of, ms},
    process,
    raft_bao::RaftBao,
    report::{Figure, Limit, Report, Rounds},
    share::{issue_directly, session},
};

const LEASES: &str = "Ending a task with Vault leases";
const OWN: &str = "Ending a task whose credentials need no provider call";
/// The number of callers that issue the leases.
const ISSUING: usize = 8;
const PATH: &str = "sys/leases/lookup/pki/issue/ci";
const TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let bao = RaftBao::start();
    let installation = broker::installation();
    installation.configure(&bao.provider());
    leases(effort, &bao, &installation, report);
    own(effort, &bao, report);
}

fn leases(effort: &Effort, bao: &RaftBao, installation: &Installation, report: &mut Report) {
    let running = broker::start(installation);
    let agent = broker::agent(&running, "builder");
    for (leases, rounds) in effort.leases {
        let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
        for _ in 0..*rounds {
            theirs.push(ms(directly(&bao.client, *leases)));
            ours.push(ms(through(&agent, *leases)));
        }
        let figure = Figure::low(
            LEASES,
            format!("{leases} leases, proven and recorded"),
            "ms",
            &ours,
        );
        let figure = figure.beside("OpenBao's own revoke, to the last lease", &ours, &theirs);
        report.add(if *leases == 1000 {
            figure.budget_of_ratio(Limit::AtMost(1.2))
        } else {
            figure
        });
    }
}

fn through(agent: &Wire, leases: usize) -> Duration {
    let task = caller::start(agent, CERT);
    issue_leases(agent, &task, leases);
    let (took, receipts) = caller::end(agent, &task);
    assert_eq!(receipts.len(), leases);
    let proven = receipts
        .iter()
        .all(|r| r.state() == pb::CredentialState::RevokedVerified);
    assert!(proven, "{receipts:?}");
    took
}

/// Issues so many leases, several at a time.
pub(crate) fn issue_leases(agent: &Wire, task: &str, leases: usize) {
    let (issuing, of_task) = (agent.clone(), Arc::<str>::from(task));
    closed_loop_of(ISSUING, leases, move |_| {
        let (agent, task) = (issuing.clone(), Arc::clone(&of_task));
        async move { caller::issue_async(&agent, &task, CERT).await }
    });
}

/// Revokes the token and polls until the last lease is gone, which the broker proves too.
pub(crate) fn directly(root: &Client, leases: usize) -> Duration {
    let session = runtime().block_on(session(root, "ci"));
    let issuing = session.clone();
    closed_loop_of(ISSUING, leases, move |_| {
        let session = issuing.clone();
        async move {
            issue_directly(&session).await;
        }
    });
    runtime().block_on(async {
        let began = Instant::now();
        let order = json!({ "token": session.token() });
        root.must("POST", "auth/token/revoke", Some(&order)).await;
        while root.call("LIST", PATH, None).await.is_ok() {
            assert!(began.elapsed() < TIMEOUT, "OpenBao keeps its leases");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        began.elapsed()
    })
}

fn own(effort: &Effort, bao: &RaftBao, report: &mut Report) {
    let mut took = Rounds::default();
    for _ in 0..effort.rounds.min(3) {
        let installation = broker::installation();
        installation.configure(&bao.provider());
        let fill = Fill::open(&installation);
        let task = fill.task_of_static(effort.own);
        fill.close();
        let started = process::start(&installation);
        let operator = Certificate::load(&installation.home().join("operator"));
        let operator = Wire::new(&started.address, Some(&operator));
        let (span, receipts) = caller::end(&operator, &task);
        assert_eq!(receipts.len(), effort.own);
        took.push(ms(span));
    }
    let figure = Figure::low(OWN, format!("{} credentials", effort.own), "ms", &took);
    report.add(figure.budget(Limit::AtMost(1000.0)));
}
