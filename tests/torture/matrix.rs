//! All cells, several at the same time.

use std::{
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use taskpass_tests::faults::Outcome;

use crate::{arguments::Arguments, caught, report::Report};

pub(crate) fn run(arguments: &Arguments, report: &Report) {
    let cells = &arguments.cells;
    let (count, done) = (cells.len(), AtomicUsize::new(0));
    let waiting = Mutex::new(cells.iter());
    thread::scope(|scope| {
        for _ in 0..arguments.at_once {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no poison").next();
                    let Some(&cell) = next else { return };
                    let outcome = caught(|| cell.run(true));
                    let number = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let words = match &outcome {
                        Ok(Outcome::Ran(v)) if v.is_green() => format!("green  {v}"),
                        Ok(Outcome::Ran(v)) => {
                            let all: Vec<&str> = v.complaints().map(String::as_str).collect();
                            format!("RED    {}", all.join("; "))
                        }
                        Ok(Outcome::NotHere(why)) => format!("not on this machine: {why}"),
                        Err(why) => format!("RED    {why}"),
                    };
                    eprintln!("[{number:3}/{count}] {cell}: {words}");
                    report.cell(cell, outcome);
                }
            });
        }
    });
}
