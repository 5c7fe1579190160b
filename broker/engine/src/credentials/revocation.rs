//! Carrying out revocations: one order to the provider for the credentials of one task there.
//!
//! The revoker calls this for every revocation that is due in the ledger, no matter which caller
//! decided it, or which process.

use std::{sync::Arc, time::Duration};

use taskpass_core::{
    Actor, Anchor, AnchorState, Credential, CredentialId, CredentialState, Event, Handle,
    ProviderName, RevokeCause, Task, TaskId, TaskState, Timestamp, limits,
};
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder, RevokeScope, Revoked};

use crate::{Engine, Error, failpoint, providers::RevokePermit};

use super::issue::shortened;

/// The spread, in milliseconds, that is added to a pause that the provider asks for.
const ASKED_SPREAD_MS: u64 = 250;
/// Outcomes in one commit.
const EVENTS_PER_COMMIT: usize = 512;

type Outcome = Result<Revoked, ProviderError>;

/// The outcome of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupOutcome {
    /// Everything is revoked.
    Done,
    /// Some attempts failed; the ledger says when the next is due.
    Failed,
    /// Every credential has its outcome, but an anchor of the task could not be ended. The ledger
    /// has no retry time for that.
    AnchorsLeft(ProviderError),
    /// Nothing could be tried yet, because calls to issue are still being cancelled.
    NotYet,
}

impl Engine {
    /// Revokes the due credentials of one task at one provider, and records each outcome. Without
    /// credentials it ends the task's anchors alone.
    pub(crate) async fn revoke_group(
        &self,
        provider: &ProviderName,
        task: TaskId,
        ids: &[CredentialId],
        permit: RevokePermit,
    ) -> Result<GroupOutcome, Error> {
        let Some(task) = self.context.store.task(task).await? else {
            return Ok(GroupOutcome::Done);
        };
        if task.state != TaskState::Open {
            // The process that ended the task may have died before it cancelled the calls.
            self.in_flight.cancel(task.id);
        }
        let anchors = self.live_anchors(provider, task.id).await?;
        let mut due = self.due(&task, provider, ids, &anchors).await?;
        let ended = task.state != TaskState::Open;
        // An anchor must not end while a call issues through it.
        let ends_anchor = ended || !in_doubt(&due, &anchors).is_empty();
        let still_called = ends_anchor && self.is_still_called(&task, provider, &due).await?;
        if still_called {
            due.retain(|credential| credential.issued_at.is_some());
        }
        if due.is_empty() && (still_called || !ids.is_empty() || anchors.is_empty()) {
            return Ok(GroupOutcome::NotYet);
        }
        let scope = if ended && !still_called {
            RevokeScope::Task
        } else {
            RevokeScope::Credentials
        };
        // A call that ended since then may have recorded one more.
        let anchors = self.live_anchors(provider, task.id).await?;
        let named = match scope {
            RevokeScope::Task => anchors.clone(),
            RevokeScope::Credentials => in_doubt(&due, &anchors),
        };
        let order = order(&task, scope, &due, &anchors, &named);
        let began = self.context.clock.monotonic();
        let outcomes = outcomes(self.order(provider, permit, &order).await, due.len());
        failpoint::reached("revoke.called");
        let took = self.context.clock.monotonic().saturating_sub(began);
        self.record(provider, &due, &outcomes, took).await?;
        failpoint::reached("revoke.recorded");
        let error = outcomes.into_iter().find_map(Result::err);
        let done = error.is_none();
        // Credentials that are not revoked yet may need their anchor: without a known outcome a
        // credential can only be revoked through it.
        if done && order.scope == RevokeScope::Task && !self.holds_more(task.id, provider).await? {
            let gone = anchors
                .iter()
                .map(|anchor| Event::AnchorGone { anchor: anchor.id })
                .collect();
            self.commit_reserved(gone, Vec::new()).await?;
        }
        Ok(match error {
            None => GroupOutcome::Done,
            Some(error) if due.is_empty() => GroupOutcome::AnchorsLeft(error),
            Some(_) => GroupOutcome::Failed,
        })
    }

    async fn order(
        &self,
        provider: &ProviderName,
        permit: RevokePermit,
        order: &RevokeOrder,
    ) -> Result<Vec<Outcome>, ProviderError> {
        match permit.spend() {
            (Some((backend, running)), attempt) => {
                let call = backend.provider().revoke(order);
                backend.revoke(running, attempt, call).await
            }
            (None, attempt) => {
                self.unconfigured
                    .failed(attempt, self.context.clock.monotonic());
                Err(ProviderError::Misconfigured(format!(
                    "provider `{provider}` is no longer configured; put it back so that its credentials can be revoked"
                )))
            }
        }
    }

