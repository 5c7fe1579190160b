//! The fault matrix: every fault × every operation. Each cell is a scenario with real programs. Its
//! verdict comes from witnesses that do not rely on the broker's word.
//!
//! A cell goes: a task with live credentials; the fault is injected; the operation is requested
//! while the fault lasts; the fault is removed; the operation is requested again until it works;
//! every task is ended. Then the back end, the clients' journal and the exported history are
//! compared.

mod operation;
mod play;
mod stage;
mod strike;
mod syncs;
mod verdict;

use std::fmt;

pub use syncs::syncs_of_answers;
pub use verdict::{Back, Outcome, Verdict};

/// The fault of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL between the intent of the operation and its outcome.
    Killed,
    /// The disk loses the data that was not synced, and the broker stops with it.
    PowerCut,
    /// The provider takes no connections.
    Down,
    /// The provider answers late.
    Slow,
    /// The provider takes requests and never answers.
    Hung,
    /// The provider carries out the request, and its answer is lost.
    AnswerLost,
    /// The broker receives every answer twice.
    AnswerTwice,
    /// The broker receives answers that belong to other requests.
    AnswerWrong,
    /// The provider answers only 429 and 5xx.
    Failing,
    /// The disk has no room left.
    DiskFull,
    /// The disk takes no more writes.
    DiskReadOnly,
    /// The ledger ends in half an entry.
    LedgerTorn,
    /// One bit is wrong in the middle of the ledger.
    LedgerDamaged,
    /// The index cannot be read.
    IndexDamaged,
    /// The index is missing.
    IndexRemoved,
    /// The broker's clock jumps forwards. A jump of up to a minute stays, a person confirms a jump
    /// of an hour, and a greater one is corrected.
    ClockForwards(Jump),
    /// The broker's clock jumps back and is corrected later.
    ClockBackwards(Jump),
    /// The broker's clock runs twice too fast, until it is noticed, and is corrected later. A
    /// person sets the ledger back.
    ClockFast,
    /// The clocks were ahead by an hour while the broker started, and are right again, so that the
    /// ledger is ahead of them. A person sets it back.
    ClockAheadThenRight,
    /// The client is killed while it waits.
    ClientKilled,
    /// The client stops for a while.
    ClientStopped,
    /// The client receives no answers any more.
    ClientPartitioned,
    /// The broker was down until every certificate and every issuing authority had expired.
    LongDowntime,
}

/// How far a clock jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// Five years.
    Years,
}

impl Jump {
    const fn seconds(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Years => 5 * 365 * 86_400,
        }
    }

    /// Whether the broker notices that the clock ran away.
    const fn is_noticed(self) -> bool {
        match self {
            Self::Second | Self::Minute => false,
            Self::Hour | Self::Day | Self::Years => true,
        }
    }
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 31] = [
        Self::Killed,
        Self::PowerCut,
        Self::Down,
        Self::Slow,
        Self::Hung,
        Self::AnswerLost,
        Self::AnswerTwice,
        Self::AnswerWrong,
        Self::Failing,
        Self::DiskFull,
        Self::DiskReadOnly,
        Self::LedgerTorn,
        Self::LedgerDamaged,
        Self::IndexDamaged,
        Self::IndexRemoved,
        Self::ClockForwards(Jump::Second),
        Self::ClockForwards(Jump::Minute),
        Self::ClockForwards(Jump::Hour),
        Self::ClockForwards(Jump::Day),
        Self::ClockForwards(Jump::Years),
        Self::ClockBackwards(Jump::Second),
        Self::ClockBackwards(Jump::Minute),
        Self::ClockBackwards(Jump::Hour),
        Self::ClockBackwards(Jump::Day),
        Self::ClockBackwards(Jump::Years),
        Self::ClockFast,
        Self::ClockAheadThenRight,
        Self::ClientKilled,
        Self::ClientStopped,
        Self::ClientPartitioned,
        Self::LongDowntime,
    ];

    /// Its name in reports and in names of cells.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Killed => "broker killed",
            Self::PowerCut => "power cut",
            Self::Down => "provider down",
            Self::Slow => "provider slow",
            Self::Hung => "provider hung",
            Self::AnswerLost => "done, but the answer is lost",
            Self::AnswerTwice => "answers come twice",
            Self::AnswerWrong => "wrong answers",
            Self::Failing => "storm of 5xx",
            Self::DiskFull => "disk full",
            Self::DiskReadOnly => "disk read-only",
            Self::LedgerTorn => "ledger torn",
            Self::LedgerDamaged => "ledger damaged",
            Self::IndexDamaged => "index damaged",
            Self::IndexRemoved => "index removed",
            Self::ClockForwards(Jump::Second) => "clock a second ahead",
            Self::ClockForwards(Jump::Minute) => "clock a minute ahead",
            Self::ClockForwards(Jump::Hour) => "clock an hour ahead",
            Self::ClockForwards(Jump::Day) => "clock a day ahead",
            Self::ClockForwards(Jump::Years) => "clock years ahead",
            Self::ClockBackwards(Jump::Second) => "clock a second behind",
            Self::ClockBackwards(Jump::Minute) => "clock a minute behind",
            Self::ClockBackwards(Jump::Hour) => "clock an hour behind",
            Self::ClockBackwards(Jump::Day) => "clock a day behind",
            Self::ClockBackwards(Jump::Years) => "clock years behind",
            Self::ClockFast => "clock twice too fast",
            Self::ClockAheadThenRight => "clock ahead, then right",
            Self::ClientKilled => "client killed",
            Self::ClientStopped => "client stopped",
            Self::ClientPartitioned => "client partitioned",
            Self::LongDowntime => "down longer than the CA lives",
        }
    }
}

