//! Freezing an agent that asks as fast as it can: until it gets nothing more, until its open
//! connections are cut, and until its live leases are gone, which is compared with revoking the
//! token of as many leases at OpenBao itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Broker,
    wire::{Certificate, Frames, Wire},
};

use crate::{
    Effort, broker,
    caller::{self, CERT, STATIC},
    ending::{directly, issue_leases},
    load::ms,
    raft_bao::RaftBao,
    report::{Figure, Limit, Report, Rounds},
};

const AREA: &str = "Freeze";
/// A freeze that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let bao = RaftBao::start();
    let installation = broker::installation();
    installation.configure(&bao.provider());
    let running = broker::start(&installation);
    let operator = Certificate::load(&installation.home().join("operator"));
    let operator = Wire::new(running.address(), Some(&operator));
    at_once(effort, &running, &operator, report);
    leases(effort, &bao, &running, &operator, report);
}

/// The agent issues static secrets without a pause, and has a second connection that is idle.
fn at_once(effort: &Effort, running: &Broker<'_>, operator: &Wire, report: &mut Report) {
    let [mut refused, mut cut] = [const { Vec::new() }; 2];
    for round in 0..effort.rounds {
        let name = format!("frozen-{round}");
        let certificate = broker::certificate(running, &name);
        let agent = Wire::new(running.address(), Some(&certificate));
        let task = caller::start(&agent, STATIC);
        caller::issue(&agent, &task, STATIC);
        let mut idle = Frames::open(running.address(), Some(&certificate));
        let ending = thread::spawn(move || {
            idle.end();
            Instant::now()
        });
        let warm = Arc::new(AtomicBool::new(false));
        let (is_warm, request) = (Arc::clone(&warm), caller::issue_request(&task, STATIC));
        let asking = thread::spawn(move || {
            loop {
                let issued: Result<pb::IssueCredentialResponse, _> =
                    agent.ask(caller::ISSUE, &request);
                if issued.is_err() {
                    return Instant::now();
                }
                is_warm.store(true, Ordering::Relaxed);
            }
        });
        while !warm.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let began = Instant::now();
        freeze(operator, &name, 1);
        for (spans, ended) in [(&mut refused, asking), (&mut cut, ending)] {
            let at = ended.join().expect("no panic");
            spans.push(ms(at.saturating_duration_since(began)));
        }
    }
    for (name, spans, most) in [
        ("until the next issue is refused", refused, 10.0),
        ("until open connections are cut", cut, 100.0),
    ] {
        let figure = Figure::low(AREA, name, "ms", &spans.into_iter().collect());
        report.add(figure.budget(Limit::AtMost(most)));
    }
}

fn leases(
    effort: &Effort,
    bao: &RaftBao,
    running: &Broker<'_>,
    operator: &Wire,
    report: &mut Report,
) {
    let Some((leases, rounds)) = effort.leases.last().copied() else {
        return;
    };
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    for round in 0..rounds {
        theirs.push(ms(directly(&bao.client, leases)));
        let name = format!("lessee-{round}");
        let agent = broker::agent(running, &name);
        let task = caller::start(&agent, CERT);
        issue_leases(&agent, &task, leases);
        let began = Instant::now();
        // One request waits for half a minute at most. Freezing a frozen agent waits on.
        while freeze(operator, &name, 30_000) < leases {
            assert!(began.elapsed() < TIMEOUT, "`{name}` keeps its leases");
        }
        ours.push(ms(began.elapsed()));
    }
    let name = format!("{leases} live leases, proven dead and recorded");
    let figure = Figure::low(AREA, name, "ms", &ours);
    report.add(figure.beside("OpenBao's own revoke, to the last lease", &ours, &theirs));
}

/// Freezes an agent. Returns how many of its credentials are proven dead.
fn freeze(operator: &Wire, name: &str, wait_ms: u32) -> usize {
    let request = pb::FreezeAgentRequest {
        name: name.to_owned(),
        reason: "a measurement".to_owned(),
        wait_ms,
    };
    let frozen: pb::FreezeAgentResponse = operator
        .ask("/taskpass.v1.AgentService/FreezeAgent", &request)
        .expect("it is frozen");
    let dead = |r: &&pb::Receipt| r.state() == pb::CredentialState::RevokedVerified;
    frozen.receipts.iter().filter(dead).count()
}
