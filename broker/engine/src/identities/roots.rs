//! Replacement of the root by a person on the broker's machine, while the broker serves.
//!
//! `prepare` and `activate` change the keys on the disk first and are recorded then, as the
//! rotation of the issuing authorities is. `retire` is recorded first: the store sees in ledger
//! order that nothing hangs on the root. A broker that was killed in between finishes at its next
//! start, and a broker that could not write its disk in between finishes as soon as it can.
//!
//! The ledger is signed and the files of the authority are not, so the two are compared before a
//! root is recorded or served.

mod compare;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::Arc,
};

use taskpass_ca::{Authority, RootRecord};
use taskpass_core::{
    EndCause, Event, RecordedRoot, RevokeCause, RootNumber, RootStage, TaskId, Timestamp,
};
use taskpass_store::RootUse;

pub use self::compare::{RootsDiffer, compare_roots};
use super::authorities::ca_changed;
use crate::{Engine, Error, failpoint};

/// Operators that a refusal names. The status has all of them.
const OPERATORS_NAMED_MAX: usize = 5;

/// A root of the bundle, and what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootView {
    /// The root.
    pub record: RootRecord,
    /// What hangs on it and counts.
    pub used: RootUse,
}

/// Whether a root may be retired on which something hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireRoot {
    /// Only when nothing hangs on it.
    Unused,
    /// At once. What hangs on it ends with it, and so does every task of an agent that is left
    /// without an SVID.
    Forced,
}

/// A root that was retired, and the end of what hung on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredRoot {
    /// The root, with what hung on it until then.
    pub view: RootView,
    /// The tasks that ended with it.
    pub tasks: Vec<TaskId>,
    /// How many of their credentials are being revoked.
    pub revoking: usize,
}

impl Engine {
    /// The roots of the bundle, the active one first.
    pub async fn roots(&self) -> Result<Vec<RootView>, Error> {
        self.check_roots().await?;
        let mut views = Vec::new();
        for record in self.context.authority.roots() {
            let used = self.context.store.root_use(record.number).await?;
            views.push(RootView { record, used });
        }
        Ok(views)
    }

    /// The roots of the bundle, signed with the ledger's key at this moment. A client with an
    /// identity of before a replacement sees by it that this is still its installation.
    ///
    /// Takes no decision of policy: it names public keys only, to everyone who asks for the bundle.
    pub fn signed_roots(&self) -> String {
        let bundle = self.context.authority.bundle();
        let keys: Vec<[u8; 32]> = bundle.root_keys.iter().map(|key| *key.bytes()).collect();
        let now = self.context.clock.now();
        self.context.roots_signer.sign(&keys, now)
    }

    /// Makes another root and publishes it in the bundle.
    pub async fn prepare_root(&self) -> Result<(), Error> {
        self.require_sane_clock()?;
        let _order = self.root_orders.lock().await;
        self.settle().await?;
        self.at_the_authority(Authority::prepare_root).await?;
        failpoint::reached("root.prepared");
        self.settle().await.map(drop)
    }

    /// Has the prepared root sign from now on.
    pub async fn activate_root(&self) -> Result<(), Error> {
        self.require_sane_clock()?;
        let _order = self.root_orders.lock().await;
        self.settle().await?;
        let changed = self.at_the_authority(Authority::activate_root).await?;
        failpoint::reached("root.activated");
        self.settle().await?;
        let events = changed.authorities.into_iter().map(ca_changed).collect();
        self.commit_reserved(events, Vec::new()).await.map(drop)
    }

    /// Takes the outgoing root out of the bundle, and returns what ended with it.
    /// The credentials of ended tasks are revoked in the background.
    pub async fn retire_root(&self, how: RetireRoot) -> Result<RetiredRoot, Error> {
        let _order = self.root_orders.lock().await;
        if let Some(record) = self.settle().await? {
            // An earlier order is on record, and everything that hung on the root ended then.
            let used = RootUse::default();
            return Ok(RetiredRoot {
                view: RootView { record, used },
                tasks: Vec::new(),
                revoking: 0,
            });
        }
        let views = self.roots().await?;
        let outgoing = |view: &RootView| view.record.stage == RootStage::Outgoing;
        let Some(view) = views.into_iter().find(outgoing) else {
            return Err(Error::Precondition(
                "no root is outgoing, so there is none to retire; `taskpassd root status` shows the roots".to_owned(),
            ));
        };
        if how == RetireRoot::Unused && !view.used.is_empty() {
            return Err(Error::Precondition(still_used(&view)));
        }
        let retired = root_changed(
            &view.record,
            RootStage::Retired,
            how == RetireRoot::Forced && !view.used.is_empty(),
        );
        let open = self.open_tasks_on(&view.used).await?;
        let committed = self.commit_reserved(vec![retired], Vec::new()).await?;
        failpoint::reached("root.retiring");
        let number = view.record.number;
        self.take_out(number)
            .await
            .map_err(|error| unfinished(number, &error))?;
        failpoint::reached("root.retired");
        let (tasks, revoking) = self.ended_with_a_root(&open, committed.time).await?;
        Ok(RetiredRoot {
            view,
            tasks,
            revoking,
        })
    }

    /// The open tasks of every agent that has an SVID on a root, for itself or for a task, and the
    /// tasks below.
    async fn open_tasks_on(&self, used: &RootUse) -> Result<BTreeSet<TaskId>, Error> {
        let store = &self.context.store;
        let mut agents = used.agents.clone();
        for task in &used.tasks {
            let task = store.task(*task).await?;
            agents.extend(task.map(|task| task.agent.clone()));
        }
        let mut found = BTreeSet::new();
        for agent in &agents {
            for task in store.open_tasks_of_agent(agent).await? {
                found.insert(task);
                found.extend(store.descendants(task).await?);
            }
        }
        Ok(found)
    }

