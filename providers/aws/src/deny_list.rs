//! The deny list of one IAM role: which of its sessions are denied everything, as an inline policy
//! of the role.
//!
//! Every session carries its task's and its own id as session tags, which cannot be changed later.
//! The list names the ids of ended tasks, and of single revoked credentials, for as long as a
//! session with them may live; then they are pruned. The document is also the list's only store.
//! Each statement's `Sid` says until when the last of its ids is needed, so that another broker, or
//! this one after a restart, knows how long to keep the ids that it reads.
//!
//! **Shares.** An agent whose ids are many has statements of its own, which name it, so that every
//! reader of the document knows how much of the list it takes. `share.rs` refuses it new sessions
//! before it takes the room of the others.
//!
//! **Overflow.** When the list does not fit all the same, `fold.rs` replaces ids by windows of time
//! of the agent with the most ids, and so on.

mod document;
mod fold;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde_json::Value;
use taskpass_core::{AgentName, CredentialId, TaskId, Timestamp};

pub(crate) use self::document::ids_within;
use self::document::{AGENT_OPERATOR, agent_key, sid_until, statements, values};

/// The session tag with the task's id.
pub(crate) const TASK_TAG: &str = "taskpass-task";
/// The session tag with the credential's own id.
pub(crate) const CREDENTIAL_TAG: &str = "taskpass-credential";
/// The session tag with the agent's name.
pub(crate) const AGENT_TAG: &str = "taskpass-agent";

/// An id stays on the list this long after its last session's deadline, because AWS's clock and
/// ours may differ.
pub(crate) const CLOCK_MARGIN: Duration = Duration::from_secs(60);
/// An `AssumeRole` that was in flight when its task ended has returned by then. A folded statement
/// covers younger ids only that long after they were added.
pub(crate) const IN_FLIGHT_MARGIN: Duration = Duration::from_secs(60);
/// The longest life of a session, also if a statement's `Sid` claims a longer one.
pub(crate) const SESSION_MAX: Duration = Duration::from_secs(12 * 3600);

/// The sessions that are denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mark {
    /// Every session of a task.
    Task(TaskId),
    /// One session.
    Credential(CredentialId),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(id) => id.fmt(f),
            Self::Credential(id) => id.fmt(f),
        }
    }
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let task = text.parse().ok().map(Self::Task);
        task.or_else(|| text.parse().ok().map(Self::Credential))
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Task(_) => Kind::Task,
            Self::Credential(_) => Kind::Credential,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Task,
    Credential,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Task, Self::Credential];

    fn condition_key(self) -> String {
        let tag = match self {
            Self::Task => TASK_TAG,
            Self::Credential => CREDENTIAL_TAG,
        };
        format!("aws:PrincipalTag/{tag}")
    }
}

/// One id.
#[derive(Debug, Clone)]
struct Entry {
    /// The agent of its task; `None` if the document that it comes from does not tell.
    agent: Option<AgentName>,
    /// It is needed until then.
    expires: Timestamp,
    /// Another id's `Sid` may keep it in the document until then. It is remembered so that the next
    /// read does not take it for another broker's.
    remembered: Timestamp,
    added: Timestamp,
}

/// The agents of a window. If there are none, the window denies the sessions of any agent.
type Agents = BTreeSet<AgentName>;

/// A folded window: the beginning of the ids in it.
type WindowKey = (Kind, Agents, String);

#[derive(Debug, Clone, Copy)]
struct Window {
    expires: Timestamp,
    /// AWS denies sessions issued before then.
    cutoff: Timestamp,
}

/// How far a list is folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Windows of time, beside exact ids.
    pub(crate) all: usize,
    /// The part of them that denies older sessions of any agent.
    pub(crate) of_any_agent: usize,
}

/// The list in memory.
#[derive(Debug, Default, Clone)]
pub(crate) struct DenyList {
    exact: BTreeMap<Mark, Entry>,
    windows: BTreeMap<WindowKey, Window>,
}

