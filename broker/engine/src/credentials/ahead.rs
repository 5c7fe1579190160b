//! Calls to issue that run ahead of the disk: the intent is in order, and not yet durable.
//!
//! A call may do so where the credential will hang on an anchor that is durable. A power cut can
//! then leave a credential that no intent names, and the anchor is all that finds and ends it. No
//! anchor is ended while a call may still issue through it, so the engine has to know where such a
//! call may have been lost: at each anchor that this process did not record itself, unless the
//! process before it stopped in good order, and where this process could not record an intent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use taskpass_core::{
    Anchor, AnchorId, Credential, Event, Handle, ProviderName, RevokeCause, TaskId,
};
use taskpass_provider::{Issued, ProviderError};
use taskpass_store::{Batch, CommitError, Guard};

use super::issue::millis;
use crate::{Engine, Error, providers::Backend};

/// What the engine remembers of calls that may have been lost.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// When this process began, on the monotonic clock. `None` where the process before it stopped
    /// in good order and lost no call.
    began: Option<Duration>,
    /// Whether the ledger takes new credentials, as far as is known. While it is full, a call that
    /// ran ahead would only use up the reserve.
    takes_intents: AtomicBool,
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// The live anchors that this process recorded.
    own: BTreeSet<AnchorId>,
    /// The providers at which each call of an earlier process is over.
    over: BTreeSet<ProviderName>,
    /// Where this process lost a call, and by when the last one was sent.
    lost: BTreeMap<(TaskId, ProviderName), Duration>,
}

impl Ahead {
    /// This process begins at `began`; `may_have_lost` is about the calls of the process before it.
    pub(crate) fn new(began: Duration, may_have_lost: bool) -> Self {
        Self {
            began: may_have_lost.then_some(began),
            takes_intents: AtomicBool::new(true),
            remembered: Mutex::default(),
        }
    }

    /// This process has recorded an anchor, which is durable.
    pub(crate) fn recorded(&self, anchor: AnchorId) {
        self.remembered.lock().own.insert(anchor);
    }

    /// An anchor is gone, which is on record.
    pub(crate) fn gone(&self, anchor: AnchorId) {
        self.remembered.lock().own.remove(&anchor);
    }

    fn is_own(&self, anchor: AnchorId) -> bool {
        self.remembered.lock().own.contains(&anchor)
    }

    /// The ledger took, or had no room for, an entry that issues something.
    pub(crate) fn took_intent(&self, taken: bool) {
        self.takes_intents.store(taken, Ordering::Relaxed);
    }

    /// A call without a record was made for the task, at the latest at `sent_before`.
    fn lose(&self, task: TaskId, provider: ProviderName, sent_before: Duration) {
        let mut remembered = self.remembered.lock();
        remembered.lost.insert((task, provider), sent_before);
    }

    /// Whether there may be a lost call at all.
    fn may_have_lost(&self) -> bool {
        self.began.is_some() || !self.remembered.lock().lost.is_empty()
    }

    /// Before when a call may have been sent that issues through one of these anchors and is not
    /// on record; `None` where there can be none.
    pub(crate) fn sent_before(
        &self,
        task: TaskId,
        provider: &ProviderName,
        anchors: &[Arc<Anchor>],
    ) -> Option<Duration> {
        let remembered = self.remembered.lock();
        let lost = remembered.lost.get(&(task, provider.clone())).copied();
        let is_earlier = |anchor: &Arc<Anchor>| !remembered.own.contains(&anchor.id);
        let by_earlier = self
            .began
            .filter(|_| !remembered.over.contains(provider) && anchors.iter().any(is_earlier));
        by_earlier.max(lost).filter(|_| !anchors.is_empty())
    }

    /// Before when calls of an earlier process were sent that may still run at the provider.
    pub(crate) fn of_earlier(&self, provider: &ProviderName) -> Option<Duration> {
        let is_over = || self.remembered.lock().over.contains(provider);
        self.began.filter(|_| !is_over())
    }

    /// The calls that were sent to the provider before this time are over.
    pub(crate) fn are_over(&self, provider: &ProviderName, sent_before: Duration) {
        let mut remembered = self.remembered.lock();
        if self.began.is_some_and(|began| began <= sent_before) {
            remembered.over.insert(provider.clone());
        }
        let lasts =
            |at: &(TaskId, ProviderName), sent: &Duration| at.1 != *provider || *sent > sent_before;
        remembered.lost.retain(|at, sent| lasts(at, sent));
    }
}

/// The intent of a call, on its way to the disk or there.
#[derive(Debug)]
pub(crate) enum IntentRecord {
    Durable,
    InOrder {
        durable: Shared<BoxFuture<'static, Result<(), CommitError>>>,
        /// How it is recorded after all, should it not get there.
        again: Batch,
    },
}

