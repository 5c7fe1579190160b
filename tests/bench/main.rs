//! `make bench`: measures the broker beside its bare limit and beside OpenBao, in one run on one machine, and holds the
//! figures against the budgets. Clients and servers share the machine: read the ratios, not the absolutes.
//!
//! `--quick` takes some twenty seconds and is good for finding out whether it still runs.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock and runs its load as it likes"
)]

mod bare;
mod broker;
mod leases;
mod load;
mod raft_bao;
mod report;
mod signing;

use std::{path::Path, process::ExitCode, time::Duration};

use report::Report;

/// How long, and how often, things are done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// For each point of a load.
    pub(crate) span: Duration,
    /// Single calls that are compared pairwise.
    pub(crate) pairs: usize,
    /// How often a task with leases is ended.
    pub(crate) endings: usize,
}

const FULL: Effort = Effort {
    span: Duration::from_secs(4),
    pairs: 400,
    endings: 3,
};
const QUICK: Effort = Effort {
    span: Duration::from_millis(400),
    pairs: 20,
    endings: 1,
};

fn main() -> ExitCode {
    // The bench is a composition root of its own; it reads no environment, only its arguments.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let effort = match &arguments[..] {
        [] => FULL,
        ["--quick"] => QUICK,
        [bare::ARGUMENT, directory] => {
            bare::serve(Path::new(directory));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!(
                "error: `{}` is not understood\nusage: taskpass-bench [--quick]",
                arguments.join(" ")
            );
            return ExitCode::from(2);
        }
    };
    let mut report = Report::new();
    broker::at_rest(&mut report);
    signing::measure(effort, &mut report);
    leases::measure(effort, &mut report);
    println!("{}", report.markdown());
    let directory = report.write();
    println!(
        "written to {}/report.md and report.json",
        directory.display()
    );
    ExitCode::SUCCESS
}
