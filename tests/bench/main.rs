//! `make bench`: measures the broker beside its bare limit and beside OpenBao, in one run on one
//! machine, and compares the figures with the budgets. `README.md` says which figures are compared
//! and how fair that is.
//!
//! `--quick` takes about a minute and shows whether the bench still runs; its figures are
//! worthless.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock and runs its load as it likes"
)]

mod bao_client;
mod bare;
mod broker;
mod caller;
mod decision;
mod ending;
mod fairness;
mod fill;
mod freeze;
mod history;
mod load;
mod machine;
mod process;
mod raft_bao;
mod report;
mod rest;
mod share;
mod svid;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use machine::{Machine, Run};
use report::{Figure, Limit, Report};
use taskpass_tests::workspace;

/// How long, and how often, everything is measured.
#[derive(Debug)]
pub(crate) struct Effort {
    name: &'static str,
    /// Rounds of each figure and its peers.
    pub(crate) rounds: usize,
    /// The time for each point of a load, in one round.
    pub(crate) span: Duration,
    pub(crate) in_flight: &'static [usize],
    /// Callers that connect anew for each call.
    pub(crate) new_connections: &'static [usize],
    /// Single calls that are compared pairwise, in one round.
    pub(crate) pairs: usize,
    /// Decisions in one round.
    pub(crate) decisions: usize,
    /// Decisions of a broker.
    pub(crate) renewals: usize,
    /// Leases of a task, and how often a task with so many is ended.
    pub(crate) leases: &'static [(usize, usize)],
    /// Credentials that need no provider call.
    pub(crate) own: usize,
    /// Entries in the ledgers of brokers that are compared.
    pub(crate) histories: [u64; 4],
    /// Live credentials with which the largest broker is started again; rising.
    pub(crate) live: &'static [usize],
    pub(crate) restarts: usize,
    /// How long an idle server is watched.
    pub(crate) tail: Duration,
    /// Tasks of an agent beside another one that floods the broker, in one round.
    pub(crate) tasks: u32,
    /// How long the flood lasts under which the ledger's growth is measured. `--flood SECONDS` sets
    /// it.
    pub(crate) flood: Duration,
}

impl Effort {
    /// For each step of `live`, the credentials that are added and their number afterwards.
    pub(crate) fn more_and_live(&self) -> impl Iterator<Item = (usize, usize)> {
        let before = std::iter::once(&0).chain(self.live);
        self.live
            .iter()
            .zip(before)
            .map(|(live, before)| (live - before, *live))
    }
}

const FULL: Effort = Effort {
    name: "full",
    rounds: 5,
    span: Duration::from_millis(1500),
    in_flight: &[1, 8, 64, 256],
    new_connections: &[8, 64],
    pairs: 200,
    decisions: 5000,
    renewals: 500,
    leases: &[(1, 9), (10, 5), (100, 3), (1000, 2)],
    own: 10_000,
    histories: [1_000, 10_000, 100_000, 1_000_000],
    live: &[10_000, 100_000],
    restarts: 3,
    tail: Duration::from_secs(5),
    tasks: 200,
    flood: Duration::from_secs(120),
};
const QUICK: Effort = Effort {
    name: "quick",
    rounds: 2,
    span: Duration::from_millis(150),
    in_flight: &[1, 64],
    new_connections: &[8],
    pairs: 10,
    decisions: 50,
    renewals: 20,
    leases: &[(1, 1), (10, 1)],
    own: 500,
    histories: [1_000, 2_000, 3_000, 4_000],
    live: &[100, 1_000],
    restarts: 1,
    tail: Duration::from_millis(300),
    tasks: 20,
    flood: Duration::from_secs(5),
};

type Area = (&'static str, fn(&Effort, &mut Report));
const AREAS: [Area; 8] = [
    ("rest", rest::measure),
    ("svid", svid::measure),
    ("decision", decision::measure),
    ("share", share::measure),
    ("ending", ending::measure),
    ("freeze", freeze::measure),
    ("fairness", fairness::measure),
    ("history", history::measure),
];
const USAGE: &str = "usage: taskpass-bench [--quick] [--flood SECONDS] [rest|svid|decision|share|ending|freeze|fairness|history]…
       taskpass-bench check

  AREA…       only these areas; all of them when none is named
  --flood SECONDS
              how long one agent floods the broker in `fairness` [default: 120; the budget is for 600]
  --quick     about a minute, to see whether it still runs; its figures are worth nothing
  check       whether the last report has lost against tests/bench/REPORT.json; measures nothing
  -h, --help  this text

The report goes to target/bench/report.md and report.json, over the one that is there; tests/bench/README.md says how to
read it. Ends with 0 when it has measured, whatever the budgets say, with 1 when `check` finds a loss, with 2 when
these arguments are wrong.";

fn main() -> ExitCode {
    // The bench is a composition root of its own; it reads only its arguments, never the
    // environment.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        words if words.iter().any(|word| ["-h", "--help"].contains(word)) => println!("{USAGE}"),
        [bare::ARGUMENT, directory] => bare::serve(Path::new(directory)),
        ["check"] => return check(),
        ["--quick", words @ ..] => return flooded(QUICK, words),
        words => return flooded(FULL, words),
    }
    ExitCode::SUCCESS
}

/// Measures, with another length of the flood where the arguments begin with one.
fn flooded(effort: Effort, words: &[&str]) -> ExitCode {
    let (seconds, areas) = match words {
        ["--flood", seconds, areas @ ..] => (seconds.parse().ok(), areas),
        areas => (Some(effort.flood.as_secs()), areas),
    };
    let Some(seconds) = seconds.filter(|seconds| *seconds > 0) else {
        eprintln!("error: `--flood` takes a number of seconds\n{USAGE}");
        return ExitCode::from(2);
    };
    let flood = Duration::from_secs(seconds);
    measure(&Effort { flood, ..effort }, areas)
}

/// Measures the named areas, or all.
fn measure(effort: &Effort, names: &[&str]) -> ExitCode {
    let is_known = |name: &&&str| AREAS.iter().any(|(known, _)| known == *name);
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        eprintln!("error: `{unknown}` is not understood\n{USAGE}");
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let mut report = Report::new(Machine::look(), Run::begin(effort.name));
    for (name, measure) in AREAS {
        if names.is_empty() || names.contains(&name) {
            measure(effort, &mut report);
        }
    }
    if names.is_empty() {
        not_here(&mut report);
    }
    report.run.seconds = began.elapsed().as_secs_f64();
    report.write();
    println!("{}", report.markdown());
    println!("written to {}", Report::directory().display());
    ExitCode::SUCCESS
}

/// Budgets for which this bench has nothing to measure.
fn not_here(report: &mut Report) {
    let why = "timed by the CI run itself";
    report.add(Figure::open(
        "Build",
        "clean CI",
        "min",
        Limit::AtMost(20.0),
        why,
    ));
}

/// Whether the last run lost against the kept report.
fn check() -> ExitCode {
    let kept = Report::read(&workspace().join("tests/bench/REPORT.json"));
    let fresh = Report::read(&Report::directory().join("report.json"));
    let losses = kept.and_then(|kept| report::compare(&kept, &fresh?));
    match losses {
        Ok(losses) if losses.is_empty() => {
            println!("no ratio lost more than 15 % against tests/bench/REPORT.json");
            ExitCode::SUCCESS
        }
        Ok(losses) => {
            eprintln!(
                "error: slower than tests/bench/REPORT.json:\n{}",
                losses.join("\n")
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
