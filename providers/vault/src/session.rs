//! Sessions: one Vault token for each task, through which its credentials are issued. They are kept
//! in memory only.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::{TaskId, Timestamp};
use taskpass_provider::{Anchors, IssueOrder, ProviderError};

use crate::{
    consistency::Index,
    token::{AnchoredToken, TokenSpec, mint_token},
    vault::Vault,
};

/// Tasks with sessions in memory; far more than one broker serves.
const SESSIONS_MAX: usize = 65_536;
/// How much later than now a call may begin, and how much Vault's clock may differ from ours.
const CALL_BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// With less than this left a session is not used any more.
const SESSION_LEFT_MIN: Duration = Duration::from_secs(1);

/// The sessions of all tasks.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_task: Mutex<HashMap<TaskId, Arc<Slot>>>,
}

/// One task's entry. Its lock is held while the session is minted, so a task never mints two at
/// once and no task waits for another's.
#[derive(Debug)]
struct Slot {
    session: tokio::sync::Mutex<Option<Arc<AnchoredToken>>>,
    deadline: Timestamp,
}

impl Sessions {
    /// The task's session. Mints one with `policies` if there is none, or none that lasts.
    pub(crate) async fn get_or_mint(
        &self,
        vault: &Vault,
        order: &IssueOrder,
        policies: impl FnOnce() -> Vec<String> + Send,
        anchors: &dyn Anchors,
    ) -> Result<Arc<AnchoredToken>, ProviderError> {
        let now = vault.clock.now();
        let slot = self.slot(order, now)?;
        let mut held = slot.session.lock().await;
        let lasting = held
            .as_ref()
            .filter(|session| lasts(session, vault, order, now));
        if let Some(session) = lasting {
            return Ok(Arc::clone(session));
        }
        let spec = TokenSpec {
            policies: policies(),
            until: order.task_deadline,
            until_at_most: order.task_deadline,
            credential: None,
        };
        let session = Arc::new(mint_token(vault, order, spec, anchors).await?);
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Removes the task's session. Returns its accessor, and how far the storage was when it was
    /// minted.
    pub(crate) async fn remove(&self, task: TaskId) -> Option<(String, Option<Index>)> {
        let slot = self.by_task.lock().remove(&task)?;
        let session = slot.session.lock().await.take();
        session.map(|session| (session.accessor.clone(), session.minted.clone()))
    }

    /// Removes the task's session if it is one of `accessors`, so that the next issue mints
    /// another.
    pub(crate) async fn remove_any_of(&self, task: TaskId, accessors: &BTreeSet<String>) {
        let slot = self.by_task.lock().get(&task).map(Arc::clone);
        if let Some(slot) = slot {
            let mut held = slot.session.lock().await;
            held.take_if(|session| accessors.contains(&session.accessor));
        }
    }

    /// Removes the sessions of tasks past their deadline.
    pub(crate) fn remove_expired(&self, now: Timestamp) {
        self.by_task.lock().retain(|_, slot| slot.deadline > now);
    }

    fn slot(&self, order: &IssueOrder, now: Timestamp) -> Result<Arc<Slot>, ProviderError> {
        let mut by_task = self.by_task.lock();
        if let Some(slot) = by_task.get(&order.task) {
            return Ok(Arc::clone(slot));
        }
        if by_task.len() >= SESSIONS_MAX {
            by_task.retain(|_, slot| slot.deadline > now);
        }
        if by_task.len() >= SESSIONS_MAX {
            return Err(ProviderError::retryable(format!(
                "{SESSIONS_MAX} tasks have sessions at this provider; wait for some to end"
            )));
        }
        let slot = Arc::new(Slot {
            session: tokio::sync::Mutex::default(),
            deadline: order.task_deadline,
        });
        by_task.insert(order.task, Arc::clone(&slot));
        Ok(slot)
    }
}

/// Whether a session has enough life left for one more call.
///
/// A session that Vault cut short of the task's deadline must outlive the call made with it: see
/// [`crate::in_doubt`].
fn lasts(session: &AnchoredToken, vault: &Vault, order: &IssueOrder, now: Timestamp) -> bool {
    let is_cut_short = session.usable_until.plus(SESSION_LEFT_MIN) < order.task_deadline;
    let needed = if is_cut_short {
        vault.request_max + CALL_BEGINS_WITHIN
    } else {
        SESSION_LEFT_MIN
    };
    session.usable_until > now.plus(needed)
}
