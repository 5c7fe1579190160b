//! The records after a person set the ledger's time back.
//!
//! Entries were made while the clock was ahead, and their times lie in the future now. A deadline
//! or a next attempt that was counted from such a time would not come for years. Each is counted
//! from the accepted time instead.

use std::{iter, sync::Arc};

use taskpass_core::{Credential, Task, Timestamp, Ttl, limits};

use super::{Change, State, table::Table};
use crate::index::{IndexError, LiveRows, Rows, Value, id_in, record};

/// Where the index keeps the accepted times, by the entry that moved the ledger's time.
const REBASE: &str = "r/";

/// Accepted times by entry.
pub(crate) enum Rebases {}

impl Table for Rebases {
    type Key = u64;
    type Record = Timestamp;

    const ROWS: Option<&'static str> = Some(REBASE);

    fn set(
        state: &mut State,
        entry: &u64,
        accepted: Option<&Arc<Timestamp>>,
    ) -> Option<Arc<Timestamp>> {
        match accepted {
            Some(accepted) => state.rebases.insert(*entry, Arc::clone(accepted)),
            None => state.rebases.remove(entry),
        }
    }

    fn rows<'a>(entry: &'a u64, accepted: Option<&'a Timestamp>, rows: &mut Rows<'a>) {
        rows.put(record(REBASE, entry), Value::of(accepted));
    }

    fn all(state: &State) -> impl Iterator<Item = (u64, Arc<Timestamp>)> {
        let all = state.rebases.iter();
        all.map(|(key, record)| (*key, Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        let mut found = Vec::new();
        rows.each_record(REBASE, |name, accepted: Arc<Timestamp>| {
            found.push((id_in(name, REBASE)?, accepted));
            Ok(())
        })?;
        state.rebases.extend(found);
        Ok(())
    }
}

impl State {
    /// The entries at which the ledger's time may go back, oldest first.
    pub(crate) fn rebases(&self) -> Vec<u64> {
        self.rebases.keys().copied().collect()
    }

    /// The changes by which no record waits for a time that only a wrong clock knew. A later time
    /// than every record's changes none of them.
    pub(super) fn rebased(&self, accepted: Timestamp) -> Vec<Change> {
        let rebase = Change::Rebase(self.next(), Some(Arc::new(accepted)));
        iter::once(rebase)
            .chain(self.early_svids(accepted))
            .chain(self.early_tokens(accepted))
            .chain(self.early_keys(accepted))
            .chain(self.early_tasks(accepted))
            .chain(self.early_anchors(accepted))
            .chain(self.early_credentials(accepted))
            .collect()
    }

    /// SVIDs that were made at a later time. Their certificates begin in the future, and would come
    /// to life then. Where the record does not say when it was made, it has an end that no SVID can
    /// have that was made by now.
    fn early_svids(&self, accepted: Timestamp) -> impl Iterator<Item = Change> {
        let latest = accepted.plus(Ttl::MAX.duration());
        self.svids
            .values()
            .filter(move |svid| {
                svid.not_after > latest || svid.recorded_at.is_some_and(|at| at > accepted)
            })
            .map(|svid| Change::Svid(svid.serial.clone(), None))
    }

    /// Join tokens that would otherwise be good until the wrong time comes.
    fn early_tokens(&self, accepted: Timestamp) -> impl Iterator<Item = Change> {
        let latest = accepted.plus(limits::JOIN_TOKEN_TTL_MAX);
        self.tokens
            .iter()
            .filter(move |(_, record)| record.token.expires_at > latest)
            .map(move |(id, record)| {
                let mut record = (**record).clone();
                record.token.expires_at = accepted;
                Change::Token(*id, Some(Arc::new(record)))
            })
    }

    fn early_keys(&self, accepted: Timestamp) -> impl Iterator<Item = Change> {
        self.keys.iter().filter_map(move |(hash, key)| {
            let key = key.remembered_by(accepted)?;
            Some(Change::Key(*hash, Some(Arc::new(key))))
        })
    }

    fn early_tasks(&self, accepted: Timestamp) -> impl Iterator<Item = Change> {
        self.tasks
            .values()
            .filter(move |node| node.task.started_at > accepted)
            .map(move |node| {
                let life = node.task.deadline.since(node.task.started_at);
                let task = Task {
                    started_at: accepted,
                    deadline: accepted.plus(life),
                    ..(*node.task).clone()
                };
                Change::Task(task.id, Some(Arc::new(task)))
            })
    }

    fn early_anchors(&self, accepted: Timestamp) -> impl Iterator<Item = Change> {
        self.anchors
            .iter()
            .filter(move |(_, anchor)| anchor.recorded_at > accepted)
            .map(move |(id, anchor)| {
                let mut anchor = (**anchor).clone();
                anchor.recorded_at = accepted;
                Change::Anchor(*id, Some(Arc::new(anchor)))
            })
    }

    fn early_credentials(&self, accepted: Timestamp) -> impl Iterator<Item = Change> {
        self.credentials
            .values()
            .filter(|credential| !credential.state.is_final())
            .filter_map(move |credential| {
                let due = credential_due(credential, accepted);
                (due != **credential).then(|| Change::Credential(due.id, Some(Arc::new(due))))
            })
    }
}

/// The credential with its next attempt due at the accepted time at the latest, and with an end
/// that is no further away than it was.
fn credential_due(credential: &Credential, accepted: Timestamp) -> Credential {
    let mut due = credential.clone();
    due.record_time_accepted(accepted);
    if let Some(revocation) = &mut due.revocation {
        revocation.since = revocation.since.min(accepted);
        revocation.retry_at = revocation.retry_at.min(accepted);
    }
    due
}
