//! One agent at full rate: how fast it fills the ledger, and how much slower another agent is
//! served. The broker has its default limits here.

use std::{fs, path::Path, time::Duration};

use taskpass_tests::{
    Installation,
    flood::{self, Flood},
    wire::Wire,
};

use crate::{
    Effort, broker,
    load::ms,
    report::{Figure, Limit, Report, Rounds},
};

const AREA: &str = "One agent at full rate";
/// The span of the budget.
const TEN_MINUTES: f64 = 600.0;
const EVERY: Duration = Duration::from_millis(20);

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    let installation = Installation::new();
    let running = broker::start(&installation);
    let other = broker::agent(&running, "other");
    let (mut alone, mut beside) = (Rounds::default(), Rounds::default());
    let flooding = broker::certificate(&running, "flooding");
    for _ in 0..effort.rounds {
        alone.push(p99(&other, effort));
        let flood = Flood::begin(running.address(), &flooding);
        beside.push(p99(&other, effort));
        drop(flood.end());
    }
    let figure = Figure::low(AREA, "another agent's task, p99", "ms", &beside);
    let figure = figure.beside("alone", &beside, &alone);
    report.add(figure.budget_of_ratio(Limit::AtMost(2.0)));
    running.stop();
    growth(effort, report);
}

/// The growth of the ledger under the flood alone. An hour's budget may be used at once, and comes
/// back at an even pace. So the growth of ten minutes is what was measured and, for the rest of the
/// time, at most the pace of the last tenth, in which the budget was used up already.
fn growth(effort: &Effort, report: &mut Report) {
    // A broker of its own: the rounds above have used up a part of the budgets.
    let installation = Installation::new();
    let running = broker::start(&installation);
    let flooding = broker::certificate(&running, "flooding");
    let ledger = installation.home().join("data/ledger");
    let span = effort.flood;
    let before = bytes_below(&ledger);
    let flood = Flood::begin(running.address(), &flooding);
    std::thread::sleep(span.mul_f64(0.9));
    let late = bytes_below(&ledger);
    std::thread::sleep(span.mul_f64(0.1));
    let after = bytes_below(&ledger);
    let noted = flood.end();
    let (grown, tail) = (after - before, after - late);
    let seconds = span.as_secs_f64();
    let rest = (TEN_MINUTES - seconds).max(0.0);
    let projected = grown + tail / (seconds * 0.1) * rest;
    let megabytes = Rounds::from(grown / 1e6);
    let name = format!(
        "ledger, {seconds:.0} s of {} calls, {} of them over budget",
        noted.calls, noted.over_budget
    );
    report.add(Figure::low(AREA, name, "MB", &megabytes));
    let pace = Rounds::from(tail / 1e6 / (seconds * 0.1) * 60.0);
    let name = "ledger per minute, in the last tenth of it";
    report.add(Figure::low(AREA, name, "MB", &pace));
    let name = match rest > 0.0 {
        true => "ledger in ten minutes, projected with that pace",
        false => "ledger in ten minutes",
    };
    let figure = Figure::low(AREA, name, "MB", &Rounds::from(projected / 1e6));
    report.add(figure.budget(Limit::AtMost(20.0)));
}

/// Milliseconds.
fn p99(other: &Wire, effort: &Effort) -> f64 {
    ms(flood::work(other, effort.tasks, EVERY).p99)
}

/// Bytes of the files in a directory and below it.
fn bytes_below(dir: &Path) -> f64 {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_below(&entry.path()),
        Ok(data) => f64::from(u32::try_from(data.len()).expect("a small file")),
        Err(_) => 0.0,
    };
    entries.map(bytes).sum()
}