impl IntentRecord {
    /// Returns once the intent is durable, or cannot be any more.
    pub(crate) async fn durable(&self) -> Result<(), CommitError> {
        match self {
            Self::Durable => Ok(()),
            Self::InOrder { durable, .. } => durable.clone().await,
        }
    }
}

impl Engine {
    /// Commits what a call ahead of the disk rests on, and returns once it is in order.
    pub(crate) async fn commit_in_order(
        self: &Arc<Self>,
        (events, guards): (Vec<Event>, Vec<Guard>),
        again: Batch,
    ) -> Result<IntentRecord, Error> {
        let counted = self.context.metrics.events.prepare(&events);
        let batch = Batch {
            guards,
            ..Batch::new(events)
        };
        let in_order = self.context.store.commit_in_order(batch).await?;
        let engine = Arc::clone(self);
        let durable = async move {
            let durable = in_order.durable().await;
            engine.ahead.took_intent(durable.is_ok());
            engine.note_committed(&durable?, counted);
            Ok(())
        };
        Ok(IntentRecord::InOrder {
            durable: durable.boxed().shared(),
            again,
        })
    }

    /// The conditions under which the call for this credential may run ahead of the disk. `None`
    /// where it must wait: the provider holds no anchor ready, or the anchor is not durable, not
    /// live, not the task's, or ends for a credential in doubt.
    pub(super) async fn may_run_ahead(
        &self,
        backend: &Backend,
        credential: &Credential,
    ) -> Result<Option<Guard>, Error> {
        let Credential {
            task, role, scope, ..
        } = credential;
        let Some(anchor) = backend.provider().held_anchor(*task, role, scope) else {
            return Ok(None);
        };
        if !self.ahead.is_own(anchor) || !self.ahead.takes_intents.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let is_live = Guard::AnchorLive {
            anchor,
            task: *task,
            provider: role.provider().clone(),
            key: credential.anchor_key,
        };
        // What holds for readers is durable. The same is checked again when the intent is put in
        // order.
        let conditions = [is_live, nothing_in_doubt(credential)];
        let holds = self.context.store.holds(&conditions).await?;
        let [is_live, _] = conditions;
        Ok(holds.then_some(is_live))
    }

    /// Records a call whose intent did not reach the disk, so that what it minted is revoked. The
    /// record may use the reserve. Where it is refused, since the task has ended or the ledger takes
    /// nothing, the credential ends with its anchor.
    pub(super) async fn record_lost(
        &self,
        credential: &Credential,
        intent: IntentRecord,
        result: Result<(Issued, Option<Handle>), ProviderError>,
        took: Duration,
    ) {
        let IntentRecord::InOrder { again, .. } = intent else {
            return;
        };
        let Batch {
            mut events,
            guards,
            priority,
        } = again;
        let id = credential.id;
        let cause = match result {
            Err(error) if error.nothing_was_minted() => return,
            Err(_) => RevokeCause::OutcomeUnknown,
            Ok((issued, handle)) => {
                events.push(Event::CredentialIssued {
                    credential: id,
                    expires_at: issued.expires_at,
                    revocation_class: issued.revocation_class,
                    anchor: issued.anchor,
                    handle,
                    took_ms: millis(took),
                });
                RevokeCause::NotDelivered
            }
        };
        events.push(Event::CredentialRevoking {
            credential: id,
            cause,
            by: taskpass_core::Actor::Broker,
        });
        if let Err(error) = self.commit_with(events, guards, priority).await {
            if cause == RevokeCause::OutcomeUnknown {
                let (provider, now) = (credential.role.provider(), self.context.clock.monotonic());
                self.ahead.lose(credential.task, provider.clone(), now);
            }
            tracing::warn!(credential = %id, task = %credential.task, error = %error.message(), "a credential could not be recorded; it was not handed out, and ends with its task");
        }
    }

    /// Whether no call may still run that is not on record. Only then a stop is one in good order:
    /// the next process waits for nothing.
    pub async fn every_call_is_on_record(&self) -> Result<bool, Error> {
        for id in self.in_flight.ahead() {
            if self.context.store.credential(id).await?.is_none() {
                return Ok(false);
            }
        }
        if !self.ahead.may_have_lost() {
            return Ok(true);
        }
        let may_be_lost = |anchor: &Arc<Anchor>| {
            let of_anchor = std::slice::from_ref(anchor);
            let lost = self
                .ahead
                .sent_before(anchor.task, &anchor.provider, of_anchor);
            lost.is_some()
        };
        Ok(!self.any_live_anchor(may_be_lost).await?)
    }
}

/// Refuses to use an anchor that ends for a credential in doubt.
pub(super) fn nothing_in_doubt(credential: &Credential) -> Guard {
    Guard::NothingInDoubt(
        credential.task,
        credential.role.provider().clone(),
        credential.anchor_key,
    )
}

#[cfg(test)]
mod tests;
