//! The result of a cell.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{Broker, History, export, vkey, witness::untracked};

use super::{Cell, play::Play};

/// Longer than a token's probation together with the growing pauses between attempts to revoke.
const SILENCE_MAX: Duration = Duration::from_secs(150);

/// Whether a cell was played, and how it went.
#[derive(Debug)]
pub enum Outcome {
    /// The cell was played.
    Ran(Box<Verdict>),
    /// This machine cannot play the cell, for this reason. That is not a success.
    NotHere(String),
}

/// How the service was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// The broker recovered by itself.
    ByItself,
    /// The broker was started again after it had ended, as a service manager does.
    ByRestart,
    /// A person repaired the broker's surroundings: the disk, or a file from a backup.
    ByPerson,
}

impl Back {
    /// Its name in reports.
    pub const fn words(self) -> &'static str {
        match self {
            Self::ByItself => "by itself",
            Self::ByRestart => "by a restart",
            Self::ByPerson => "after repair",
        }
    }
}

/// The findings of the witnesses.
#[derive(Debug)]
pub struct Verdict {
    /// The cell.
    pub cell: Cell,
    /// The result of the operation while the fault lasted; `Err` has the error text.
    pub meanwhile: Result<(), String>,
    /// Things that were alive at the back end and not on record, or recorded as dead.
    pub orphans: Vec<String>,
    /// Answers that the history does not hold.
    pub lost: Vec<String>,
    /// Secrets that worked although they were reported as revoked with proof.
    pub false_proofs: Vec<String>,
    /// Secrets in the broker's files or logs, with their places.
    pub shown: Vec<String>,
    /// Complaints of the offline verification of the whole history.
    pub ledger: Vec<String>,
    /// Other findings.
    pub wrong: Vec<String>,
    /// How the service was restored.
    pub back: Back,
    /// From the end of the fault until the operation worked again.
    pub back_after: Duration,
    /// From the end of all tasks until the back end listed nothing alive.
    pub last_live: Duration,
    /// The number of answers that clients received.
    pub answers: usize,
    /// Remarks for the reader of the report.
    pub notes: Vec<String>,
    /// The duration of the whole cell.
    pub took: Duration,
}

impl Verdict {
    /// Exports the history, verifies it offline against a checkpoint from before the fault, and
    /// compares it with the back end and the clients' journal. Nothing may change meanwhile.
    pub(super) fn compare(&mut self, play: &Play<'_>, broker: &Broker<'_>, name: &str) -> History {
        let stage = play.stage;
        let operator = broker.operator();
        let path = export(&stage.installation, &operator, name, &[]);
        let words = |path: &std::path::Path| path.display().to_string();
        let (key, old) = (vkey(&stage.installation), words(&play.checkpoint));
        let verified = operator.run(&[
            "ledger",
            "verify",
            "--key",
            &words(&key),
            "--checkpoint",
            &old,
            &words(&path),
        ]);
        if verified.code != 0 {
            self.ledger.push(verified.stderr);
        }
        let history = History::read(&path);
        let states = history.credential_states();
        let live = history.live_credentials();
        self.orphans.extend(untracked(&stage.bao, &history, &live));
        let journal = play.journal();
        self.lost.extend(journal.lost(&history));
        self.false_proofs
            .extend(journal.false_proofs(&stage.bao, |id| {
                states.get(&id.to_string()) == Some(&"revoked_verified")
            }));
        history
    }

    /// Waits until OpenBao lists nothing alive. Only a token that was never recorded may take as
    /// long as its probation. A run that is not thorough does not wait for it and makes a remark
    /// instead.
    #[expect(clippy::disallowed_methods, reason = "the report is about real time")]
    pub(super) fn await_silence(&mut self, play: &Play<'_>, history: &History, since: Instant) {
        let bao = &play.stage.bao;
        loop {
            let mut alive = bao.usable_certificates();
            let recorded = history.recorded_accessors();
            let tokens = bao.task_tokens().into_iter();
            let (known, unrecorded): (Vec<String>, Vec<String>) =
                tokens.partition(|accessor| recorded.contains(accessor.as_str()));
            alive.extend(known);
            if alive.is_empty() && (unrecorded.is_empty() || !play.stage.is_thorough) {
                if !unrecorded.is_empty() {
                    play.remark("an unrecorded token is left to its probation");
                }
                break;
            }
            if since.elapsed() > SILENCE_MAX {
                let left = alive.into_iter().chain(unrecorded);
                self.orphans
                    .extend(left.map(|id| format!("{id} is still alive")));
                break;
            }
            super::strike::pause(50);
        }
        self.last_live = since.elapsed();
    }

    /// The operation's result while the fault lasted, in words.
    pub const fn meanwhile_words(&self) -> &'static str {
        match &self.meanwhile {
            Ok(()) => "works",
            Err(_) if self.cell.must_work() => "FAILS",
            Err(_) => "fails cleanly",
        }
    }

    /// Whether there are no complaints.
    pub fn is_green(&self) -> bool {
        self.complaints().next().is_none()
    }

    /// All findings that make the cell red.
    pub fn complaints(&self) -> impl Iterator<Item = &String> {
        [
            &self.orphans,
            &self.lost,
            &self.false_proofs,
            &self.shown,
            &self.ledger,
            &self.wrong,
        ]
        .into_iter()
        .flatten()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "meanwhile {}, orphans {}, lost {}, false proofs {}, secrets shown {}, ledger {}, back {} after {:.1} s, all dead {:.1} s later",
            self.meanwhile_words(),
            self.orphans.len(),
            self.lost.len(),
            self.false_proofs.len(),
            self.shown.len(),
            if self.ledger.is_empty() {
                "verifies"
            } else {
                "DOES NOT VERIFY"
            },
            self.back.words(),
            self.back_after.as_secs_f32(),
            self.last_live.as_secs_f32(),
        )
    }
}