impl DenyList {
    /// Denies `mark` of an agent; its last session ends at `session_end` at the latest. `now` may
    /// be late, never early: a later folding covers the sessions issued before it.
    pub(crate) fn add(
        &mut self,
        agent: &AgentName,
        mark: Mark,
        session_end: Timestamp,
        now: Timestamp,
    ) {
        let expires = session_end.plus(CLOCK_MARGIN);
        let entry = self.exact.entry(mark).or_insert_with(|| Entry {
            agent: None,
            expires,
            remembered: expires,
            added: now,
        });
        entry.agent.get_or_insert_with(|| agent.clone());
        entry.expires = entry.expires.max(expires);
        entry.remembered = entry.remembered.max(expires);
    }

    /// Takes over the ids in the role's policy, which may come from another broker or from before a
    /// restart. Returns false if the text is not a policy document. `now` may be late, never early.
    pub(crate) fn merge(&mut self, document: &str, now: Timestamp) -> bool {
        let Some(statements) = statements(document) else {
            return false;
        };
        for statement in &statements {
            self.merge_statement(statement, now);
        }
        true
    }

    fn merge_statement(&mut self, statement: &Value, now: Timestamp) {
        let latest = now.plus(SESSION_MAX).plus(CLOCK_MARGIN);
        let until = sid_until(statement).unwrap_or(latest).min(latest);
        let conditions = statement.get("Condition");
        let named = values(conditions, AGENT_OPERATOR, &agent_key());
        let agents: Agents = named.iter().filter_map(|name| name.parse().ok()).collect();
        let only = agents.first().filter(|_| agents.len() == 1);
        for kind in Kind::ALL {
            for text in values(conditions, "StringEquals", &kind.condition_key()) {
                // Other values are no tags, such as the placeholder of an empty list.
                let Some(mark) = Mark::parse(&text) else {
                    continue;
                };
                let entry = self.exact.entry(mark).or_insert_with(|| Entry {
                    agent: None,
                    expires: until,
                    remembered: until,
                    added: now,
                });
                entry.remembered = entry.remembered.max(until);
                entry.agent = entry.agent.take().or_else(|| only.cloned());
            }
            let cutoff = values(conditions, "DateLessThan", "aws:TokenIssueTime")
                .first()
                .and_then(|time| time.parse().ok())
                .unwrap_or_else(|| now.plus(IN_FLIGHT_MARGIN));
            for text in values(conditions, "StringLike", &kind.condition_key()) {
                let Some(beginning) = text.strip_suffix('*') else {
                    continue;
                };
                let fresh = Window {
                    expires: until,
                    cutoff,
                };
                let key = (kind, agents.clone(), beginning.to_owned());
                let window = self.windows.entry(key).or_insert(fresh);
                // Another broker may have folded longer-lived ids into a window of the same name.
                window.expires = window.expires.max(until);
                window.cutoff = window.cutoff.max(cutoff);
            }
        }
    }

    /// Removes ids that are not needed any more at `now`, which may be early, never late.
    pub(crate) fn prune(&mut self, now: Timestamp) {
        self.exact.retain(|_, entry| entry.remembered > now);
        self.windows.retain(|_, window| window.expires > now);
    }

    /// The policy document, folded to at most `characters_max`. `now` may be early, never late.
    pub(crate) fn document(&mut self, now: Timestamp, characters_max: usize) -> String {
        let document = self.render(now);
        if document.len() <= characters_max {
            return document;
        }
        self.fold(now, characters_max)
    }

    /// The windows on the list.
    pub(crate) fn windows(&self) -> Windows {
        let of_any = self
            .windows
            .keys()
            .filter(|(_, agents, _)| agents.is_empty());
        Windows {
            all: self.windows.len(),
            of_any_agent: of_any.count(),
        }
    }

    /// Whether the list denies no session.
    pub(crate) fn is_empty(&self, now: Timestamp) -> bool {
        self.windows.is_empty() && !self.exact.values().any(|entry| entry.expires > now)
    }

    /// The ids of known agents, and until when they are needed.
    pub(crate) fn attributed(&self) -> impl Iterator<Item = (&AgentName, Mark, Timestamp)> {
        let exact = self.exact.iter();
        exact.filter_map(|(mark, entry)| Some((entry.agent.as_ref()?, *mark, entry.expires)))
    }

    /// How much of the list is of no known agent: ids from a document that does not tell, and
    /// windows for any agent.
    pub(crate) fn unattributed(&self) -> usize {
        let of_none = self.exact.values().filter(|entry| entry.agent.is_none());
        of_none.count() + self.windows().of_any_agent
    }
}

#[cfg(test)]
mod tests;
