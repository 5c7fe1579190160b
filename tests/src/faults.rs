//! The fault matrix: everything that can go wrong × everything that can be asked for. Each cell is a scenario with real
//! programs that ends with a verdict by witnesses that do not believe the broker.
//!
//! A cell goes: a task with live credentials; the fault strikes; the operation is asked for while it lasts; the fault is
//! taken away; the operation is asked for again until it works; everything is ended; and then back end, clients' journal
//! and exported history are compared.

mod operation;
mod play;
mod stage;
mod strike;
mod syncs;
mod verdict;

use std::fmt;

pub use syncs::syncs_of_answers;
pub use verdict::{Back, Outcome, Verdict};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL between what the operation intends and what it records.
    Killed,
    /// The disk loses what was not synced, and the broker with it.
    PowerCut,
    /// The provider takes no connections.
    Down,
    /// It takes its time.
    Slow,
    /// It takes requests and never answers.
    Hung,
    /// It does what it is asked, and the answer is lost.
    AnswerLost,
    /// Every answer comes twice.
    AnswerTwice,
    /// The answers are those of others.
    AnswerWrong,
    /// 429 and 5xx, nothing else.
    Failing,
    /// No room on the disk.
    DiskFull,
    /// The disk takes no more writes.
    DiskReadOnly,
    /// Half an entry at the end of the ledger.
    LedgerTorn,
    /// A bit is wrong in the middle of the ledger.
    LedgerDamaged,
    /// The index cannot be read.
    IndexDamaged,
    /// The index is not there.
    IndexRemoved,
    /// The clocks jump an hour forwards, and stay there.
    ClockForwards,
    /// They jump an hour back, and are put right later.
    ClockBackwards,
    /// They jump an hour forwards and are put right, so that the ledger is ahead of them.
    ClockForthAndBack,
    /// The client is killed while it waits.
    ClientKilled,
    /// The client stops for a while.
    ClientStopped,
    /// The client hears nothing any more.
    ClientParted,
    /// The broker was down until every certificate and every issuing authority had ended.
    Overslept,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 22] = [
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
        Self::ClockForwards,
        Self::ClockBackwards,
        Self::ClockForthAndBack,
        Self::ClientKilled,
        Self::ClientStopped,
        Self::ClientParted,
        Self::Overslept,
    ];

    /// In words.
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
            Self::ClockForwards => "clock an hour ahead",
            Self::ClockBackwards => "clock an hour behind",
            Self::ClockForthAndBack => "clock ahead, then right",
            Self::ClientKilled => "client killed",
            Self::ClientStopped => "client stopped",
            Self::ClientParted => "client partitioned",
            Self::Overslept => "down longer than the CA lives",
        }
    }
}

/// What is asked for meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An agent gets its first identity.
    Attest,
    /// A task is started.
    Start,
    /// Two credentials are drawn, a token and a lease.
    Issue,
    /// A token is prolonged.
    Renew,
    /// A token is revoked.
    Revoke,
    /// A task with a token and a lease is ended.
    End,
    /// The certificate authority makes and publishes its successor.
    Rotate,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Attest,
        Self::Start,
        Self::Issue,
        Self::Renew,
        Self::Revoke,
        Self::End,
        Self::Rotate,
    ];

    /// In words.
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

    /// Whether the provider is asked for anything.
    const fn needs_provider(self) -> bool {
        matches!(self, Self::Issue | Self::Renew | Self::Revoke | Self::End)
    }
}

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What goes wrong.
    pub fault: Fault,
    /// What is asked for meanwhile.
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

    /// The cells with these words in their name. A keyboard has no `×`: an `x` between spaces stands for it.
    pub fn named(words: &str) -> impl Iterator<Item = Self> {
        let words: Vec<String> = words
            .split_whitespace()
            .map(|word| match word {
                "x" | "X" => "×".to_owned(),
                word => word.to_lowercase(),
            })
            .collect();
        let words = words.join(" ");
        // Names are in small letters but for the `CA` and the `5xx`.
        Self::all().filter(move |cell| cell.to_string().to_lowercase().contains(&words))
    }

    /// Plays it; thoroughly, or without waiting for what takes a minute and needs nobody. Panics where a program did
    /// what no fault excuses: it logged an ERROR nobody expects, or hung.
    pub fn run(self, is_thorough: bool) -> Outcome {
        match stage::Stage::set(self, is_thorough) {
            Ok(stage) => Outcome::Ran(Box::new(stage.play())),
            Err(why) => Outcome::NotHere(why),
        }
    }

    /// Whether the operation has to work although the fault lasts.
    const fn must_work(self) -> bool {
        use Fault as F;
        match self.fault {
            F::Slow | F::AnswerTwice => true,
            // Taking back is never refused for want of room or of a good clock.
            F::DiskFull | F::ClockBackwards | F::ClockForthAndBack => {
                matches!(self.operation, Operation::Revoke | Operation::End)
            }
            F::Down | F::Hung | F::AnswerLost | F::AnswerWrong | F::Failing => {
                !self.operation.needs_provider()
            }
            // The fault strikes after the operation.
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
