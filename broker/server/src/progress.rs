//! How far long work is, for the person at the terminal.

use std::io::{self, IsTerminal as _, Write as _};

/// How far long work is, on one line of a terminal. It shows nothing elsewhere.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    is_terminal: bool,
    percent: Option<u64>,
}

impl ProgressLine {
    /// A bar of so many characters.
    const WIDTH: u64 = 30;

    pub(crate) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            percent: None,
        }
    }

    /// Shows that `done` of `total` bytes are done.
    pub(crate) fn show(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100).checked_div(total);
        if !self.is_terminal || self.percent == percent {
            return;
        }
        self.percent = percent;
        let filled = percent.unwrap_or(0) * Self::WIDTH / 100;
        let bar: String = (0..Self::WIDTH)
            .map(|place| if place < filled { '#' } else { '.' })
            .collect();
        let (done, total) = (done / 1_048_576, total / 1_048_576);
        // The terminal may be gone; the work goes on.
        let _closed = write!(io::stderr(), "\r{bar} {done}/{total} MiB");
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.percent.take().is_some() {
            let _closed = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
