//! What a cell comes to.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{Broker, History, export, vkey, witness::untracked};

use super::{Cell, play::Play};

/// Longer than the probation of a token, and than the pauses between attempts to revoke that grow meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(150);

/// How a cell went.
#[derive(Debug)]
pub enum Outcome {
    /// It was played.
    Ran(Box<Verdict>),
    /// This machine cannot play it, for this reason. That is not a success.
    NotHere(String),
}

/// Who brought the service back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// Nobody had to.
    ByItself,
    /// Whatever starts a process again that has ended.
    ByRestart,
    /// A person mended what is outside the broker: the disk, or a file from a backup.
    ByPerson,
}

impl Back {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::ByItself => "by itself",
            Self::ByRestart => "by a restart",
            Self::ByPerson => "after repair",
        }
    }
}

/// What the witnesses say.
#[derive(Debug)]
pub struct Verdict {
    /// Which scenario.
    pub cell: Cell,
    /// How the operation went while the fault lasted; `Err` has the complaint.
    pub meanwhile: Result<(), String>,
    /// What was alive at the back end although it was not on record, or dead on record.
    pub orphans: Vec<String>,
    /// Answers that the history does not hold.
    pub lost: Vec<String>,
    /// Secrets that worked although they counted as revoked and proven.
    pub lies: Vec<String>,
    /// Secrets that stand in the broker's files or logs, and where.
    pub shown: Vec<String>,
    /// What the offline verification of the whole history complained about.
    pub ledger: Vec<String>,
    /// Whatever else must not be.
    pub wrong: Vec<String>,
    /// Who brought the service back.
    pub back: Back,
    /// From the end of the fault until the operation worked again.
    pub back_after: Duration,
    /// From there, where everything is ended, until the back end knew of nothing alive any more.
    pub last_live: Duration,
    /// Answers that clients got.
    pub answers: usize,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    /// How long all of it took.
    pub took: Duration,
}

impl Verdict {
    /// Has the history exported and verified offline, against a checkpoint from before the fault, and compares it with
    /// what the back end and the clients say. Nothing may change meanwhile.
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
        self.lies.extend(journal.lies(&stage.bao, |id| {
            states.get(&id.to_string()) == Some(&"revoked_verified")
        }));
        history
    }

    /// Waits until OpenBao knows of nothing alive. Only a token that was never recorded may take as long as its
    /// probation; without patience for it, it is only remarked upon.
    #[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
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

    /// How the operation went while the fault lasted, in words.
    pub const fn meanwhile_words(&self) -> &'static str {
        match &self.meanwhile {
            Ok(()) => "works",
            Err(_) if self.cell.must_work() => "FAILS",
            Err(_) => "fails cleanly",
        }
    }

    /// Whether nothing is wrong.
    pub fn is_green(&self) -> bool {
        self.complaints().next().is_none()
    }

    /// Everything that is wrong.
    pub fn complaints(&self) -> impl Iterator<Item = &String> {
        [
            &self.orphans,
            &self.lost,
            &self.lies,
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
            self.lies.len(),
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
