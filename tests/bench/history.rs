//! Cost as work grows. Brokers with a thousand to a million entries of history are asked in turn.
//! Then the largest is started again with more and more live credentials, compared with an OpenBao
//! with as many leases. Then come its export and its proof.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use prost::Message as _;
use serde_json::json;
use taskpass_core::Digest;
use taskpass_ledger::export;
use taskpass_proto::v1::RenewSvidRequest;
use taskpass_tests::{
    Broker, Installation,
    wire::{KeyAndCsr, Wire},
};

use crate::{
    Effort, broker,
    caller::{self, STATIC},
    fill::Fill,
    load::{self, Samples, closed_loop, closed_loop_of, ms},
    process::{self, cpu_during, resident},
    raft_bao::RaftBao,
    report::{Figure, Limit, Report, Rounds},
};

const GROWTH: &str = "Cost as history grows";
const RESTART: &str = "Starting with much history";
const ARCHIVE: &str = "The ledger of much history";
const OPENBAO: &str = "OpenBao with as many leases";
/// The number of callers that ask OpenBao for leases.
const ISSUING: usize = 64;

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let mut bao = RaftBao::start();
    let installations = effort.histories.map(|entries| {
        let installation = broker::installation();
        installation.configure(&bao.provider());
        let fill = Fill::open(&installation);
        fill.history(entries);
        fill.close();
        installation
    });
    growth(effort, &installations, report);
    let [.., largest] = &installations;
    for (more, live) in effort.more_and_live() {
        restart(effort, &mut bao, largest, (more, live), report);
    }
    archive(effort, largest, report);
}

/// A broker, and an agent's connection to it with an open task.
struct Side<'a> {
    running: Broker<'a>,
    agent: Wire,
    task: String,
}

fn growth(effort: &Effort, installations: &[Installation], report: &mut Report) {
    let sides: Vec<Side<'_>> = installations.iter().map(side).collect();
    let message = RenewSvidRequest {
        csr: KeyAndCsr::new().csr,
        consistent_with: 0,
    };
    let message = message.encode_to_vec();
    let mut one = vec![Samples::new(); sides.len()];
    let mut many = one.clone();
    let mut issued = one.clone();
    for _ in 0..effort.rounds {
        for (i, side) in sides.iter().enumerate() {
            for (in_flight, samples) in [(1, &mut one), (64, &mut many)] {
                let (agent, message) = (side.agent.clone(), message.clone());
                samples[i].push(closed_loop(in_flight, effort.span, move |_, _| {
                    let (agent, message) = (agent.clone(), message.clone());
                    async move {
                        let method = "/taskpass.v1.IdentityService/RenewSvid";
                        agent.call_async(method, message).await.expect("an SVID");
                    }
                }));
            }
        }
        for (samples, took) in issued.iter_mut().zip(issue_in_turn(effort.pairs, &sides)) {
            samples.push(load::of(took));
        }
    }
    let first = effort.histories[0];
    let peer = format!("with {first} entries");
    for (i, entries) in effort.histories.iter().enumerate() {
        for (what, samples) in [
            ("SVID, 1 in flight", &one),
            ("static secret, 1 in flight", &issued),
        ] {
            let (ours, few) = (samples[i].p50(), samples[0].p50());
            let figure = Figure::low(
                GROWTH,
                format!("{entries} entries: {what}, p50"),
                "ms",
                &ours,
            );
            let figure = figure.beside(&peer, &ours, &few);
            report.add(if i + 1 == sides.len() {
                figure.budget_of_ratio(Limit::AtMost(1.2))
            } else {
                figure
            });
        }
        let (ours, few) = (many[i].rate(), many[0].rate());
        let figure = Figure::high(
            GROWTH,
            format!("{entries} entries: SVID, 64 in flight"),
            "/s",
            &ours,
        );
        report.add(figure.beside(&peer, &ours, &few));
        let [ours, few] = [&sides[i], &sides[0]].map(|s| Rounds::from(resident(s.running.pid())));
        let figure = Figure::low(
            GROWTH,
            format!("{entries} entries: RSS after it"),
            "MiB",
            &ours,
        );
        report.add(figure.beside(&peer, &ours, &few));
    }
    for side in sides {
        caller::end(&side.agent, &side.task);
        side.running.stop();
    }
}

/// One credential from each broker in turn, so that noise of the machine reaches all of them.
fn issue_in_turn(pairs: usize, sides: &[Side<'_>]) -> Vec<Vec<Duration>> {
    let mut took = vec![Vec::with_capacity(pairs); sides.len()];
    for _ in 0..pairs {
        for (took, side) in took.iter_mut().zip(sides) {
            took.push(caller::issue(&side.agent, &side.task, STATIC));
        }
    }
    took
}

fn side(installation: &Installation) -> Side<'_> {
    let running = broker::start(installation);
    let agent = broker::agent(&running, "builder");
    let task = caller::start(&agent, STATIC);
    caller::issue(&agent, &task, STATIC);
    Side {
        running,
        agent,
        task,
    }
}

/// The measurements of a server that starts, one per round.
#[derive(Default)]
struct Seen {
    ready: Rounds,
    answered: Rounds,
    resident: Rounds,
    tail: Rounds,
}

impl Seen {
    fn add(&mut self, pid: u32, answered: Duration, tail: Duration) {
        self.answered.push(answered.as_secs_f64());
        self.tail.push(cpu_during(pid, tail).as_secs_f64());
        self.resident.push(resident(pid));
    }
}

