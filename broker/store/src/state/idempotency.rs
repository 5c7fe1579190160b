//! Idempotency keys that are remembered, so that a repeated request makes nothing twice.

use std::{collections::BTreeSet, sync::Arc};

use taskpass_core::{Digest, IdempotencyKey, SpiffeId, TaskId, Timestamp, limits};

use super::{
    Change, State,
    count::{Count, put},
    table::Table,
};
use crate::{
    CommitError, GuardFailure, IdempotencyRecord, Subject,
    index::{IndexError, LiveRows, Rows, Value},
};

/// Where the index keeps the keys by hash, until they are forgotten.
const KEYS: &str = "i/";

/// Names an idempotency key together with its caller: half a SHA-256, since there are many of them.
pub(crate) type KeyHash = [u8; 16];

/// An idempotency key in use.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Remembered {
    /// The caller that made the request; the key counts in its share.
    pub(super) owner: KeyHash,
    /// The task that the request named. The key ends with it: after that no repetition can succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<TaskId>,
    time: Timestamp,
    request_sha256: Box<str>,
    subject: Subject,
}

impl Remembered {
    pub(super) fn new(
        key: &IdempotencyKey,
        task: Option<TaskId>,
        time: Timestamp,
        subject: Subject,
    ) -> (KeyHash, Self) {
        let remembered = Self {
            owner: owner_hash(&key.caller),
            task,
            time,
            request_sha256: key.request_sha256.as_str().into(),
            subject,
        };
        (key_hash(&key.caller, &key.key), remembered)
    }

    /// The key as if its request had come at `latest`, where it came later.
    pub(super) fn remembered_by(&self, latest: Timestamp) -> Option<Self> {
        (self.time > latest).then(|| Self {
            owner: self.owner,
            task: self.task,
            time: latest,
            request_sha256: self.request_sha256.clone(),
            subject: self.subject.clone(),
        })
    }

    pub(crate) fn record(&self) -> IdempotencyRecord {
        IdempotencyRecord {
            request_sha256: self.request_sha256.to_string(),
            subject: self.subject.clone(),
        }
    }
}

/// The share of remembered keys that a caller uses up: an agent has one share with all its tasks.
fn owner_hash(caller: &SpiffeId) -> KeyHash {
    let caller = caller.as_str();
    let owner = caller
        .rsplit_once("/task/")
        .map_or(caller, |(agent, _)| agent);
    half(&Digest::of(owner.as_bytes()))
}

/// The name under which a caller's key is remembered.
pub(crate) fn key_hash(caller: &SpiffeId, key: &str) -> KeyHash {
    // A SPIFFE ID has no line break, so no two pairs give the same text.
    half(&Digest::of(format!("{caller}\n{key}").as_bytes()))
}

fn half(digest: &Digest) -> KeyHash {
    let mut hash = [0; 16];
    for (to, from) in hash.iter_mut().zip(digest.bytes()) {
        *to = *from;
    }
    hash
}

/// Idempotency keys by hash.
pub(crate) enum Keys {}

impl Table for Keys {
    type Key = KeyHash;
    type Record = Remembered;

    const ROWS: Option<&'static str> = Some(KEYS);

    fn set(
        state: &mut State,
        hash: &KeyHash,
        key: Option<&Arc<Remembered>>,
    ) -> Option<Arc<Remembered>> {
        let before = put(&mut state.keys, *hash, key.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (key, Count::Up)] {
            let Some(record) = record else { continue };
            let of_owner = state.keys_of.entry(record.owner).or_default();
            count.member(of_owner, (record.time, *hash));
            if of_owner.is_empty() {
                state.keys_of.remove(&record.owner);
            }
            if let Some(node) = record.task.and_then(|id| state.tasks.get_mut(&id)) {
                count.member(&mut node.keys, (record.time, *hash));
            }
        }
        before
    }

    fn rows<'a>(hash: &'a KeyHash, key: Option<&'a Remembered>, rows: &mut Rows<'a>) {
        let name = [KEYS.as_bytes(), hash.as_slice()].concat();
        rows.put(name, Value::of(key));
    }

    fn all(state: &State) -> impl Iterator<Item = (KeyHash, Arc<Remembered>)> {
        let all = state.keys.iter();
        all.map(|(key, record)| (*key, Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        rows.each_record(KEYS, |name, remembered| {
            let hash = name
                .try_into()
                .map_err(|e| IndexError(format!("an idempotency key cannot be read: {e}")))?;
            state.set(&Change::Key(hash, Some(remembered)));
            Ok(())
        })
    }
}

impl State {
    /// The product of a request with an idempotency key, while it is remembered.
    pub(crate) fn remembered(&self, hash: &KeyHash, now: Timestamp) -> Option<&Arc<Remembered>> {
        self.keys
            .get(hash)
            .filter(|key| key.time.plus(limits::IDEMPOTENCY_KEPT) > now)
    }

    /// Refuses a key that is remembered. The decider asks before any other rule, so that a repeated
    /// request learns its product in any later state.
    pub(crate) fn unused_key(
        &self,
        key: Option<&IdempotencyKey>,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        let Some(key) = key else { return Ok(()) };
        match self.remembered(&key_hash(&key.caller, &key.key), now) {
            None => Ok(()),
            Some(before) => Err(CommitError::Duplicate {
                same_request: *before.request_sha256 == *key.request_sha256,
                record: before.record(),
            }),
        }
    }

    /// Refuses one more key when the caller's share is used up. The broker promised to remember
    /// each key for a day, so it refuses the new one instead of forgetting an old one early.
    pub(super) fn keys_within(
        &self,
        caller: &SpiffeId,
        task: Option<TaskId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<(), GuardFailure> {
        let Some(keys) = self.keys_of.get(&owner_hash(caller)) else {
            return Ok(());
        };
        let (held, oldest) = count_held(keys, now);
        let wait = oldest.map_or(limits::IDEMPOTENCY_KEPT, |time| {
            time.plus(limits::IDEMPOTENCY_KEPT).since(now)
        });
        let caller = || caller.clone();
        let free = limit.saturating_sub(held);
        if free == 0 {
            return Err(GuardFailure::IdempotencyKeys {
                caller: caller(),
                limit,
                wait,
            });
        }
        let Some(node) = task.and_then(|id| self.tasks.get(&id)) else {
            return Ok(());
        };
        super::guard::below(count_held(&node.keys, now).0, free, |_| {
            GuardFailure::TaskIdempotencyKeys {
                caller: caller(),
                task: node.task.id,
                free,
                wait,
            }
        })
    }

    /// Keys that are remembered no longer.
    pub(super) fn forgotten_keys(&self, now: Timestamp) -> impl Iterator<Item = Change> {
        let forgotten = move |(time, _): &&(Timestamp, KeyHash)| is_forgotten(*time, now);
        self.keys_of
            .values()
            .flat_map(move |keys| keys.iter().take_while(forgotten))
            .map(|(_, hash)| Change::Key(*hash, None))
    }
}

fn is_forgotten(time: Timestamp, now: Timestamp) -> bool {
    time.plus(limits::IDEMPOTENCY_KEPT) <= now
}

/// How many of the keys are still remembered, and when the oldest of them came.
fn count_held(keys: &BTreeSet<(Timestamp, KeyHash)>, now: Timestamp) -> (u32, Option<Timestamp>) {
    let forgotten = keys
        .iter()
        .take_while(|(time, _)| is_forgotten(*time, now))
        .count();
    let held = u32::try_from(keys.len() - forgotten).unwrap_or(u32::MAX);
    (held, keys.iter().nth(forgotten).map(|(time, _)| *time))
}
