//! Which of a credential's steps may follow where it stands.

use std::collections::BTreeMap;

use taskpass_core::{
    AnchorId, AnchorKey, Credential, CredentialId, CredentialState, CredentialStep, ProviderName,
    TaskId, Timestamp,
};

use super::CREDENTIAL;
use crate::{
    GuardFailure,
    state::{
        State,
        refusal::{Refusal, invalid, missing, small_handle, unused, wrong},
        table::{UsedId, UsedIds},
    },
};

impl State {
    pub(in crate::state) fn admit_credential(
        &self,
        id: CredentialId,
        step: &CredentialStep<'_>,
        now: Timestamp,
        used: &dyn UsedIds,
    ) -> Result<(), Refusal> {
        if let CredentialStep::Intended { credential, .. } = step {
            return self.admit_intent(credential, now, used);
        }
        let credential = self.credentials.get(&id);
        let credential = credential.ok_or_else(|| missing("credential", &id))?;
        if !fits(step, credential, now) {
            return wrong(format!("credential `{id}`"), credential.shown_state());
        }
        self.admit_content(step, credential, now)
    }

    /// Checks whether a provider may be asked for this new credential.
    fn admit_intent(
        &self,
        credential: &Credential,
        now: Timestamp,
        used: &dyn UsedIds,
    ) -> Result<(), Refusal> {
        self.agent_active(&credential.agent)?;
        self.task_open(credential.task, now)?;
        let id = UsedId::new(CREDENTIAL, &credential.id);
        let is_alive = self.credentials.contains_key(&credential.id);
        unused("credential", &id, is_alive, used)?;
        let Some(node) = self.tasks.get(&credential.task) else {
            return Err(missing("task", &credential.task).into());
        };
        if !credential.is_intent() {
            return invalid("a new credential is intended and nothing more");
        }
        if node.task.agent != credential.agent {
            return invalid("the task is another agent's");
        }
        match node.task.roles.get(&credential.role) {
            None => return invalid("the task may not draw on this role"),
            Some(pins) if !credential.scope.is_within(pins) => {
                return invalid("the scope leaves a parameter free that the task fixes");
            }
            Some(_) => {}
        }
        self.own_anchor(credential.task, credential.anchor)?;
        small_handle(credential.handle.as_ref())
    }

    fn own_anchor(&self, task: TaskId, anchor: Option<AnchorId>) -> Result<(), Refusal> {
        let is_own = |id: &AnchorId| self.anchors.get(id).is_some_and(|a| a.task == task);
        if anchor.as_ref().is_none_or(is_own) {
            return Ok(());
        }
        invalid("the anchor is not one of the task's")
    }

    fn admit_content(
        &self,
        step: &CredentialStep<'_>,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        match step {
            CredentialStep::Issued { anchor, handle, .. } => {
                self.own_anchor(credential.task, *anchor)?;
                small_handle(*handle)
            }
            CredentialStep::RenewIntended { .. } => {
                self.agent_active(&credential.agent)?;
                Ok(self.task_open(credential.task, now)?)
            }
            CredentialStep::RevokeFailed { attempt, .. } => {
                let so_far = credential.revocation.as_ref().map_or(0, |r| r.attempts);
                if *attempt != so_far.saturating_add(1) {
                    return invalid("its number does not follow the attempts before");
                }
                Ok(())
            }
            CredentialStep::Revoked {
                verified: true,
                proof,
                may_live_until,
                identity_until: _,
            } => {
                if may_live_until.is_some() {
                    return invalid("what is proven dead cannot live on");
                }
                if proof.trim().is_empty() {
                    return invalid("there is no proof that it is dead");
                }
                Ok(())
            }
            CredentialStep::Intended { .. }
            | CredentialStep::Abandoned { .. }
            | CredentialStep::Renewed { .. }
            | CredentialStep::Revoking { .. }
            | CredentialStep::Revoked {
                verified: false, ..
            }
            | CredentialStep::Expired => Ok(()),
        }
    }

    /// Refuses to use an anchor that is about to be ended for a credential in doubt: the new
    /// credential would die with it. A credential in doubt is dead only when the anchor is that it
    /// may have been issued through.
    pub(in crate::state) fn nothing_in_doubt(
        &self,
        task: TaskId,
        provider: &ProviderName,
        key: Option<AnchorKey>,
    ) -> Result<(), GuardFailure> {
        let (Some(node), Some(revoking)) = (self.tasks.get(&task), self.retries.get(provider))
        else {
            return Ok(());
        };
        let anchors = self.live_anchors_of(node);
        // The oldest anchor of each key through which the new credential may be issued.
        let mut usable = BTreeMap::new();
        for anchor in anchors {
            if anchor.provider == *provider && AnchorKey::may_match(key, anchor.key) {
                let oldest = usable.entry(anchor.key).or_insert(anchor.recorded_at);
                *oldest = anchor.recorded_at.min(*oldest);
            }
        }
        if usable.is_empty() {
            return Ok(());
        }
        // An anchor that was made after the doubt began has nothing to do with it.
        let ends_one = |c: &Credential| {
            usable.iter().any(|(key, oldest)| {
                AnchorKey::may_match(c.anchor_key, *key) && c.asked_at_latest() >= *oldest
            })
        };
        let is_in_doubt = |id: &CredentialId| {
            self.credentials.get(id).is_some_and(|c| {
                c.task == task && c.role.provider() == provider && c.in_doubt() && ends_one(c)
            })
        };
        // The shorter of the two is searched: a task may hold thousands of credentials, and
        // thousands may wait for a provider that is down.
        let in_doubt = if revoking.len() < node.credentials.len() {
            revoking.iter().any(|(_, id)| is_in_doubt(id))
        } else {
            node.credentials.iter().any(is_in_doubt)
        };
        if in_doubt {
            return Err(GuardFailure::InDoubt {
                task,
                provider: provider.clone(),
            });
        }
        Ok(())
    }

    pub(in crate::state) fn credential_in(
        &self,
        id: CredentialId,
        states: &[CredentialState],
    ) -> Result<(), GuardFailure> {
        match self.credentials.get(&id) {
            None => Err(GuardFailure::CredentialGone(id)),
            Some(c) if states.contains(&c.state) => Ok(()),
            Some(c) => Err(GuardFailure::CredentialState(id, c.shown_state())),
        }
    }
}

/// Whether the step may follow the state of the credential.
fn fits(step: &CredentialStep<'_>, credential: &Credential, now: Timestamp) -> bool {
    use CredentialState::{Active, Intended, Revoking};
    let is = credential.state;
    let has_outcome = credential.is_issued();
    match step {
        // An id is given out once, and this credential has it.
        CredentialStep::Intended { .. } => false,
        CredentialStep::Issued { .. } | CredentialStep::Abandoned { .. } => {
            matches!(is, Intended | Revoking) && !has_outcome
        }
        CredentialStep::RenewIntended { .. } => is == Active,
        CredentialStep::Renewed { .. } => matches!(is, Active | Revoking) && has_outcome,
        CredentialStep::Revoking { .. } => matches!(is, Intended | Active),
        CredentialStep::RevokeFailed { .. } | CredentialStep::Revoked { .. } => is == Revoking,
        CredentialStep::Expired => matches!(is, Active | Revoking) && !credential.may_outlive(now),
    }
}
