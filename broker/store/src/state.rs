//! What is alive, in memory: a deterministic machine without threads, files or clocks.
//!
//! Every event is first [admitted](State::admit), then turned into [`Change`]s by [`State::effects`]. A change sets one
//! record and returns its inverse, so that a batch whose append failed is taken back exactly. The same changes go to
//! the readers' copy and to the index once the batch is durable. Whatever can be derived from the records (counts,
//! who is due next) is kept up to date in the one place that sets a record.
//!
//! Ended tasks and what hung on them leave this state; the index keeps them.

mod admit;
mod apply;
mod credential;
mod delegation;
mod guard;
mod query;
mod set;
mod svid;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use taskpass_core::{
    Agent, AgentName, Anchor, AnchorId, Credential, CredentialId, Digest, Identity, JoinTokenId,
    ProviderName, SpiffeId, Task, TaskId, Timestamp, TrustDomain,
};

pub(crate) use self::{admit::History, apply::Effects};
use crate::{IdempotencyRecord, JoinTokenRecord, ProviderUsage, SvidRecord};

/// Names an idempotency key together with its caller: half a SHA-256, since there are many of them.
pub(crate) type KeyHash = [u8; 16];

/// One record set to a value, or taken out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// How many entries were applied, and the time of the last.
    Position(u64, Timestamp),
    TrustDomain(Option<TrustDomain>),
    Agent(AgentName, Option<Arc<Agent>>),
    Token(JoinTokenId, Option<Arc<JoinTokenRecord>>),
    Svid(String, Option<Arc<SvidRecord>>),
    Task(TaskId, Option<Arc<Task>>),
    Credential(CredentialId, Option<Arc<Credential>>),
    Anchor(AnchorId, Option<Arc<Anchor>>),
    Key(KeyHash, Option<Arc<Remembered>>),
}

/// An idempotency key in use.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Remembered {
    /// Whose share it takes.
    pub(crate) owner: KeyHash,
    /// The task whose end it does not outlive: nothing can be repeated there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<TaskId>,
    pub(crate) time: Timestamp,
    pub(crate) request_sha256: Box<str>,
    pub(crate) subject: crate::Subject,
}

impl Remembered {
    pub(crate) fn record(&self) -> IdempotencyRecord {
        IdempotencyRecord {
            request_sha256: self.request_sha256.to_string(),
            subject: self.subject.clone(),
        }
    }
}

/// Whose share of remembered keys a caller uses up: an agent has one with all its tasks.
pub(crate) fn owner_hash(caller: &SpiffeId) -> KeyHash {
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

/// A task that has not ended, and what hangs on it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) task: Arc<Task>,
    /// Direct children that have not ended.
    pub(crate) children: BTreeSet<TaskId>,
    /// Its own credentials, in any state.
    pub(crate) credentials: BTreeSet<CredentialId>,
    /// Its anchors, in any state.
    pub(crate) anchors: BTreeSet<AnchorId>,
    /// The idempotency keys of requests that named it, oldest first.
    pub(crate) keys: BTreeSet<(Timestamp, KeyHash)>,
    /// Its own live credentials.
    pub(crate) live: u32,
    /// Live credentials of it and of everything below it.
    pub(crate) live_below: u32,
    pub(crate) live_anchors: u32,
}

/// What an agent holds, without what can expire unseen.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AgentUse {
    pub(crate) open_tasks: u32,
    pub(crate) live_credentials: u32,
    pub(crate) unused_tokens: BTreeSet<JoinTokenId>,
}

/// Everything that is alive.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    trust_domain: Option<TrustDomain>,
    next: u64,
    last_time: Timestamp,

    agents: BTreeMap<AgentName, Arc<Agent>>,
    agent_use: HashMap<AgentName, AgentUse>,

    tokens: HashMap<JoinTokenId, Arc<JoinTokenRecord>>,
    tokens_by_end: BTreeSet<(Timestamp, JoinTokenId)>,

    svids: HashMap<String, Arc<SvidRecord>>,
    svids_by_end: BTreeSet<(Timestamp, String)>,
    /// By holder and ledger entry, oldest first.
    svids_of: HashMap<Identity, BTreeSet<(u64, String)>>,

    tasks: BTreeMap<TaskId, Node>,
    /// Open tasks by deadline.
    deadlines: BTreeSet<(Timestamp, TaskId)>,
    /// Ending tasks under which nothing is alive.
    finished: BTreeSet<TaskId>,
    /// Ending tasks with live anchors but no live credentials.
    anchored: BTreeSet<TaskId>,

    credentials: BTreeMap<CredentialId, Arc<Credential>>,
    intended: BTreeSet<CredentialId>,
    /// Active credentials by their own end.
    expiries: BTreeSet<(Timestamp, CredentialId)>,
    /// Credentials being revoked by the next attempt; per provider, so that one that hangs hides no other.
    retries: BTreeMap<ProviderName, BTreeSet<(Timestamp, CredentialId)>>,
    providers: BTreeMap<ProviderName, ProviderUsage>,

    anchors: HashMap<AnchorId, Arc<Anchor>>,

    keys: HashMap<KeyHash, Arc<Remembered>>,
    /// By owner, oldest first.
    keys_of: HashMap<KeyHash, BTreeSet<(Timestamp, KeyHash)>>,
}

impl State {
    /// Nothing has happened yet.
    pub(crate) fn new() -> Self {
        Self {
            trust_domain: None,
            next: 0,
            last_time: Timestamp::EPOCH,
            agents: BTreeMap::new(),
            agent_use: HashMap::new(),
            tokens: HashMap::new(),
            tokens_by_end: BTreeSet::new(),
            svids: HashMap::new(),
            svids_by_end: BTreeSet::new(),
            svids_of: HashMap::new(),
            tasks: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            finished: BTreeSet::new(),
            anchored: BTreeSet::new(),
            credentials: BTreeMap::new(),
            intended: BTreeSet::new(),
            expiries: BTreeSet::new(),
            retries: BTreeMap::new(),
            providers: BTreeMap::new(),
            anchors: HashMap::new(),
            keys: HashMap::new(),
            keys_of: HashMap::new(),
        }
    }

    /// How many ledger entries are in this state.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The time of the last entry.
    pub(crate) const fn last_time(&self) -> Timestamp {
        self.last_time
    }

    /// The installation's trust domain, once it was made.
    pub(crate) const fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }
}