    /// Cancels the calls for the tasks that ended with a root. The store decided which tasks ended,
    /// since an agent may have renewed after the caller looked.
    async fn ended_with_a_root(
        &self,
        before: &BTreeSet<TaskId>,
        since: Timestamp,
    ) -> Result<(Vec<TaskId>, usize), Error> {
        let store = &self.context.store;
        let (mut ended, mut revoking) = (Vec::new(), 0_usize);
        for id in before.iter().copied() {
            let task = store.task(id).await?;
            let with_it = task.is_some_and(|task| {
                let cause = task.end_cause;
                let fits = matches!(
                    cause,
                    Some(EndCause::IdentityReplaced | EndCause::ParentEnded)
                );
                fits && task.ending_at == Some(since)
            });
            if !with_it {
                continue;
            }
            let credentials = store.credentials_of_task(id).await?;
            let of_task = credentials.iter().filter(|c| {
                let cause = c.revocation.as_ref().map(|revocation| revocation.cause);
                matches!(cause, Some(RevokeCause::TaskEnded(_)))
            });
            revoking = revoking.saturating_add(of_task.count());
            ended.push(id);
        }
        self.stop_tasks(&ended);
        if !ended.is_empty() {
            tracing::warn!(
                tasks = ended.len(),
                credentials = revoking,
                "tasks ended with a root: their agents have no identity any more"
            );
        }
        Ok((ended, revoking))
    }

    /// Compares the authority's files with the ledger. A start fails with this, before anything is
    /// signed or served.
    pub async fn check_roots(&self) -> Result<(), Error> {
        self.compared_roots().await.map(drop)
    }

    /// Brings ledger and authority together after a broker was killed between the two, or could not
    /// write its disk: finishes a recorded retirement, and records every other step that the disk
    /// has.
    pub async fn settle_roots(&self) -> Result<(), Error> {
        let _order = self.root_orders.lock().await;
        self.settle().await.map(drop)
    }

    /// The caller has the permit for orders. Returns the root with the retirement that was
    /// finished.
    async fn settle(&self) -> Result<Option<RootRecord>, Error> {
        let (mut events, mut retired) = (Vec::new(), None);
        let recorded = self.compared_roots().await?;
        for root in self.context.authority.roots() {
            match recorded.get(&root.number).map(|it| it.stage) {
                Some(RootStage::Retired) => {
                    self.take_out(root.number).await?;
                    retired = Some(root);
                }
                Some(stage) if stage == root.stage => {}
                // An earlier version did not record the first root.
                Some(_) | None => events.push(root_changed(&root, root.stage, false)),
            }
        }
        if !events.is_empty() {
            self.commit_reserved(events, Vec::new()).await?;
        }
        Ok(retired)
    }

    /// The roots on record, after the authority's were compared with them.
    async fn compared_roots(&self) -> Result<BTreeMap<RootNumber, RecordedRoot>, Error> {
        let recorded = self.context.store.recorded_roots().await?;
        let on_disk = self.context.authority.roots();
        compare_roots(&recorded, &on_disk).map_err(Error::authority)?;
        Ok(recorded)
    }

    /// Takes a root out of the bundle that is retired in the ledger.
    async fn take_out(&self, number: RootNumber) -> Result<(), Error> {
        let act = move |authority: &Authority| authority.retire_root(number);
        self.at_the_authority(act).await.map(drop)
    }

    /// Key generation and file syncs: off the async threads.
    async fn at_the_authority<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Authority) -> Result<T, taskpass_ca::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let authority = Arc::clone(&self.context.authority);
        let acted = tokio::task::spawn_blocking(move || act(&authority)).await;
        acted
            .map_err(Error::authority)?
            .map_err(|error| match error {
                taskpass_ca::Error::RootStage(message) => Error::Precondition(message),
                other => Error::authority(other),
            })
    }
}

fn root_changed(root: &RootRecord, stage: RootStage, forced: bool) -> Event {
    Event::RootChanged {
        root: root.number,
        stage,
        serial: root.serial.clone(),
        not_after: root.not_after,
        certificate_sha256: root.certificate_sha256.clone(),
        forced,
    }
}

/// The ledger says that the root is retired, and the disk could not be written.
fn unfinished(number: RootNumber, error: &Error) -> Error {
    Error::Precondition(format!(
        "root {number} is retired in the ledger, but is in the bundle until the disk can be written: {}; the broker tries again by itself, and `taskpassd root status` shows when root {number} is gone",
        error.message()
    ))
}

fn still_used(view: &RootView) -> String {
    let (number, end) = (view.record.number, view.used.last_end);
    format!(
        "root {number} is still needed: {view} hang on it, the last until {end}; each moves to the new root when it renews or logs in again, `taskpassd root status` names them, and `taskpassd root retire --force` ends them now"
    )
}

/// What hangs on the root, in numbers, with the names of operators.
impl fmt::Display for RootView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RootUse {
            agents,
            tasks,
            operators,
            join_tokens,
            last_end: _,
        } = &self.used;
        let mut names = String::new();
        for name in operators.keys().take(OPERATORS_NAMED_MAX) {
            let comma = if names.is_empty() { "" } else { ", " };
            write!(names, "{comma}{name}")?;
        }
        let more = operators.len().saturating_sub(OPERATORS_NAMED_MAX);
        if more > 0 {
            write!(names, ", {more} more")?;
        }
        if !names.is_empty() {
            names = format!(" ({names})");
        }
        write!(
            f,
            "{} agents, {} tasks, {} operators{names} and {join_tokens} join tokens",
            agents.len(),
            tasks.len(),
            operators.len(),
        )
    }
}

#[cfg(test)]
mod tests;
