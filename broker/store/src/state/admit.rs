//! Whether an event may happen now: the rules of what follows what. Those of delegation, SVIDs and credentials have
//! files of their own.

use taskpass_core::{
    Agent, Anchor, AnchorId, AnchorState, CredentialId, Event, Handle, IdempotencyKey, JoinToken,
    TaskId, TaskState, Timestamp, limits,
};

use super::{State, apply::missing, key_hash};
use crate::{CommitError, Conflict};

/// Which identifiers were used by what has left the state.
pub(crate) trait History {
    /// Whether a task of this id ever was; the error is why that cannot be said.
    fn knew_task(&self, id: TaskId) -> Result<bool, String>;
    /// Whether a credential of this id ever was.
    fn knew_credential(&self, id: CredentialId) -> Result<bool, String>;
    /// Whether an anchor of this id ever was.
    fn knew_anchor(&self, id: AnchorId) -> Result<bool, String>;
}

impl State {
    /// Checks that `event` may happen at `time`, which is not before any earlier event's.
    pub(crate) fn admit(
        &self,
        event: &Event,
        time: Timestamp,
        history: &dyn History,
    ) -> Result<(), CommitError> {
        self.admit_in_place(event)?;
        self.unused_key(new_key(event), time)?;
        match event {
            Event::Initialized { .. }
            | Event::BrokerStarted { .. }
            | Event::BrokerStopped {}
            | Event::IndexRebuilt { .. }
            | Event::CaChanged { .. }
            | Event::Decided { .. } => Ok(()),
            Event::AgentRegistered { agent, .. } => self.admit_agent(agent),
            Event::JoinTokenCreated { token, .. } => self.admit_token(token),
            Event::SvidIssued { .. }
            | Event::OperatorSvidIssued { .. }
            | Event::SvidActivated { .. } => self.admit_svid_event(event, time),
            Event::TaskStarted { task, .. } => {
                let alive = self.tasks.contains_key(&task.id);
                unused("task", &task.id, alive, history.knew_task(task.id))?;
                self.admit_task(task, time).map_err(CommitError::Conflict)
            }
            Event::TaskEnding { task, .. } => self.in_state(event, *task, TaskState::Open),
            Event::TaskEnded { task } => self.admit_end(event, *task),
            Event::AnchorRecorded { anchor } => self.admit_anchor(event, anchor, history),
            Event::AnchorGone { anchor } => self.admit_anchor_gone(event, *anchor),
            Event::CredentialIntended { credential, .. } => {
                self.admit_intent(event, credential, time, history)
            }
            Event::CredentialIssued { credential, .. }
            | Event::CredentialAbandoned { credential, .. }
            | Event::CredentialRenewIntended { credential, .. }
            | Event::CredentialRenewed { credential, .. }
            | Event::CredentialRevoking { credential, .. }
            | Event::RevokeFailed { credential, .. }
            | Event::CredentialRevoked { credential, .. }
            | Event::CredentialExpired { credential } => self.admit_step(event, *credential, time),
        }
    }

    /// The installation is made once, first.
    fn admit_in_place(&self, event: &Event) -> Result<(), CommitError> {
        let made = self.trust_domain.is_some();
        match (event, made) {
            (Event::Initialized { .. }, true) => Err(exists("the installation", &"ledger")),
            (Event::Initialized { .. }, false) | (_, true) => Ok(()),
            (_, false) => Err(wrong(event, "the ledger".to_owned(), "empty")),
        }
    }

    /// A repeated request is told so before anything else, whatever became of the state since.
    pub(crate) fn unused_keys(&self, events: &[Event], now: Timestamp) -> Result<(), CommitError> {
        let mut keys = events.iter().map(new_key);
        keys.try_for_each(|key| self.unused_key(key, now))
    }

    fn unused_key(&self, key: Option<&IdempotencyKey>, now: Timestamp) -> Result<(), CommitError> {
        let Some(key) = key else { return Ok(()) };
        match self.remembered(&key_hash(&key.caller, &key.key), now) {
            None => Ok(()),
            Some(before) => Err(CommitError::Duplicate {
                same_request: *before.request_sha256 == *key.request_sha256,
                record: before.record(),
            }),
        }
    }

    fn admit_agent(&self, agent: &Agent) -> Result<(), CommitError> {
        if self.knows_agent(&agent.name) {
            return Err(exists("agent", &agent.name));
        }
        Ok(())
    }

    fn admit_token(&self, token: &JoinToken) -> Result<(), CommitError> {
        if !self.knows_agent(&token.agent) {
            return Err(gone("agent", &token.agent));
        }
        if self.tokens.contains_key(&token.id) {
            return Err(exists("join token", &token.id));
        }
        Ok(())
    }

    fn in_state(&self, event: &Event, task: TaskId, state: TaskState) -> Result<(), CommitError> {
        let node = self.tasks.get(&task).ok_or_else(|| gone("task", &task))?;
        if node.task.state == state {
            return Ok(());
        }
        Err(wrong(
            event,
            format!("task `{task}`"),
            node.task.state.as_str(),
        ))
    }