/// `live` is the number of credentials in all, `more` of which are added now.
fn restart(
    effort: &Effort,
    bao: &mut RaftBao,
    installation: &Installation,
    (more, live): (usize, usize),
    report: &mut Report,
) {
    let fill = Fill::open(installation);
    fill.live(more);
    fill.close();
    lease(bao, more);
    let (mut ours, mut theirs) = (Seen::default(), Seen::default());
    for _ in 0..effort.restarts {
        let started = process::start(installation);
        ours.ready.push(started.ready.as_secs_f64());
        ours.add(started.server.pid(), started.answered, effort.tail);
        process::stop(started.server);
        let answered = bao.restart();
        theirs.add(bao.pid(), answered, effort.tail);
    }
    let name = |what: &str| format!("{live} live: {what}");
    let all = *effort.histories.last().expect("histories");
    let (large, largest) = (live == 10_000, live == 100_000);
    let ready = Figure::low(
        RESTART,
        name(&format!("ready, {all} entries and more")),
        "s",
        &ours.ready,
    );
    report.add(if large {
        ready.budget(Limit::AtMost(2.0))
    } else {
        ready
    });
    let answered = Figure::low(RESTART, name("first reply"), "s", &ours.answered);
    let answered = answered.beside(OPENBAO, &ours.answered, &theirs.answered);
    report.add(if largest {
        answered.budget(Limit::AtMost(0.3))
    } else {
        answered
    });
    let after = format!("CPU in the {} s after it", effort.tail.as_secs());
    let tail = Figure::low(RESTART, name(&after), "s", &ours.tail);
    let tail = tail.beside(OPENBAO, &ours.tail, &theirs.tail);
    report.add(if largest {
        tail.budget(Limit::AtMost(0.05))
    } else {
        tail
    });
    let rss = Figure::low(RESTART, name("RSS"), "MiB", &ours.resident);
    let rss = rss.beside(OPENBAO, &ours.resident, &theirs.resident);
    report.add(match (large, largest) {
        (true, _) => rss.budget(Limit::AtMost(150.0)),
        (_, true) => rss.budget_of_ratio(Limit::AtMost(0.2)),
        _ => rss,
    });
}

/// Tokens: the fastest thing with a lease that OpenBao creates. Each is one record and one lease.
fn lease(bao: &RaftBao, count: usize) {
    let client = bao.client.clone();
    closed_loop_of(ISSUING, count, move |_| {
        let client = client.clone();
        async move {
            let body = json!({ "policies": ["ci"], "ttl": "24h", "no_default_policy": true });
            client
                .must("POST", "auth/token/create-orphan", Some(&body))
                .await;
        }
    });
}

/// Export and verification on one core, once through the library and once as an operator runs them.
fn archive(effort: &Effort, installation: &Installation, report: &mut Report) {
    let fill = Fill::open(installation);
    let reader = fill.reader();
    let (checkpoint, mut rates) = (reader.checkpoint(), Rounds::default());
    for _ in 0..effort.rounds {
        let began = Instant::now();
        let written = export::write_full(&reader, &checkpoint, &mut io::sink());
        let entries = written.expect("an export");
        rates.push(per_second(entries, began.elapsed()));
    }
    fill.close();
    let figure = Figure::high(
        ARCHIVE,
        "export as JSON Lines, one core",
        "entries/s",
        &rates,
    );
    report.add(figure.budget(Limit::AtLeast(500_000.0)));

    let running = broker::start(installation);
    let operator = running.operator();
    let path = installation.scratch().join("export.jsonl");
    let to = path.to_str().expect("a path in UTF-8");
    let began = Instant::now();
    let done = operator.run(&["ledger", "export", "--to", to]);
    let took = began.elapsed();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let entries = checkpoint.size();
    let rate = Rounds::from(per_second(entries, took));
    report.add(Figure::high(
        ARCHIVE,
        "`taskpass ledger export --to FILE`",
        "entries/s",
        &rate,
    ));
    let mut verified = Rounds::default();
    let mut hashed = Rounds::default();
    for _ in 0..effort.restarts {
        let began = Instant::now();
        let done = operator.run(&["ledger", "verify", to]);
        verified.push(per_million(entries, began.elapsed()));
        assert_eq!(done.code, 0, "{}", done.stderr);
        hashed.push(per_million(entries, hash(&path)));
    }
    let what = "`taskpass ledger verify FILE`, per million entries";
    let figure = Figure::low(ARCHIVE, what, "s", &verified);
    let figure = figure.beside("SHA-256 of every line", &verified, &hashed);
    report.add(figure.budget(Limit::AtMost(10.0)));
    let peak = Rounds::from(resident(running.pid()));
    report.add(Figure::low(
        ARCHIVE,
        "RSS of the broker after the export",
        "MiB",
        &peak,
    ));
    let bytes = path.metadata().expect("an export").len() as f64;
    let each = Rounds::from(bytes / entries as f64);
    report.add(Figure::low(ARCHIVE, "bytes of a line", "B", &each));
}

/// The least work of any check of the history: reading and hashing it.
fn hash(path: &Path) -> Duration {
    let began = Instant::now();
    let mut lines = BufReader::new(File::open(path).expect("an export"));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).expect("it can be read") > 0 {
        std::hint::black_box(Digest::of(&line));
        line.clear();
    }
    began.elapsed()
}

fn per_second(entries: u64, took: Duration) -> f64 {
    entries as f64 / took.as_secs_f64()
}

fn per_million(entries: u64, took: Duration) -> f64 {
    ms(took) * 1000.0 / entries as f64
}
