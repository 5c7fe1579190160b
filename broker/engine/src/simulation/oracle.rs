//! Checks the promises of the broker: compares the ledger with the invariants and with the truth.
//!
//! It is written from the invariants alone and uses no rule of the engine or the store.

mod audit;
mod book;

use std::sync::Arc;

use parking_lot::Mutex;
use taskpass_core::{CredentialId, CredentialState, Event, TaskId, TaskState};
use taskpass_provider::{RevokeOrder, RevokeScope};
use taskpass_store::{Batch, MemoryLog};

use self::book::Book;
use super::{
    fate::Fate,
    time::{Millis, SimTime},
    world::{Kind, Thing, World},
};

/// Open tasks that an agent may have.
pub(super) const OPEN_TASKS: u32 = 6;
/// Live credentials that an agent may have.
pub(super) const LIVE_PER_AGENT: u32 = 8;
/// Live credentials that a task and everything below it may have.
pub(super) const LIVE_PER_TASK: u32 = 5;
/// The longest pause between two attempts to revoke.
const RETRY_MAX_MS: i64 = 300_000;

/// How far the broker lets a clock lead it astray, and the share of the time by which a clock may
/// drift unnoticed.
const MISLED_MAX_MS: i64 = 300_000;
const DRIFT_SHARE: i64 = 1000;
/// An entry whose sync failed is read when the next broker starts.
const READ_WITHIN_MS: i64 = 120_000;

/// Watches one history.
#[derive(Debug)]
pub(super) struct Oracle {
    world: Arc<World>,
    time: Arc<SimTime>,
    fate: Arc<Fate>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    book: Book,
    entries: usize,
    secrets: u64,
    ahead: u64,
    broken: Option<String>,
}

impl Oracle {
    pub(super) fn new(world: &Arc<World>, time: &Arc<SimTime>, fate: &Arc<Fate>) -> Self {
        Self {
            world: Arc::clone(world),
            time: Arc::clone(time),
            fate: Arc::clone(fate),
            seen: Mutex::default(),
        }
    }

    /// The first broken promise.
    pub(super) fn verdict(&self) -> Option<String> {
        self.seen.lock().broken.clone()
    }

    /// How many credentials were delivered.
    pub(super) fn secrets(&self) -> u64 {
        self.seen.lock().secrets
    }

    /// How many calls ran ahead of their intents.
    pub(super) fn ahead(&self) -> u64 {
        self.seen.lock().ahead
    }

    pub(super) fn clock_is_wrong(&self) {
        self.seen.lock().book.clock_was_wrong = true;
    }

    /// Records a broken promise that the oracle does not look for itself.
    pub(super) fn wrong(&self, what: impl Into<String>) {
        self.seen.lock().wrong(what.into());
    }

    /// Reads the new entries of the ledger, and checks that ledger and truth agree.
    pub(super) fn read_ledger(&self, log: &MemoryLog) {
        let mut seen = self.seen.lock();
        let new = log.since(seen.entries);
        if new.is_empty() {
            return;
        }
        seen.entries += new.len();
        for bytes in new {
            let text = String::from_utf8_lossy(&bytes);
            if text.contains("secret-") {
                seen.wrong(format!("9: a secret is in the ledger: {text}"));
            }
            match seen.book.enter(&bytes) {
                Ok(line) => self.fate.note(|| format!("  ledger: {line}")),
                Err(what) => seen.wrong(what),
            }
            self.check_date(&mut seen);
        }
        if let Err(what) = seen.book.structure() {
            seen.wrong(what);
        }
        self.compare(&mut seen, self.time.now());
    }

    /// No entry has a wrong time, whatever the wall clock did.
    fn check_date(&self, seen: &mut Seen) {
        let ahead = self.time.ahead(seen.book.time());
        let passed = i64::try_from(self.time.now()).unwrap_or(i64::MAX);
        let let_pass = match seen.book.clock_was_wrong {
            true => MISLED_MAX_MS + passed / DRIFT_SHARE,
            false => 0,
        };
        if ahead > let_pass || ahead < -let_pass - READ_WITHIN_MS {
            seen.wrong(format!(
                "13: an entry is dated {ahead} ms ahead of the time at which it was made"
            ));
        }
    }

    /// Checks that the ledger and the truth agree now.
    pub(super) fn look(&self) {
        self.compare(&mut self.seen.lock(), self.time.now());
    }

    fn compare(&self, seen: &mut Seen, now: Millis) {
        let mut wrong = None;
        self.world.each_thing(now, |thing, is_alive| {
            if is_alive && wrong.is_none() {
                wrong = self.judge(seen, thing, now).err();
            }
        });
        if let Some(what) = wrong {
            seen.wrong(what);
        }
    }