/// The operation that is requested while the fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An agent attests for the first time.
    Attest,
    /// A task is started.
    Start,
    /// Two credentials are issued, a token and a lease.
    Issue,
    /// A token is renewed.
    Renew,
    /// A token is revoked.
    Revoke,
    /// A task with a token and a lease is ended.
    End,
    /// The certificate authority makes and publishes its successor.
    Rotate,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 7] = [
        Self::Attest,
        Self::Start,
        Self::Issue,
        Self::Renew,
        Self::Revoke,
        Self::End,
        Self::Rotate,
    ];

    /// Its name in reports and in names of cells.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::Start => "start",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::End => "end",
            Self::Rotate => "rotate",
        }
    }

    /// Whether the operation gives a caller something that it does not have yet.
    const fn issues(self) -> bool {
        matches!(self, Self::Attest | Self::Start | Self::Issue | Self::Renew)
    }

    /// Whether the operation calls the provider.
    const fn needs_provider(self) -> bool {
        matches!(self, Self::Issue | Self::Renew | Self::Revoke | Self::End)
    }
}

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The fault.
    pub fault: Fault,
    /// The operation that is requested while the fault lasts.
    pub operation: Operation,
}

impl Cell {
    /// Every cell, row by row.
    pub fn all() -> impl Iterator<Item = Self> {
        Fault::ALL.into_iter().flat_map(|fault| {
            Operation::ALL
                .into_iter()
                .map(move |operation| Self { fault, operation })
        })
    }

    /// The cells with these words in their name. An `x` between spaces stands for `×`, which
    /// keyboards lack.
    pub fn named(words: &str) -> impl Iterator<Item = Self> {
        let words: Vec<String> = words
            .split_whitespace()
            .map(|word| match word {
                "x" | "X" => "×".to_owned(),
                word => word.to_lowercase(),
            })
            .collect();
        let words = words.join(" ");
        // Names are in lower case except for `CA` and `5xx`.
        Self::all().filter(move |cell| cell.to_string().to_lowercase().contains(&words))
    }

    /// Plays the cell. A thorough run also waits for tokens that expire by themselves after a
    /// minute. Panics when a program logs an unexpected ERROR or hangs, which no fault excuses.
    pub fn run(self, is_thorough: bool) -> Outcome {
        match stage::Stage::set(self, is_thorough) {
            Ok(stage) => Outcome::Ran(Box::new(stage.play())),
            Err(why) => Outcome::NotHere(why),
        }
    }

    /// Whether the operation has to work while the fault lasts.
    const fn must_work(self) -> bool {
        use Fault as F;
        match self.fault {
            F::Slow | F::AnswerTwice => true,
            // Revoking is never refused for lack of room or because of a wrong clock.
            F::ClockForwards(Jump::Second | Jump::Minute) | F::ClockBackwards(Jump::Second) => true,
            F::DiskFull
            | F::ClockForwards(_)
            | F::ClockBackwards(_)
            | F::ClockFast
            | F::ClockAheadThenRight => {
                matches!(self.operation, Operation::Revoke | Operation::End)
            }
            F::Down | F::Hung | F::AnswerLost | F::AnswerWrong | F::Failing => {
                !self.operation.needs_provider()
            }
            // The fault comes after the operation.
            F::LedgerTorn | F::LedgerDamaged | F::IndexDamaged | F::IndexRemoved => true,
            _ => false,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.fault.words(), self.operation.words())
    }
}