    /// The credentials that can be revoked now. A credential whose call still runs waits until the
    /// call is cancelled.
    async fn due(
        &self,
        task: &Task,
        provider: &ProviderName,
        ids: &[CredentialId],
        anchors: &[Arc<Anchor>],
    ) -> Result<Vec<Arc<Credential>>, Error> {
        let mut due = Vec::with_capacity(ids.len());
        for id in ids {
            let credential = self.context.store.credential(*id).await?;
            let workable = |c: &Arc<Credential>| {
                c.state == CredentialState::Revoking && !self.in_flight.contains(*id)
            };
            due.extend(credential.filter(workable));
        }
        let ended = task.state != TaskState::Open;
        if ended || due.iter().any(|c| c.issued_at.is_none()) {
            due.extend(self.others_in_doubt(task, provider, &due).await?);
        }
        let anchors = in_doubt(&due, anchors);
        if !ended && !anchors.is_empty() {
            due.extend(self.mark_siblings(task, provider, &anchors).await?);
        }
        Ok(due)
    }

    /// All credentials in doubt are revoked together, whenever each is due: ending an anchor
    /// settles all that were issued through it.
    async fn others_in_doubt(
        &self,
        task: &Task,
        provider: &ProviderName,
        due: &[Arc<Credential>],
    ) -> Result<Vec<Arc<Credential>>, Error> {
        let mut others = self.context.store.credentials_of_task(task.id).await?;
        others.retain(|c| {
            c.state == CredentialState::Revoking
                && c.issued_at.is_none()
                && c.role.provider() == provider
                && !self.in_flight.contains(c.id)
                && due.iter().all(|d| d.id != c.id)
        });
        Ok(others)
    }

    /// Whether the provider may still be minting for this task. Then the anchor must live a little
    /// longer: a credential minted after its end would hang on nothing. No new call begins
    /// meanwhile, since the task has ended or is in doubt.
    async fn is_still_called(
        &self,
        task: &Task,
        provider: &ProviderName,
        due: &[Arc<Credential>],
    ) -> Result<bool, Error> {
        let all = self.context.store.credentials_of_task(task.id).await?;
        Ok(all.iter().any(|c| {
            c.role.provider() == provider
                && c.issued_at.is_none()
                && !c.state.is_final()
                && due.iter().all(|d| d.id != c.id)
        }))
    }

    /// A credential with an unknown outcome can only be revoked together with its anchor.
    /// Everything else issued through that anchor dies as well, so the ledger must mark it first,
    /// including credentials that are just being issued, which are then not delivered. Returns
    /// those with a known outcome.
    async fn mark_siblings(
        &self,
        task: &Task,
        provider: &ProviderName,
        anchors: &[Arc<Anchor>],
    ) -> Result<Vec<Arc<Credential>>, Error> {
        let all = self.context.store.credentials_of_task(task.id).await?;
        let siblings: Vec<CredentialId> = all
            .iter()
            .filter(|c| c.role.provider() == provider)
            .filter(|c| match (c.state, c.anchor) {
                (CredentialState::Intended, _) => true,
                (CredentialState::Active, Some(id)) => anchors.iter().any(|anchor| anchor.id == id),
                _ => false,
            })
            .map(|c| c.id)
            .collect();
        let events = siblings
            .iter()
            .map(|id| Event::CredentialRevoking {
                credential: *id,
                cause: RevokeCause::OutcomeUnknown,
                by: Actor::Broker,
            })
            .collect();
        self.commit_reserved(events, Vec::new()).await?;
        let mut marked = Vec::with_capacity(siblings.len());
        for id in siblings {
            let credential = self.context.store.credential(id).await?;
            marked.extend(credential.filter(|c| c.issued_at.is_some()));
        }
        Ok(marked)
    }

    /// Whether a credential of the task at this provider has no final state yet.
    async fn holds_more(&self, task: TaskId, provider: &ProviderName) -> Result<bool, Error> {
        let all = self.context.store.credentials_of_task(task).await?;
        let mut of_provider = all.iter().filter(|c| c.role.provider() == provider);
        Ok(of_provider.any(|c| !c.state.is_final()))
    }

    async fn live_anchors(
        &self,
        provider: &ProviderName,
        task: TaskId,
    ) -> Result<Vec<Arc<Anchor>>, Error> {
        let mut anchors = self.context.store.anchors_of_task(task).await?;
        anchors.retain(|anchor| anchor.provider == *provider && anchor.state == AnchorState::Live);
        Ok(anchors)
    }

