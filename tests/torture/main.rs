//! `make torture`: every cell of the fault matrix, a thousand kills, a count of `fdatasync` calls,
//! and half an hour of load. It prints a line for each step while it runs and a table of verdicts
//! at its end. It exits with 1 when anything is red.

#![expect(
    clippy::disallowed_methods,
    reason = "it reads its arguments, runs threads of its own, and says how long things took"
)]

mod arguments;
mod kills;
mod matrix;
mod report;
mod soak;
mod syncs;

use std::{cell::RefCell, panic, process::ExitCode, thread};

use arguments::{Arguments, Part};
use report::Report;

thread_local! {
    /// The last panic of this thread, in words.
    static COMPLAINT: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .iter()
        .any(|word| word == "-h" || word == "--help")
    {
        println!("{}", arguments::USAGE);
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse(&arguments) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("error: {why}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let words = panic.payload_as_str().unwrap_or("no reason given");
        COMPLAINT.set(format!("{words} ({})", place.unwrap_or_default()));
    }));
    let report = Report::default();
    // The load is light and long, everything else heavy and short: together they take no longer
    // than the load.
    thread::scope(|scope| {
        if arguments.plays(Part::Soak) {
            scope.spawn(|| soak::run(arguments.soak, &report));
        }
        if arguments.plays(Part::Syncs) {
            syncs::run(&report);
        }
        if arguments.plays(Part::Matrix) {
            matrix::run(&arguments, &report);
        }
        if arguments.plays(Part::Kills) {
            kills::run(arguments.kills, &report);
        }
    });
    println!("{}", report.markdown());
    let directory = report.write();
    println!(
        "written to {}/report.md and report.json",
        directory.display()
    );
    if report.is_red() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Runs a part that panics when it is red. `Err` has the panic's message.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(panic::AssertUnwindSafe(run)).map_err(|_| COMPLAINT.take())
}
