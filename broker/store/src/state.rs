//! Live records in memory: a deterministic machine without threads, files or clocks.
//!
//! [`State::admit`] checks an event, and [`State::effects`] turns it into [`Change`]s. A change
//! sets one record and returns its inverse, so that a failed append is undone exactly. The same
//! changes go to the readers' copy and to the index once the batch is durable. Values derived from
//! the records, such as counts and the order of due dates, are kept up to date in the one place
//! that sets a record: its [`Table`].
//!
//! Each kind of record has a module of its own here, and a line in the list of tables below. Ended
//! tasks leave this state together with their credentials and anchors; the index keeps them.

mod agent;
mod anchor;
mod count;
mod credential;
mod effects;
mod guard;
mod idempotency;
mod installation;
mod join_token;
mod rebase;
mod refusal;
mod root;
mod superseded;
mod svid;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use taskpass_core::{
    Agent, AgentName, Anchor, AnchorId, Credential, CredentialId, DecisionRecord, Event, Identity,
    InstallationStep, JoinTokenId, ProviderName, RecordedRoot, RootNumber, SvidStep, TaskId,
    TaskStep, Timestamp, Topic, TrustDomain,
};

use self::table::Table;
use self::{agent::AgentUse, idempotency::KeyHash, refusal::Refusal};
pub(crate) use self::{
    credential::{Names, Owner},
    effects::Effects,
    idempotency::{Remembered, key_hash},
    table::{UsedId, UsedIds},
    task::{Node, live_in},
};
use crate::{
    CommitError, Conflict, JoinTokenRecord, ProviderUsage, SupersededSvid, SvidRecord,
    index::{IndexError, LiveRows, Rows},
};

/// Makes [`Change`], and the functions that go through all tables, from the list of tables.
macro_rules! tables {
    ($($name:ident: $table:ty,)*) => {
        /// One record set to a value, or removed.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub(crate) enum Change {
            /// How many entries were applied, and the time of the last.
            Position(u64, Timestamp),
            TrustDomain(Option<TrustDomain>),
            $($name(<$table as Table>::Key, Option<Arc<<$table as Table>::Record>>),)*
        }

        impl Change {
            /// Adds the rows of the index that the change sets.
            pub(crate) fn rows<'a>(&'a self, rows: &mut Rows<'a>) {
                match self {
                    // The index keeps these beside its rows.
                    Self::Position(..) | Self::TrustDomain(_) => {}
                    $(Self::$name(key, record) => <$table>::rows(key, record.as_deref(), rows),)*
                }
            }

            /// The id of a record that leaves the state with this change and is never given out
            /// again.
            pub(crate) fn leaves(&self) -> Option<UsedId> {
                match self {
                    Self::Position(..) | Self::TrustDomain(_) => None,
                    $(
                        Self::$name(key, None) => <$table>::used(key),
                        Self::$name(_, Some(_)) => None,
                    )*
                }
            }
        }

        impl UsedId {
            /// Where the index lists the ids that are never given out again, one place for each
            /// kind.
            pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
                [$(<$table>::IDS),*].into_iter().flatten()
            }
        }

        /// The beginnings of the keys under which the index has records of no task.
        pub(crate) fn rows_of_no_task() -> impl Iterator<Item = &'static str> {
            [$(<$table>::ROWS),*].into_iter().flatten()
        }

        impl State {
            /// Makes one change and returns its inverse.
            pub(crate) fn set(&mut self, change: &Change) -> Change {
                match change {
                    Change::Position(next, time) => Change::Position(
                        mem::replace(&mut self.next, *next),
                        mem::replace(&mut self.last_time, *time),
                    ),
                    Change::TrustDomain(domain) => {
                        Change::TrustDomain(mem::replace(&mut self.trust_domain, domain.clone()))
                    }
                    $(Change::$name(key, record) => {
                        Change::$name(key.clone(), <$table>::set(self, key, record.as_ref()))
                    })*
                }
            }

            /// Every record, in the order in which another state takes them.
            pub(crate) fn records(&self) -> Vec<Change> {
                let mut records = Vec::new();
                $(
                    let all = <$table>::all(self);
                    records.extend(all.map(|(key, record)| Change::$name(key, Some(record))));
                )*
                records
            }

            /// Reads everything that is alive from the index.
            pub(crate) fn load(&mut self, rows: &LiveRows<'_>) -> Result<(), IndexError> {
                $(<$table>::load(rows, self)?;)*
                Ok(())
            }
        }
    };
}

// In the order in which a start loads them: credentials and anchors come after their tasks.
tables! {
    Agent: agent::Agents,
    Token: join_token::JoinTokens,
    Svid: svid::Svids,
    Superseded: superseded::SupersededSvids,
    Task: task::Tasks,
    Credential: credential::Credentials,
    Anchor: anchor::Anchors,
    Key: idempotency::Keys,
    Rebase: rebase::Rebases,
    Root: root::Roots,
}