    async fn record(
        &self,
        provider: &ProviderName,
        credentials: &[Arc<Credential>],
        outcomes: &[Outcome],
        took: Duration,
    ) -> Result<(), Error> {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut events = Vec::with_capacity(credentials.len());
        for (credential, outcome) in credentials.iter().zip(outcomes) {
            events.push(match outcome {
                Ok(revoked) => Event::CredentialRevoked {
                    credential: credential.id,
                    verified: revoked.verified,
                    proof: shortened(&revoked.proof),
                    took_ms,
                    may_live_until: if revoked.verified {
                        None
                    } else {
                        may_live_until(credential, revoked)
                    },
                },
                Err(error) => self.failed_attempt(provider, credential, error)?,
            });
        }
        for chunk in events.chunks(EVENTS_PER_COMMIT) {
            self.commit_reserved(chunk.to_vec(), Vec::new()).await?;
        }
        Ok(())
    }

    fn failed_attempt(
        &self,
        provider: &ProviderName,
        credential: &Credential,
        error: &ProviderError,
    ) -> Result<Event, Error> {
        let before = credential.revocation.as_ref();
        let attempt = before.map_or(0, |r| r.attempts).saturating_add(1);
        // Attempts that a provider postpones come quickly, and restarts add some: only time shows
        // that it is stuck.
        let tried_for = before.map_or(Duration::ZERO, |r| self.now().since(r.since));
        let stuck = attempt >= limits::REVOKE_ATTEMPTS_BEFORE_STUCK
            && tried_for >= limits::REVOKE_TIME_BEFORE_STUCK;
        if stuck && !before.is_some_and(|r| r.stuck) {
            tracing::error!(
                credential = %credential.id, task = %credential.task, %provider, attempt, %error,
                "a credential cannot be revoked; it is tried again for ever, but a person must look"
            );
        } else {
            tracing::warn!(credential = %credential.id, %provider, attempt, %error, "revoking failed; it is tried again");
        }
        let pause = retry_pause(attempt, error, self.context.entropy.next_u64()?);
        Ok(Event::RevokeFailed {
            credential: credential.id,
            attempt,
            error: shortened(&error.to_string()),
            retry_at: self.now().plus(pause),
            stuck,
        })
    }
}

fn order(
    task: &Task,
    scope: RevokeScope,
    credentials: &[Arc<Credential>],
    anchors: &[Arc<Anchor>],
    named: &[Arc<Anchor>],
) -> RevokeOrder {
    let handle_of = |credential: &Credential| {
        let id = credential.anchor?;
        anchors
            .iter()
            .find(|anchor| anchor.id == id)
            .map(|anchor| anchor.handle.to_json())
    };
    let items = credentials
        .iter()
        .map(|credential| RevokeItem {
            credential: credential.id,
            role: credential.role.clone(),
            scope: credential.scope.clone(),
            intended_at: unanswered_since(credential),
            expires_at: credential.expires_at,
            lifetime: credential.expires_at.since(credential.intended_at),
            revocation_class: credential.revocation_class,
            handle: credential.handle.as_ref().map(Handle::to_json),
            anchor: handle_of(credential),
            outcome_known: credential.issued_at.is_some(),
        })
        .collect();
    RevokeOrder {
        task: task.id,
        agent: task.agent.clone(),
        task_deadline: task.deadline,
        scope,
        anchors: named
            .iter()
            .map(|anchor| (anchor.id, anchor.handle.to_json()))
            .collect(),
        items,
    }
}

/// When the call can have been executed: at the intent, or, if its outcome is unknown, at any time
/// until the broker stopped waiting for it. Calls may be configured to take long.
fn unanswered_since(credential: &Credential) -> Timestamp {
    match (&credential.revocation, credential.issued_at) {
        (Some(revocation), None) => revocation.since.max(credential.intended_at),
        _ => credential.intended_at,
    }
}

/// The anchors through which a credential in doubt may have been issued: not those made after the
/// broker had stopped waiting for it. Nothing new is issued through them
/// ([`Guard::NothingInDoubt`](taskpass_store::Guard::NothingInDoubt)), and a call whose credential
/// is being revoked records no further anchor.
fn in_doubt(credentials: &[Arc<Credential>], anchors: &[Arc<Anchor>]) -> Vec<Arc<Anchor>> {
    let unanswered = credentials.iter().filter(|c| c.issued_at.is_none());
    let Some(until) = unanswered.map(|c| unanswered_since(c)).max() else {
        return Vec::new();
    };
    let earlier = anchors.iter().filter(|anchor| anchor.recorded_at <= until);
    earlier.cloned().collect()
}