    /// Whether the ledger allows this thing to be alive.
    fn judge(&self, seen: &Seen, thing: &Thing, now: Millis) -> Result<(), String> {
        let id = thing.credential;
        let Some(entry) = seen.book.credential(id) else {
            return match thing.session {
                Some(session) if seen.book.hangs_on(id, session) => Ok(()),
                _ => Err(format!(
                    "1: `{id}` is alive, and neither an intent nor an anchor finds it"
                )),
            };
        };
        let may_live = match entry.state {
            CredentialState::Intended | CredentialState::Active | CredentialState::Revoking => true,
            // A wall clock that was wrong is no excuse.
            CredentialState::RevokedVerified
            | CredentialState::Abandoned
            | CredentialState::Expired => false,
            CredentialState::RevokedUnverified => {
                let until = entry.may_live_until.map(|at| self.time.truth(at));
                let in_time = seen.book.clock_was_wrong || until.is_some_and(|until| now <= until);
                // The back end filed this lease after its session had ended. The lease hangs on
                // nothing, so no provider can find and revoke it.
                let is_orphan = thing.kind == Kind::Session
                    && thing.session.is_none()
                    && entry.issued_at.is_none();
                (thing.kind == Kind::ExpiryOnly || is_orphan) && in_time
            }
        };
        if may_live {
            return Ok(());
        }
        Err(format!(
            "3: `{id}` is {} for the ledger, and alive",
            entry.state.as_str()
        ))
    }

    /// An intent is in order, and may still be lost.
    pub(super) fn in_order(&self, batch: &Batch) {
        let mut seen = self.seen.lock();
        for event in &batch.events {
            if let Event::CredentialIntended { credential, .. } = event {
                seen.book.put_in_order(credential.id, credential.task);
            }
        }
    }

    /// The engine asks a provider to issue something that only its intent finds.
    pub(super) fn asked_to_issue(&self, id: CredentialId) {
        self.asked(id, false);
    }

    /// The engine asks a provider to issue something through a session.
    pub(super) fn asked_to_issue_through(&self, id: CredentialId, session: usize) {
        let hangs_on = self.seen.lock().book.hangs_on(id, session);
        self.asked(id, hangs_on);
    }

    /// The intent is durable; or it is in order, and a durable anchor finds the credential.
    fn asked(&self, id: CredentialId, is_anchored: bool) {
        let mut seen = self.seen.lock();
        let is_intent = match seen.book.credential(id) {
            Some(entry) => entry.issued_at.is_none() && !entry.state.is_final(),
            None => {
                seen.ahead += 1;
                is_anchored
            }
        };
        if !is_intent {
            seen.wrong(format!(
                "1, 6: a provider is asked for `{id}`, which is not an intent"
            ));
        }
    }

    /// The engine asks a provider to renew.
    pub(super) fn asked_to_renew(&self, id: CredentialId) {
        let mut seen = self.seen.lock();
        if !seen.book.take_renewal(id) {
            seen.wrong(format!(
                "1, 6: a provider is asked to extend `{id}` without an intent"
            ));
        }
    }

    /// The engine asks a provider to revoke.
    pub(super) fn asked_to_revoke(&self, order: &RevokeOrder) {
        let items: Vec<_> = order.items.iter().map(|item| item.credential).collect();
        self.fate.note(|| {
            format!(
                "  at {} to revoke: {} {:?} {items:?}",
                self.time.now(),
                order.task,
                order.scope
            )
        });
        let mut seen = self.seen.lock();
        for item in &order.items {
            let id = item.credential;
            let state = seen.book.credential(id).map(|c| c.state);
            // The credential may have reached a final state since the engine made the order.
            let is_on_its_way =
                state.is_some_and(|s| s == CredentialState::Revoking || s.is_final());
            if !is_on_its_way {
                seen.wrong(format!("2: `{id}` is being revoked while it is {state:?}"));
            }
        }
        let is_open = seen.book.task_state(order.task) == Some(TaskState::Open);
        if order.scope == RevokeScope::Task && is_open {
            let task = order.task;
            seen.wrong(format!(
                "7: all of task `{task}` is revoked while it is open"
            ));
        }
    }

    /// A caller holds a secret.
    pub(super) fn delivered(&self, id: CredentialId, serial: &str, secret: &str) {
        let mut seen = self.seen.lock();
        seen.secrets += 1;
        let mut is_its_own = false;
        self.world.each_thing(self.time.now(), |thing, _| {
            is_its_own |= thing.credential == id && thing.secret == secret;
        });
        if !is_its_own {
            seen.wrong(format!(
                "2: what was handed out as `{id}` is not its secret"
            ));
        }
        if let Err(what) = seen.book.may_be_delivered(id, serial) {
            seen.wrong(what);
        }
    }

    /// A key gave a second credential. It may when the task of the first one has ended, since no
    /// request can be repeated in an ended task.
    pub(super) fn gave_again(&self, key: &str, before: TaskId, task: TaskId) {
        let mut seen = self.seen.lock();
        if before == task || seen.book.task_state(before) != Some(TaskState::Ended) {
            seen.wrong(format!(
                "5: the idempotency key `{key}` gave two credentials"
            ));
        }
    }

    /// Whether everything is over: every task has ended, and no credential is pending.
    pub(super) fn is_over(&self) -> bool {
        self.seen.lock().book.pending().is_none()
    }

    /// Everything works and enough time has passed: a task or credential that is still pending
    /// breaks a promise.
    pub(super) fn must_be_over(&self) {
        let mut seen = self.seen.lock();
        if let Some(what) = seen.book.pending() {
            seen.wrong(format!("10: {what} is still pending"));
        }
    }
}

impl Seen {
    fn wrong(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }
}
