//! Carrying out revocations: one order to the provider for the credentials of one task there.
//! `plan.rs` decides what the order holds.
//!
//! The revoker calls this for every revocation that is due in the ledger, no matter which caller
//! decided it, or which process.

mod plan;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use taskpass_core::{
    Actor, Anchor, AnchorState, Credential, CredentialId, Event, Handle, ProviderName, RevokeCause,
    Task, TaskId, TaskState, Timestamp, limits,
};
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder, RevokeScope, Revoked};

use crate::{Engine, Error, failpoint, providers::RevokePermit};

use self::plan::{Plan, Selection, Situation, plan_revocation};
use super::issue::shortened;

/// The spread, in milliseconds, that is added to a pause that the provider asks for.
const ASKED_SPREAD_MS: u64 = 250;
/// When a provider is asked again whether calls are over, if it does not say itself.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
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
    /// Every credential has its outcome, and the anchors of the task are kept for so long: a call
    /// that is not on record may still issue through one of them.
    AnchorsWait(Duration),
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
        let due = ids.iter().copied().collect();
        let (selected, anchors) = loop {
            let situation = self.situation(provider, &task, &due).await?;
            match plan_revocation(&due, &situation) {
                Plan::Wait => return Ok(GroupOutcome::NotYet),
                Plan::Mark(siblings) => self.mark(siblings).await?,
                Plan::Revoke(selected) => break (selected, situation.anchors),
            }
        };
        let of_group = (provider, task.id);
        let calls_may_run = self
            .calls_may_run(of_group, &selected.anchors, &permit)
            .await;
        if let Some(left) = calls_may_run
            && selected.credentials.is_empty()
        {
            return Ok(GroupOutcome::AnchorsWait(left));
        }
        let order = RevokeOrder {
            calls_may_run: calls_may_run.is_some(),
            ..order(&task, &selected, &anchors)
        };
        let began = self.context.clock.monotonic();
        let answer = self.call(provider, permit, &order).await;
        let outcomes = outcomes(answer, selected.credentials.len());
        failpoint::reached("revoke.called");
        let took = self.context.clock.monotonic().saturating_sub(began);
        let revoked = (provider, selected.credentials.as_slice());
        let events = self.recorded(revoked, &outcomes, took)?;
        let Some(error) = outcomes.into_iter().find_map(Result::err) else {
            self.record_with_its_end(revoked, events, &order).await?;
            return Ok(GroupOutcome::Done);
        };
        self.record(&events).await?;
        failpoint::reached("revoke.recorded");
        Ok(if selected.credentials.is_empty() {
            GroupOutcome::AnchorsLeft(error)
        } else {
            GroupOutcome::Failed
        })
    }

    /// Reads what the plan is made from. The order matters: the outcome of a call that is over is
    /// on record before the credentials are read, and its anchor before the anchors are.
    async fn situation(
        &self,
        provider: &ProviderName,
        task: &Arc<Task>,
        due: &BTreeSet<CredentialId>,
    ) -> Result<Situation, Error> {
        let store = &self.context.store;
        let in_flight = self.in_flight.of_task(task.id);
        let mut ahead = self.in_flight.ahead_of_task(task.id);
        let mut credentials = Vec::with_capacity(due.len());
        for id in due {
            credentials.extend(store.credential(*id).await?);
        }
        if task.state != TaskState::Open || credentials.iter().any(|c| c.in_doubt()) {
            credentials = store.credentials_of_task(task.id).await?;
            credentials.retain(|c| c.role.provider() == provider);
        }
        let mut anchors = store.anchors_of_task(task.id).await?;
        anchors.retain(|anchor| anchor.provider == *provider && anchor.state == AnchorState::Live);
        ahead.retain(|(id, of)| {
            of.provider == *provider && credentials.iter().all(|credential| credential.id != *id)
        });
        Ok(Situation {
            task: Arc::clone(task),
            credentials,
            anchors,
            in_flight,
            unrecorded: ahead.into_iter().map(|(_, of)| of.key).collect(),
        })
    }

    /// How long a call that is not on record may still issue through one of the anchors that are to
    /// end; `None` where there can be none.
    async fn calls_may_run(
        &self,
        (provider, task): (&ProviderName, TaskId),
        anchors: &[Arc<Anchor>],
        permit: &RevokePermit,
    ) -> Option<Duration> {
        let sent_before = self.ahead.sent_before(task, provider, anchors)?;
        // Where the provider is not configured, the order fails and ends nothing.
        match permit.backend()?.calls_are_over(sent_before).await {
            Ok(()) => {
                self.ahead.are_over(provider, sent_before);
                None
            }
            Err(error) => {
                tracing::info!(%provider, %task, %error, "an anchor of the task waits for calls of an earlier broker");
                Some(error.after().unwrap_or(LOOK_AGAIN))
            }
        }
    }

    /// Marks credentials that die with an anchor of a credential in doubt.
    async fn mark(&self, siblings: Vec<CredentialId>) -> Result<(), Error> {
        let marked = siblings
            .into_iter()
            .map(|credential| Event::CredentialRevoking {
                credential,
                cause: RevokeCause::OutcomeUnknown,
                by: Actor::Broker,
            });
        self.commit_reserved(marked.collect(), Vec::new()).await?;
        Ok(())
    }

    async fn call(
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
                attempt.failed(self.context.clock.monotonic());
                Err(ProviderError::Misconfigured(format!(
                    "provider `{provider}` is no longer configured; put it back so that its credentials can be revoked"
                )))
            }
        }
    }

    /// Records that everything in an order is revoked. If nothing else holds the anchors of an ended
    /// task, or the task itself, the same commit says that they are gone and that it has ended: the
    /// caller waits for that, and each commit waits for the disk.
    async fn record_with_its_end(
        &self,
        revoked: (&ProviderName, &[Arc<Credential>]),
        mut events: Vec<Event>,
        order: &RevokeOrder,
    ) -> Result<(), Error> {
        let follow = self.ends_with(revoked, order).await?;
        let last = events.len().saturating_sub(1) / EVENTS_PER_COMMIT * EVENTS_PER_COMMIT;
        let rest = events.split_off(last);
        self.record(&events).await?;
        let has_ended = matches!(follow.last(), Some(Event::TaskEnded { .. }));
        let with_end = [rest.clone(), follow.clone()].concat();
        let at_once = self.commit_reserved(with_end, Vec::new()).await;
        if let Err(error) = at_once {
            // Something else of the task came to be meanwhile. The reconcilers end it later.
            tracing::debug!(error = %error.message(), task = %order.task, "the end of a task is not recorded yet");
            self.record(&rest).await?;
            failpoint::reached("revoke.recorded");
            return Ok(());
        }
        failpoint::reached("revoke.recorded");
        if !follow.is_empty() {
            for (anchor, _) in &order.anchors {
                self.ahead.gone(*anchor);
            }
        }
        if has_ended {
            failpoint::reached("end.recorded");
        }
        Ok(())
    }

    /// The events that follow once the credentials of an order are revoked. Anchors stay while a
    /// credential has no final state: without a known outcome it can only be revoked through them.
    async fn ends_with(
        &self,
        (provider, revoked): (&ProviderName, &[Arc<Credential>]),
        order: &RevokeOrder,
    ) -> Result<Vec<Event>, Error> {
        if order.scope != RevokeScope::Task || order.calls_may_run {
            return Ok(Vec::new());
        }
        let store = &self.context.store;
        let revoked: BTreeSet<_> = revoked.iter().map(|credential| credential.id).collect();
        let mut open = store.credentials_of_task(order.task).await?;
        open.retain(|it| !it.state.is_final() && !revoked.contains(&it.id));
        if open.iter().any(|it| it.role.provider() == provider) {
            return Ok(Vec::new());
        }
        let gone: BTreeSet<_> = order.anchors.iter().map(|(anchor, _)| *anchor).collect();
        let mut anchors = store.anchors_of_task(order.task).await?;
        anchors.retain(|it| it.state == AnchorState::Live && !gone.contains(&it.id));
        let has_children = !store.descendants(order.task).await?.is_empty();
        let mut follow: Vec<_> = gone
            .into_iter()
            .map(|anchor| Event::AnchorGone { anchor })
            .collect();
        if open.is_empty() && anchors.is_empty() && !has_children {
            follow.push(Event::TaskEnded { task: order.task });
        }
        Ok(follow)
    }

    /// The outcomes as events.
    fn recorded(
        &self,
        (provider, credentials): (&ProviderName, &[Arc<Credential>]),
        outcomes: &[Outcome],
        took: Duration,
    ) -> Result<Vec<Event>, Error> {
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
                    identity_until: revoked.identity_until,
                },
                Err(error) => self.failed_attempt(provider, credential, error)?,
            });
        }
        Ok(events)
    }

    async fn record(&self, events: &[Event]) -> Result<(), Error> {
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

fn order(task: &Task, selected: &Selection, anchors: &[Arc<Anchor>]) -> RevokeOrder {
    let handle_of = |credential: &Credential| {
        let id = credential.anchor?;
        let anchor = anchors.iter().find(|anchor| anchor.id == id)?;
        Some(anchor.handle.to_json())
    };
    let items = selected.credentials.iter().map(|credential| RevokeItem {
        credential: credential.id,
        role: credential.role.clone(),
        scope: credential.scope.clone(),
        intended_at: credential.asked_at_latest(),
        expires_at: credential.expires_at,
        lifetime: credential.expires_at.since(credential.intended_at),
        revocation_class: credential.revocation_class,
        handle: credential.handle.as_ref().map(Handle::to_json),
        anchor: handle_of(credential),
        outcome_known: credential.is_issued(),
    });
    let ended = selected.anchors.iter();
    RevokeOrder {
        task: task.id,
        agent: task.agent.clone(),
        task_deadline: task.deadline,
        scope: selected.scope,
        anchors: ended.map(|a| (a.id, a.handle.to_json())).collect(),
        calls_may_run: false,
        items: items.collect(),
    }
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
    if let Some(after) = error.after() {
        let spread = Duration::from_millis(random % ASKED_SPREAD_MS);
        return (after + spread).clamp(limits::REVOKE_RETRY_MIN, limits::REVOKE_RETRY_MAX);
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
        let selected = Selection {
            scope: RevokeScope::Credentials,
            credentials,
            anchors: Vec::new(),
        };
        let order = order(&task, &selected, &[]);
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
                identity_until: None,
            })
        };
        let unproven = Ok(Revoked {
            verified: true,
            proof: " ".to_owned(),
            may_live_until: None,
            identity_until: None,
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