/// One outcome for each credential, however many the provider returned.
fn outcomes(result: Result<Vec<Outcome>, ProviderError>, wanted: usize) -> Vec<Outcome> {
    match result {
        Ok(outcomes) if outcomes.len() == wanted => outcomes.into_iter().map(proven).collect(),
        Ok(outcomes) => {
            let error = ProviderError::retryable(format!(
                "the provider answered for {} of {wanted} credentials",
                outcomes.len()
            ));
            vec![Err(error); wanted]
        }
        Err(error) => vec![Err(error); wanted.max(1)],
    }
}

/// A revocation without proof counts as failed: the ledger refuses to record it as verified.
fn proven(outcome: Outcome) -> Outcome {
    match outcome {
        Ok(revoked) if revoked.verified && revoked.proof.trim().is_empty() => {
            let error = "the provider says that it is dead and gives no proof";
            Err(ProviderError::retryable(error))
        }
        other => other,
    }
}

/// An unproven revocation must not look proven: without an end of its own it gets the recorded one.
fn may_live_until(credential: &Credential, revoked: &Revoked) -> Option<Timestamp> {
    Some(revoked.may_live_until.unwrap_or(credential.expires_at))
}

/// The pause before the next attempt: as long as the provider asks for, or doubling. A part of it
/// is random, so that many failures do not return as one wave.
fn retry_pause(attempt: u32, error: &ProviderError, random: u64) -> Duration {
    if let ProviderError::Retryable {
        after: Some(after), ..
    } = error
    {
        let spread = Duration::from_millis(random % ASKED_SPREAD_MS);
        return (*after + spread).clamp(limits::REVOKE_RETRY_MIN, limits::REVOKE_RETRY_MAX);
    }
    let doublings = attempt.saturating_sub(1).min(16);
    let full = limits::REVOKE_RETRY_MIN
        .saturating_mul(1 << doublings)
        .min(limits::REVOKE_RETRY_MAX);
    let full_ms = u64::try_from(full.as_millis()).unwrap_or(u64::MAX).max(2);
    Duration::from_millis(full_ms / 2 + random % (full_ms / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskpass_store::Store as _;

    use crate::{
        Settings,
        testing::{Answer, Bench},
    };

    #[test]
    fn pauses_grow_to_the_cap_and_never_beyond() {
        let error = ProviderError::retryable("down");
        for random in [0, 1, u64::MAX] {
            let mut longest = Duration::ZERO;
            for attempt in 1..200 {
                let pause = retry_pause(attempt, &error, random);
                assert!(pause <= limits::REVOKE_RETRY_MAX, "{pause:?}");
                assert!(pause >= limits::REVOKE_RETRY_MIN / 2);
                longest = longest.max(pause);
            }
            assert!(longest >= limits::REVOKE_RETRY_MAX / 2);
        }
        let asked = ProviderError::Retryable {
            message: String::new(),
            after: Some(Duration::from_secs(20)),
        };
        // The provider knows best, however many attempts there were.
        for attempt in [1, 9] {
            assert_eq!(retry_pause(attempt, &asked, 0), Duration::from_secs(20));
        }
    }

    /// The lifetime does not count from when the broker stopped waiting, which may be after its
    /// end.
    #[tokio::test]
    async fn the_life_that_was_asked_for_counts_from_the_intent() {
        let bench = Bench::new(&["a"], Settings::default()).await;
        let (fake, id) = (&bench.fakes[0], bench.task().await);
        let issuing = bench.begin(fake, id).await;
        bench.clock.advance(Duration::from_secs(5400));
        fake.answer(Answer::Doubt);
        assert!(issuing.await.unwrap().is_err());
        let task = bench.store.task(id).await.unwrap().unwrap();
        let credentials = bench.store.credentials_of_task(id).await.unwrap();
        let order = order(&task, RevokeScope::Credentials, &credentials, &[], &[]);
        let item = &order.items[0];
        assert!(!item.outcome_known && item.intended_at > item.expires_at);
        assert_eq!(item.lifetime, Duration::from_secs(1800));
    }

    #[test]
    fn a_wrong_number_of_answers_is_no_answer() {
        let dead = || {
            Ok(Revoked {
                verified: true,
                proof: "seen".to_owned(),
                may_live_until: None,
            })
        };
        let unproven = Ok(Revoked {
            verified: true,
            proof: " ".to_owned(),
            may_live_until: None,
        });
        assert!(outcomes(Ok(vec![unproven]), 1).iter().all(Result::is_err));
        assert!(outcomes(Ok(vec![dead()]), 2).iter().all(Result::is_err));
        assert!(
            outcomes(Ok(vec![dead(), dead()]), 2)
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(outcomes(Err(ProviderError::retryable("x")), 3).len(), 3);
    }
}
