//! Whether an event may happen now: the rules of what follows what.

use taskpass_core::{
    Anchor, AnchorId, AnchorState, Credential, CredentialId, CredentialState, Event,
    IdempotencyKey, JoinTokenId, Svid, SvidState, TaskId, TaskState, Timestamp, limits,
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
        match event {
            Event::Initialized { .. }
            | Event::BrokerStarted { .. }
            | Event::BrokerStopped {}
            | Event::IndexRebuilt { .. }
            | Event::CaChanged { .. }
            | Event::OperatorSvidIssued { .. }
            | Event::Decided { .. } => {}
            Event::AgentRegistered { agent, idempotency } => {
                self.unused_key(idempotency.as_ref(), time)?;
                if self.knows_agent(&agent.name) {
                    return Err(exists("agent", &agent.name));
                }
            }
            Event::JoinTokenCreated { token } => {
                if !self.knows_agent(&token.agent) {
                    return Err(gone("agent", &token.agent));
                }
                if self.tokens.contains_key(&token.id) {
                    return Err(exists("join token", &token.id));
                }
            }
            Event::SvidIssued {
                svid,
                join_token,
                renews,
            } => self.admit_svid(svid, *join_token, renews.as_deref(), time)?,
            Event::SvidActivated { serial } => {
                let svid = self
                    .live_svid(serial, time)
                    .ok_or_else(|| gone("SVID", serial))?;
                if svid.state != SvidState::Pending {
                    return Err(wrong(event, format!("SVID `{serial}`"), "active"));
                }
            }
            Event::TaskStarted { task, idempotency } => {
                self.unused_key(idempotency.as_ref(), time)?;
                let used = history
                    .knew_task(task.id)
                    .map_err(CommitError::Unavailable)?;
                if used || self.tasks.contains_key(&task.id) {
                    return Err(exists("task", &task.id));
                }
                self.admit_task(task, time).map_err(CommitError::Conflict)?;
            }
            Event::TaskEnding { task, .. } => self.in_state(event, *task, TaskState::Open)?,
            Event::TaskEnded { task } => {
                self.in_state(event, *task, TaskState::Ending)?;
                if !self.finished.contains(task) {
                    let what = format!("task `{task}`");
                    return Err(wrong(event, what, "still holding something alive"));
                }
            }
            Event::AnchorRecorded { anchor } => self.admit_anchor(event, anchor, history)?,
            Event::AnchorGone { anchor: id } => {
                let anchor = self.anchors.get(id).ok_or_else(|| gone("anchor", id))?;
                if anchor.state != AnchorState::Live {
                    return Err(wrong(event, format!("anchor `{id}`"), "gone"));
                }
            }
            Event::CredentialIntended {
                credential,
                idempotency,
            } => {
                self.unused_key(idempotency.as_ref(), time)?;
                self.admit_intent(event, credential, time, history)?;
            }
            Event::CredentialIssued { credential, .. }
            | Event::CredentialAbandoned { credential, .. }
            | Event::CredentialRenewIntended { credential, .. }
            | Event::CredentialRenewed { credential, .. }
            | Event::CredentialRevoking { credential, .. }
            | Event::RevokeFailed { credential, .. }
            | Event::CredentialRevoked { credential, .. }
            | Event::CredentialExpired { credential } => {
                self.admit_step(event, *credential, time)?;
            }
        }
        Ok(())
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
        let keys = events.iter().filter_map(|event| match event {
            Event::AgentRegistered { idempotency, .. }
            | Event::TaskStarted { idempotency, .. }
            | Event::CredentialIntended { idempotency, .. } => idempotency.as_ref(),
            _ => None,
        });
        keys.map(Some).try_for_each(|key| self.unused_key(key, now))
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

    fn admit_svid(
        &self,
        svid: &Svid,
        join_token: Option<JoinTokenId>,
        renews: Option<&str>,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        if !self.knows_agent(&svid.agent) {
            return Err(gone("agent", &svid.agent));
        }
        if self.svids.contains_key(&svid.serial) {
            return Err(exists("SVID", &svid.serial));
        }
        if let Some(task) = svid.task {
            self.task_open(task, now).map_err(CommitError::Guard)?;
            if self
                .tasks
                .get(&task)
                .is_none_or(|n| n.task.agent != svid.agent)
            {
                return Err(invalid("svid_issued", "the task is another agent's"));
            }
        }
        if let Some(id) = join_token {
            self.token_unused(id, now).map_err(CommitError::Guard)?;
            if self
                .tokens
                .get(&id)
                .is_none_or(|t| t.token.agent != svid.agent)
            {
                return Err(invalid("svid_issued", "the join token is another agent's"));
            }
        }
        if let Some(serial) = renews {
            let before = self
                .live_svid(serial, now)
                .ok_or_else(|| gone("SVID", &serial))?;
            if before.agent != svid.agent {
                return Err(invalid(
                    "svid_issued",
                    "the SVID it renews is another agent's",
                ));
            }
        }
        if svid.not_after <= now || svid.not_before > svid.not_after {
            return Err(invalid(
                "svid_issued",
                "it has expired or ends before it begins",
            ));
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
        let used = history
            .knew_anchor(anchor.id)
            .map_err(CommitError::Unavailable)?;
        if used || self.anchors.contains_key(&anchor.id) {
            return Err(exists("anchor", &anchor.id));
        }
        if anchor.state != AnchorState::Live {
            return Err(invalid(kind(event), "a new anchor is live"));
        }
        if json_bytes(&anchor.handle) > limits::HANDLE_BYTES_MAX {
            return Err(too_large_handle());
        }
        Ok(())
    }

    fn admit_intent(
        &self,
        event: &Event,
        credential: &Credential,
        now: Timestamp,
        history: &dyn History,
    ) -> Result<(), CommitError> {
        self.task_open(credential.task, now)
            .map_err(CommitError::Guard)?;
        let used = history
            .knew_credential(credential.id)
            .map_err(CommitError::Unavailable)?;
        if used || self.credentials.contains_key(&credential.id) {
            return Err(exists("credential", &credential.id));
        }
        let Some(node) = self.tasks.get(&credential.task) else {
            return Err(gone("task", &credential.task));
        };
        let refuse = |reason: &str| Err(invalid(kind(event), reason));
        if credential.state != CredentialState::Intended
            || credential.issued_at.is_some()
            || credential.revocation.is_some()
        {
            return refuse("a new credential is intended and nothing more");
        }
        if node.task.agent != credential.agent {
            return refuse("the task is another agent's");
        }
        match node.task.roles.get(&credential.role) {
            None => return refuse("the task may not draw on this role"),
            Some(pins) if !credential.scope.is_within(pins) => {
                return refuse("the scope leaves a parameter free that the task fixes");
            }
            Some(_) => {}
        }
        self.own_anchor(event, credential.task, credential.anchor)?;
        match &credential.handle {
            Some(handle) if json_bytes(handle) > limits::HANDLE_BYTES_MAX => {
                Err(too_large_handle())
            }
            _ => Ok(()),
        }
    }

    fn own_anchor(
        &self,
        event: &Event,
        task: TaskId,
        anchor: Option<AnchorId>,
    ) -> Result<(), CommitError> {
        match anchor {
            Some(id) if self.anchors.get(&id).is_none_or(|a| a.task != task) => {
                Err(invalid(kind(event), "the anchor is not one of the task's"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a credential's own event may follow where it stands.
    fn admit_step(
        &self,
        event: &Event,
        id: CredentialId,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        use CredentialState::{Active, Intended, Revoking};
        let credential = self
            .credentials
            .get(&id)
            .ok_or_else(|| gone("credential", &id))?;
        let unanswered = credential.issued_at.is_none();
        let fits = match (event, credential.state) {
            (
                Event::CredentialIssued { .. } | Event::CredentialAbandoned { .. },
                Intended | Revoking,
            ) => unanswered,
            (Event::CredentialRenewIntended { .. }, Active)
            | (Event::CredentialRevoking { .. }, Intended | Active)
            | (Event::RevokeFailed { .. } | Event::CredentialRevoked { .. }, Revoking) => true,
            (Event::CredentialRenewed { .. }, Active | Revoking) => !unanswered,
            (Event::CredentialExpired { .. }, Active | Revoking) => credential.expires_at <= now,
            _ => false,
        };
        if !fits {
            let what = format!("credential `{id}`");
            return Err(wrong(event, what, credential.shown_state()));
        }
        self.admit_step_content(event, credential, now)
    }

    fn admit_step_content(
        &self,
        event: &Event,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        let refuse = |reason: &str| Err(invalid(kind(event), reason));
        match event {
            Event::CredentialIssued { anchor, handle, .. } => {
                self.own_anchor(event, credential.task, *anchor)?;
                if handle
                    .as_ref()
                    .is_some_and(|h| json_bytes(h) > limits::HANDLE_BYTES_MAX)
                {
                    return Err(too_large_handle());
                }
            }
            Event::CredentialRenewIntended { .. } => {
                self.task_open(credential.task, now)
                    .map_err(CommitError::Guard)?;
            }
            Event::RevokeFailed { attempt, .. } => {
                let so_far = credential.revocation.as_ref().map_or(0, |r| r.attempts);
                if *attempt != so_far.saturating_add(1) {
                    return refuse("its number does not follow the attempts before");
                }
            }
            Event::CredentialRevoked {
                verified: true,
                may_live_until: Some(_),
                ..
            } => return refuse("what is proven dead cannot live on"),
            Event::CredentialRevoked {
                verified: true,
                proof,
                ..
            } if proof.trim().is_empty() => return refuse("there is no proof that it is dead"),
            _ => {}
        }
        Ok(())
    }
}

fn json_bytes(value: &serde_json::Value) -> usize {
    value.to_string().len()
}

fn too_large_handle() -> CommitError {
    CommitError::TooLarge(format!(
        "the provider's handle has more than {} bytes",
        limits::HANDLE_BYTES_MAX
    ))
}

fn exists(what: &str, id: &dyn std::fmt::Display) -> CommitError {
    CommitError::Conflict(Conflict::Exists(format!("{what} `{id}`")))
}

fn gone(what: &str, id: &dyn std::fmt::Display) -> CommitError {
    CommitError::Conflict(missing(what, id))
}

fn wrong(event: &Event, what: String, state: &'static str) -> CommitError {
    CommitError::Conflict(Conflict::WrongState {
        what,
        state,
        event: kind(event),
    })
}

fn invalid(event: &'static str, reason: &str) -> CommitError {
    CommitError::Conflict(Conflict::Invalid {
        event,
        reason: reason.to_owned(),
    })
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
