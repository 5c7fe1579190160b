//! The life of a credential: which of its events may follow where it stands, and what each makes of it.

use std::sync::Arc;

use taskpass_core::{
    AnchorId, Credential, CredentialId, CredentialState, Event, Revocation, TaskId, Timestamp,
    limits,
};

use super::{
    Change, Effects, History, State,
    admit::{gone, invalid, kind, small_handle, unused, wrong},
    apply::missing,
};
use crate::{CommitError, Conflict, Subject};

impl State {
    /// Whether a provider may be asked for this new credential.
    pub(super) fn admit_intent(
        &self,
        event: &Event,
        credential: &Credential,
        now: Timestamp,
        history: &dyn History,
    ) -> Result<(), CommitError> {
        self.task_open(credential.task, now)
            .map_err(CommitError::Guard)?;
        let alive = self.credentials.contains_key(&credential.id);
        let before = history.knew_credential(credential.id);
        unused("credential", &credential.id, alive, before)?;
        let Some(node) = self.tasks.get(&credential.task) else {
            return Err(gone("task", &credential.task));
        };
        let refuse = |reason: &str| Err(invalid(kind(event), reason));
        if credential.state != CredentialState::Intended
            || credential.issued_at.is_some()
            || credential.revocation.is_some()
            || credential.renewals_unanswered != 0
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
        credential.handle.as_ref().map_or(Ok(()), small_handle)
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
    pub(super) fn admit_step(
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
            (Event::CredentialExpired { .. }, Active | Revoking) => {
                credential.expires_at <= now && credential.renewals_unanswered == 0
            }
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
                handle.as_ref().map_or(Ok(()), small_handle)?;
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

    /// The credential after one of its own events.
    pub(super) fn credential_event(
        &self,
        id: CredentialId,
        event: &Event,
        time: Timestamp,
    ) -> Result<Effects, Conflict> {
        let before = self
            .credentials
            .get(&id)
            .ok_or_else(|| missing("credential", &id))?;
        let mut credential = before.as_ref().clone();
        advance(&mut credential, event, time);
        let task = credential.task;
        let effects = Effects::of([Change::Credential(id, Some(Arc::new(credential)))]).about(task);
        let (key, expires_at) = match event {
            Event::CredentialRenewIntended { idempotency, .. } => (idempotency.as_ref(), None),
            Event::CredentialRenewed {
                idempotency,
                expires_at,
                ..
            } => (idempotency.as_ref(), Some(*expires_at)),
            _ => return Ok(effects),
        };
        let renewal = Subject::Renewal {
            credential: id,
            expires_at,
        };
        Ok(effects.remember_in(Some(task), key, time, renewal))
    }
}

/// Moves a credential on by one of its own events.
fn advance(credential: &mut Credential, event: &Event, time: Timestamp) {
    match event {
        Event::CredentialIssued {
            expires_at,
            revocation_class,
            anchor,
            handle,
            ..
        } => {
            // Its task may have ended while the provider worked: then it stays to be revoked, now findable.
            if credential.state == CredentialState::Intended {
                credential.state = CredentialState::Active;
            }
            credential.issued_at = Some(time);
            lives_until(credential, *expires_at);
            credential.revocation_class = *revocation_class;
            credential.anchor = anchor.or(credential.anchor);
            credential.handle = handle.clone().or_else(|| credential.handle.take());
        }
        Event::CredentialRenewIntended { until, .. } => {
            let asked = credential
                .asked_until
                .unwrap_or(credential.expires_at)
                .max(*until);
            credential.expires_at = credential.expires_at.max(asked);
            credential.asked_until = (credential.expires_at > asked).then_some(asked);
            credential.renewals_unanswered = credential.renewals_unanswered.saturating_add(1);
        }
        Event::CredentialRenewed { expires_at, .. } => {
            lives_until(credential, *expires_at);
            credential.renewals_unanswered = credential.renewals_unanswered.saturating_sub(1);
        }
        _ => take_back(credential, event, time),
    }
}

/// The provider lets it live until then; what was asked for is kept where that is less.
fn lives_until(credential: &mut Credential, end: Timestamp) {
    let asked = credential.asked_until.unwrap_or(credential.expires_at);
    credential.expires_at = end;
    credential.asked_until = (end > asked.plus(limits::EXPIRY_SLACK)).then_some(asked);
}

/// Moves a credential on its way out.
fn take_back(credential: &mut Credential, event: &Event, time: Timestamp) {
    match event {
        Event::CredentialRevoking { cause, .. } => {
            credential.state = CredentialState::Revoking;
            credential.revocation = Some(Revocation {
                cause: *cause,
                since: time,
                attempts: 0,
                retry_at: time,
                last_error: None,
                stuck: false,
                done_at: None,
                proof: None,
                may_live_until: None,
            });
        }
        Event::RevokeFailed {
            attempt,
            error,
            retry_at,
            stuck,
            ..
        } => {
            if let Some(revocation) = &mut credential.revocation {
                revocation.attempts = *attempt;
                revocation.last_error = Some(error.clone());
                revocation.retry_at = *retry_at;
                revocation.stuck = *stuck;
            }
        }
        Event::CredentialAbandoned { reason, .. } => {
            credential.state = CredentialState::Abandoned;
            if let Some(revocation) = &mut credential.revocation {
                revocation.done_at = Some(time);
                revocation.proof = Some(reason.clone());
            }
        }
        Event::CredentialRevoked {
            verified,
            proof,
            may_live_until,
            ..
        } => {
            credential.state = if *verified {
                CredentialState::RevokedVerified
            } else {
                CredentialState::RevokedUnverified
            };
            if let Some(revocation) = &mut credential.revocation {
                revocation.done_at = Some(time);
                revocation.proof = Some(proof.clone());
                revocation.may_live_until = *may_live_until;
            }
        }
        Event::CredentialExpired { .. } => {
            credential.state = CredentialState::Expired;
            if let Some(revocation) = &mut credential.revocation {
                revocation.done_at = Some(time);
            }
        }
        _ => {}
    }
}
