//! Tasks: the only parent of credentials.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{AgentName, Labels, RoleName, Scope, TaskId, Text, Timestamp, Ttl};

/// The requester, who set the purpose of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Requester {
    /// The agent itself; no other party vouches for it.
    SelfDeclared {
        /// The requester that the agent names, if it names one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Text>,
    },
    /// The agent of the parent task.
    Delegated {
        /// The delegating task.
        parent: TaskId,
    },
}

impl Requester {
    /// Whether only the agent itself vouches for the purpose. A child task inherits that: only the
    /// agent of a task delegates from it, so an agent that delegates to itself vouches for nothing
    /// more than before.
    pub const fn is_self_declared(&self) -> bool {
        match self {
            Self::SelfDeclared { .. } | Self::Delegated { .. } => true,
        }
    }
}

/// Why a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The agent said it is done.
    Completed,
    /// The agent or an operator cancelled it.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// No heartbeat came in time.
    HeartbeatLost,
    /// Its parent ended.
    ParentEnded,
    /// Its agent was frozen or retired.
    Frozen,
    /// Its agent logged in anew with a join token, which ends everything of the earlier identity.
    IdentityReplaced,
}

impl EndCause {
    /// The word used in the API, the ledger and the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::ParentEnded => "parent_ended",
            Self::Frozen => "frozen",
            Self::IdentityReplaced => "identity_replaced",
        }
    }
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Credentials can be issued.
    Open,
    /// The broker issues no more credentials, and revokes the issued ones.
    Ending,
    /// Every credential has reached its final state.
    Ended,
}

impl TaskState {
    /// The word used in the API, the ledger and the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }
}

/// A piece of work of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Unique name.
    pub id: TaskId,
    /// The agent that works on it.
    pub agent: AgentName,
    /// The purpose of the agent's work.
    pub purpose: Text,
    /// The requester, who set the purpose.
    pub requester: Requester,
    /// The roles it may ask credentials of, each with the scope parameters that are fixed for it.
    pub roles: BTreeMap<RoleName, Scope>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// The longest pause between two heartbeats; `None` when it needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Ttl>,
    /// The task that delegated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// How many delegations lie above it.
    pub depth: u8,
    /// How many live credentials it and the tasks below it may hold together.
    pub max_credentials: u32,
    /// Free labels.
    #[serde(default)]
    pub labels: Labels,
    /// Where it stands.
    pub state: TaskState,
    /// Why it ended, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_cause: Option<EndCause>,
    /// When ending began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending_at: Option<Timestamp>,
    /// When the last credential reached its final state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

impl Task {
    /// How much of its life is left at `now`.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.deadline.since(now)
    }
}
