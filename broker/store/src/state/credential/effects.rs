//! What each of a credential's steps makes of it.

use std::sync::Arc;

use taskpass_core::{
    Credential, CredentialId, CredentialState, CredentialStep, Revocation, RevokeCause, Timestamp,
};

use crate::{
    Conflict, Subject,
    state::{Change, Effects, State, refusal::missing},
};

impl State {
    pub(in crate::state) fn credential_effects(
        &self,
        id: CredentialId,
        step: &CredentialStep<'_>,
        time: Timestamp,
    ) -> Result<Effects, Conflict> {
        let credential = if let CredentialStep::Intended { credential, .. } = step {
            (*credential).clone()
        } else {
            let before = self.credentials.get(&id);
            let before = before.ok_or_else(|| missing("credential", &id))?;
            advance(before.as_ref().clone(), step, time)
        };
        let task = credential.task;
        let effects =
            Effects::of([Change::Credential(id, Some(Arc::new(credential)))]).about([task]);
        let renewal = |expires_at| Subject::Renewal {
            credential: id,
            expires_at,
        };
        let (key, subject) = match step {
            CredentialStep::Intended { idempotency, .. } => (*idempotency, Subject::Credential(id)),
            CredentialStep::RenewIntended { idempotency, .. } => (*idempotency, renewal(None)),
            CredentialStep::Renewed {
                idempotency,
                expires_at,
            } => (*idempotency, renewal(Some(*expires_at))),
            CredentialStep::Issued { .. }
            | CredentialStep::Abandoned { .. }
            | CredentialStep::Revoking { .. }
            | CredentialStep::RevokeFailed { .. }
            | CredentialStep::Revoked { .. }
            | CredentialStep::Expired => return Ok(effects),
        };
        Ok(effects.remember(key, Some(task), time, subject))
    }
}

/// The credential after a step that follows its intent.
fn advance(mut credential: Credential, step: &CredentialStep<'_>, time: Timestamp) -> Credential {
    match *step {
        // It is the first step, and makes the credential.
        CredentialStep::Intended { .. } => {}
        CredentialStep::Issued {
            expires_at,
            revocation_class,
            anchor,
            handle,
        } => {
            credential.record_issued(time, expires_at);
            credential.revocation_class = revocation_class;
            credential.anchor = anchor.or(credential.anchor);
            credential.handle = handle.cloned().or_else(|| credential.handle.take());
        }
        CredentialStep::RenewIntended { until, .. } => {
            credential.record_renewal_asked(until);
        }
        CredentialStep::Renewed { expires_at, .. } => {
            credential.record_renewed(expires_at);
        }
        CredentialStep::Revoking { cause } => {
            credential.state = CredentialState::Revoking;
            credential.revocation = Some(Box::new(new_revocation(cause, time)));
        }
        CredentialStep::RevokeFailed {
            attempt,
            error,
            retry_at,
            stuck,
        } => {
            if let Some(revocation) = &mut credential.revocation {
                revocation.attempts = attempt;
                revocation.last_error = Some(error.to_owned());
                revocation.retry_at = retry_at;
                revocation.stuck = stuck;
            }
        }
        CredentialStep::Abandoned { reason } => {
            finish(
                &mut credential,
                CredentialState::Abandoned,
                time,
                Some(reason),
            );
        }
        CredentialStep::Revoked {
            verified,
            proof,
            may_live_until,
            identity_until,
        } => {
            let state = if verified {
                CredentialState::RevokedVerified
            } else {
                CredentialState::RevokedUnverified
            };
            finish(&mut credential, state, time, Some(proof));
            if let Some(revocation) = &mut credential.revocation {
                revocation.may_live_until = may_live_until;
                revocation.identity_until = identity_until;
            }
        }
        CredentialStep::Expired => finish(&mut credential, CredentialState::Expired, time, None),
    }
    credential
}

const fn new_revocation(cause: RevokeCause, since: Timestamp) -> Revocation {
    Revocation {
        cause,
        since,
        attempts: 0,
        retry_at: since,
        last_error: None,
        stuck: false,
        done_at: None,
        proof: None,
        may_live_until: None,
        identity_until: None,
    }
}

/// Moves a credential into a final state.
fn finish(
    credential: &mut Credential,
    state: CredentialState,
    time: Timestamp,
    proof: Option<&str>,
) {
    credential.state = state;
    if let Some(revocation) = &mut credential.revocation {
        revocation.done_at = Some(time);
        if let Some(proof) = proof {
            revocation.proof = Some(proof.to_owned());
        }
    }
}
