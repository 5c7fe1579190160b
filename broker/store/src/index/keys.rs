//! The keys of the index. Ids have a fixed length and sort by time; names end before the byte that follows them.
//!
//! Credentials and anchors stand under their task, so that everything alive is read in one go along the disk. Whoever
//! looks for one by its id finds the task first.

use std::fmt::Display;

use taskpass_core::{AgentName, TaskId};

/// Position and origin.
pub(super) const META: &[u8] = b"m";
/// Agents by name.
pub(super) const AGENT: &str = "a/";
/// Tasks by id.
pub(super) const TASK: &str = "t/";
/// The task of a credential, by the credential's id.
pub(super) const CREDENTIAL: &str = "c/";
/// The task of an anchor, by the anchor's id.
pub(super) const ANCHOR: &str = "x/";
/// Join tokens by id, until they are forgotten.
pub(super) const TOKEN: &str = "j/";
/// SVIDs that count, by serial.
pub(super) const SVID: &str = "s/";
/// Idempotency keys by hash, until they are forgotten.
pub(super) const KEY: &[u8] = b"i/";
/// Tasks that have not ended.
pub(super) const LIVE: &str = "l/";

pub(super) fn record(prefix: &str, id: &dyn Display) -> Vec<u8> {
    format!("{prefix}{id}").into_bytes()
}

pub(super) fn remembered(hash: &[u8]) -> Vec<u8> {
    [KEY, hash].concat()
}

/// All credentials of a task: the record under this and the credential's id.
pub(super) fn credentials_of(task: TaskId) -> String {
    format!("tc/{task}/")
}

/// All anchors of a task: the record under this and the anchor's id.
pub(super) fn anchors_of(task: TaskId) -> String {
    format!("tx/{task}/")
}

/// All tasks of an agent: this and the task's id.
pub(super) fn tasks_of_agent(agent: &AgentName) -> String {
    format!("ta/{agent}/")
}

/// All credentials of an agent: the task of each under this and the credential's id.
pub(super) fn credentials_of_agent(agent: &AgentName) -> String {
    format!("ca/{agent}/")
}

/// Entries that are listed under one key.
pub(super) const ENTRIES_PER_KEY: usize = 128;

/// All entries about a task: this and an entry's index, big-endian; the value lists that one and some that follow.
pub(super) fn entries_of(task: TaskId) -> String {
    format!("e/{task}/")
}

pub(super) fn entry(task: TaskId, index: u64) -> Vec<u8> {
    let mut key = entries_of(task).into_bytes();
    key.extend_from_slice(&index.to_be_bytes());
    key
}