    fn admit_end(&self, event: &Event, task: TaskId) -> Result<(), CommitError> {
        self.in_state(event, task, TaskState::Ending)?;
        if self.finished.contains(&task) {
            return Ok(());
        }
        let what = format!("task `{task}`");
        Err(wrong(event, what, "still holding something alive"))
    }

    fn admit_anchor(
        &self,
        event: &Event,
        anchor: &Anchor,
        history: &dyn History,
    ) -> Result<(), CommitError> {
        // Also in an ending task: a session that was made must be on record to be revoked.
        if !self.tasks.contains_key(&anchor.task) {
            return Err(gone("task", &anchor.task));
        }
        let alive = self.anchors.contains_key(&anchor.id);
        unused("anchor", &anchor.id, alive, history.knew_anchor(anchor.id))?;
        if anchor.state != AnchorState::Live {
            return Err(invalid(kind(event), "a new anchor is live"));
        }
        small_handle(&anchor.handle)
    }

    fn admit_anchor_gone(&self, event: &Event, id: AnchorId) -> Result<(), CommitError> {
        let anchor = self.anchors.get(&id).ok_or_else(|| gone("anchor", &id))?;
        if anchor.state == AnchorState::Live {
            return Ok(());
        }
        Err(wrong(event, format!("anchor `{id}`"), "gone"))
    }
}

/// An id names one thing for good: neither what is alive nor, as far as history can tell, what was.
pub(super) fn unused(
    what: &str,
    id: &dyn std::fmt::Display,
    alive: bool,
    before: Result<bool, String>,
) -> Result<(), CommitError> {
    if alive || before.map_err(CommitError::Unavailable)? {
        return Err(exists(what, id));
    }
    Ok(())
}

/// A provider's handle is of bounded size.
pub(super) fn small_handle(handle: &Handle) -> Result<(), CommitError> {
    if handle.bytes() > limits::HANDLE_BYTES_MAX {
        return Err(CommitError::TooLarge(format!(
            "the provider's handle has more than {} bytes",
            limits::HANDLE_BYTES_MAX
        )));
    }
    Ok(())
}

pub(super) fn exists(what: &str, id: &dyn std::fmt::Display) -> CommitError {
    CommitError::Conflict(Conflict::Exists(format!("{what} `{id}`")))
}

pub(super) fn gone(what: &str, id: &dyn std::fmt::Display) -> CommitError {
    CommitError::Conflict(missing(what, id))
}

pub(super) fn wrong(event: &Event, what: String, state: &'static str) -> CommitError {
    CommitError::Conflict(Conflict::WrongState {
        what,
        state,
        event: kind(event),
    })
}

pub(super) fn invalid(event: &'static str, reason: &str) -> CommitError {
    CommitError::Conflict(Conflict::Invalid {
        event,
        reason: reason.to_owned(),
    })
}

/// The idempotency key that an event uses up. The answer to a renewal carries its request's, which is used by then.
const fn new_key(event: &Event) -> Option<&IdempotencyKey> {
    match event {
        Event::AgentRegistered { idempotency, .. }
        | Event::JoinTokenCreated { idempotency, .. }
        | Event::TaskStarted { idempotency, .. }
        | Event::CredentialIntended { idempotency, .. }
        | Event::CredentialRenewIntended { idempotency, .. } => idempotency.as_ref(),
        _ => None,
    }
}

/// The event's type as the ledger spells it.
pub(crate) const fn kind(event: &Event) -> &'static str {
    match event {
        Event::Initialized { .. } => "initialized",
        Event::BrokerStarted { .. } => "broker_started",
        Event::BrokerStopped {} => "broker_stopped",
        Event::IndexRebuilt { .. } => "index_rebuilt",
        Event::CaChanged { .. } => "ca_changed",
        Event::AgentRegistered { .. } => "agent_registered",
        Event::JoinTokenCreated { .. } => "join_token_created",
        Event::SvidIssued { .. } => "svid_issued",
        Event::OperatorSvidIssued { .. } => "operator_svid_issued",
        Event::SvidActivated { .. } => "svid_activated",
        Event::Decided { .. } => "decided",
        Event::TaskStarted { .. } => "task_started",
        Event::TaskEnding { .. } => "task_ending",
        Event::TaskEnded { .. } => "task_ended",
        Event::AnchorRecorded { .. } => "anchor_recorded",
        Event::AnchorGone { .. } => "anchor_gone",
        Event::CredentialIntended { .. } => "credential_intended",
        Event::CredentialIssued { .. } => "credential_issued",
        Event::CredentialAbandoned { .. } => "credential_abandoned",
        Event::CredentialRenewIntended { .. } => "credential_renew_intended",
        Event::CredentialRenewed { .. } => "credential_renewed",
        Event::CredentialRevoking { .. } => "credential_revoking",
        Event::RevokeFailed { .. } => "revoke_failed",
        Event::CredentialRevoked { .. } => "credential_revoked",
        Event::CredentialExpired { .. } => "credential_expired",
    }
}