/// All live records, and the values derived from them. The default: nothing has happened yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct State {
    trust_domain: Option<TrustDomain>,
    next: u64,
    last_time: Timestamp,
    agents: BTreeMap<AgentName, Arc<Agent>>,
    agent_use: HashMap<AgentName, AgentUse>,
    tokens: BTreeMap<JoinTokenId, Arc<JoinTokenRecord>>,
    tokens_by_end: BTreeSet<(Timestamp, JoinTokenId)>,
    svids: HashMap<String, Arc<SvidRecord>>,
    svids_by_end: BTreeSet<(Timestamp, String)>,
    /// By holder and ledger entry, oldest first.
    svids_of: HashMap<Identity, BTreeSet<(u64, String)>>,
    superseded: HashMap<String, Arc<SupersededSvid>>,
    superseded_by_end: BTreeSet<(Timestamp, String)>,
    /// By holder and ledger entry, oldest first.
    superseded_of: HashMap<Identity, BTreeSet<(u64, String)>>,
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
    /// Credentials being revoked, by the time of the next attempt; per provider, so that a provider
    /// that hangs hides no other.
    retries: BTreeMap<ProviderName, BTreeSet<(Timestamp, CredentialId)>>,
    /// The same credentials by the time since which they have to be revoked.
    revoking: BTreeSet<(Timestamp, CredentialId)>,
    providers: BTreeMap<ProviderName, ProviderUsage>,
    anchors: HashMap<AnchorId, Arc<Anchor>>,
    /// The accepted times, by the entry that moved the ledger's time.
    rebases: BTreeMap<u64, Arc<Timestamp>>,
    /// How far each root has come that took another one's place, or that another one took the place
    /// of.
    roots: BTreeMap<RootNumber, Arc<RecordedRoot>>,
    keys: HashMap<KeyHash, Arc<Remembered>>,
    /// By owner, oldest first.
    keys_of: HashMap<KeyHash, BTreeSet<(Timestamp, KeyHash)>>,
}

impl State {
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

    /// Checks that `event` may happen at `time`, which is not before any earlier event's, except
    /// where the event itself moves time.
    pub(crate) fn admit(
        &self,
        event: &Event,
        time: Timestamp,
        used: &dyn UsedIds,
    ) -> Result<(), CommitError> {
        let refuse = |refusal: Refusal| refusal.of(event);
        self.admit_in_place(event).map_err(refuse)?;
        self.unused_key(event.new_key(), time)?;
        let admitted = match event.topic() {
            Topic::Installation(step) => self.admit_installation(&step, time),
            Topic::Decision(_) => Ok(()),
            Topic::Agent(step) => self.admit_agent(&step),
            Topic::JoinToken(step) => self.admit_token(&step, time),
            Topic::Svid(step) => self.admit_svid(&step, time),
            Topic::Task(id, step) => self.admit_task(id, &step, time, used),
            Topic::Anchor(id, step) => self.admit_anchor(id, &step, used),
            Topic::Credential(id, step) => self.admit_credential(id, &step, time, used),
        };
        admitted.map_err(refuse)
    }

    /// The changes that `event`, recorded at `time`, makes. Fails only when the record that it is
    /// about is not there.
    pub(crate) fn effects(&self, event: &Event, time: Timestamp) -> Result<Effects, Conflict> {
        match event.topic() {
            Topic::Installation(step) => Ok(self.installation_effects(&step)),
            Topic::Decision(decision) => Ok(Effects::default().about(mentioned(decision))),
            Topic::Agent(step) => self.agent_effects(&step, time),
            Topic::JoinToken(step) => self.token_effects(&step, time),
            Topic::Svid(step) => self.svid_effects(&step, time),
            Topic::Task(id, step) => self.task_effects(id, &step, time),
            Topic::Anchor(id, step) => self.anchor_effects(id, &step, time),
            Topic::Credential(id, step) => self.credential_effects(id, &step, time),
        }
    }

    /// The events that follow from `event` in the same batch, as the state stands before it.
    pub(crate) fn cascade(&self, event: &Event, time: Timestamp) -> Vec<Event> {
        match event.topic() {
            Topic::Installation(InstallationStep::RootChanged { root, stage, .. }) => {
                self.root_cascade(root, stage, time)
            }
            Topic::Task(task, TaskStep::Ending { cause, by }) => self.task_cascade(task, cause, by),
            Topic::Agent(step) => self.agent_cascade(&step, time),
            Topic::Svid(SvidStep::Activated { serial }) => self.login_cascade(serial),
            Topic::Installation(_)
            | Topic::Decision(_)
            | Topic::JoinToken(_)
            | Topic::Svid(
                SvidStep::Issued { .. }
                | SvidStep::OperatorIssued { .. }
                | SvidStep::OperatorWithdrawn { .. }
                | SvidStep::Conflict { .. },
            )
            | Topic::Task(_, TaskStep::Started { .. } | TaskStep::Ended)
            | Topic::Anchor(..)
            | Topic::Credential(..) => Vec::new(),
        }
    }

    /// Records that have no meaning any more at `now` and only take room. The rules look at the
    /// times themselves, so pruning early or late never changes an answer.
    pub(crate) fn stale(&self, now: Timestamp) -> Vec<Change> {
        self.expired_svids(now)
            .chain(self.expired_superseded(now))
            .chain(self.forgotten_tokens(now))
            .chain(self.forgotten_keys(now))
            .collect()
    }
}

/// The beginnings of the keys under which the index has the record of a task and the records that
/// belong to it.
pub(crate) fn rows_of_task(id: TaskId) -> [Vec<u8>; 3] {
    [
        task::row_of(id),
        credential::of_task(id).into_bytes(),
        anchor::of_task(id).into_bytes(),
    ]
}

/// The tasks that a decision names, each once.
fn mentioned(decision: &DecisionRecord) -> Vec<TaskId> {
    let mut tasks: Vec<TaskId> = [&decision.resource, &decision.principal]
        .iter()
        .flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric()))
        .filter_map(|word| word.parse().ok())
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    tasks
}
