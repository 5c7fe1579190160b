//! Sessions: the Vault tokens through which a task's credentials are issued. They are kept in
//! memory only.
//!
//! A session has the policies of the roles that are issued through it: roles with the same policies
//! share one, and no role reaches what only another role of its task may use. Otherwise a role with
//! a parameter in its path could read through the policies of a role that policy refuses to the
//! agent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::{AnchorId, AnchorKey, TaskId, Timestamp, limits};
use taskpass_provider::{Anchors, IssueOrder, ProviderError};

use crate::{
    consistency::Index,
    role::Role,
    token::{AnchoredToken, TokenSpec, mint_token},
    vault::Vault,
};

/// Tasks with sessions in memory; far more than one broker serves.
const TASKS_MAX: usize = 65_536;
/// Sessions of one task: as many as its roles, should each have policies of its own.
const SESSIONS_PER_TASK_MAX: usize = limits::TASK_ROLES_MAX;
/// How much later than now a call may begin, and how much Vault's clock may differ from ours.
const CALL_BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// With less than this left a session is not used any more.
const SESSION_LEFT_MIN: Duration = Duration::from_secs(1);

/// The policies of a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Policies(BTreeSet<String>);

/// The sessions of all tasks.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_task: Mutex<HashMap<TaskId, OfTask>>,
}

/// The sessions of one task.
#[derive(Debug)]
struct OfTask {
    slots: BTreeMap<Policies, Arc<Slot>>,
    deadline: Timestamp,
}

/// The place of one session. Its lock is held while the session is minted, so a task never mints
/// two for the same policies at once, and no call waits for another session.
#[derive(Debug, Default)]
struct Slot(tokio::sync::Mutex<Option<Arc<AnchoredToken>>>);

impl Policies {
    pub(crate) fn of(role: &Role) -> Self {
        Self(role.policies.iter().cloned().collect())
    }

    /// The key of the sessions with these policies.
    pub(crate) fn anchor_key(&self) -> AnchorKey {
        AnchorKey::of(self.0.iter().map(String::as_str))
    }
}

impl Sessions {
    /// The task's session with these policies. Mints one if there is none, or none that lasts.
    pub(crate) async fn get_or_mint(
        &self,
        vault: &Vault,
        order: &IssueOrder,
        policies: &Policies,
        anchors: &dyn Anchors,
    ) -> Result<Arc<AnchoredToken>, ProviderError> {
        let now = vault.clock.now();
        let slot = self.slot(order, policies, now)?;
        let mut held = slot.0.lock().await;
        let lasting = held
            .as_ref()
            .filter(|session| lasts(session, vault, order, now));
        if let Some(session) = lasting {
            return Ok(Arc::clone(session));
        }
        let spec = TokenSpec {
            policies: policies.0.iter().cloned().collect(),
            until: order.task_deadline,
            until_at_most: order.task_deadline,
            credential: None,
        };
        let session = Arc::new(mint_token(vault, order, spec, anchors).await?);
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The anchor of the session that [`Sessions::get_or_mint`] would give without minting one, if
    /// the session outlives a call made with it. Of such a call there may be no record: a lease
    /// that was filed after the end of the session would never be found.
    pub(crate) fn held(
        &self,
        vault: &Vault,
        task: TaskId,
        policies: &Policies,
    ) -> Option<AnchorId> {
        let slot = {
            let by_task = self.by_task.lock();
            Arc::clone(by_task.get(&task)?.slots.get(policies)?)
        };
        // While its lock is held, a session is being minted or removed.
        let held = slot.0.try_lock().ok()?;
        let session = held.as_ref()?;
        let outlives = session.usable_until > vault.clock.now().plus(call_ends_within(vault));
        outlives.then_some(session.anchor)
    }

    /// Removes the task's sessions. Returns their accessors, and how far the storage was when each
    /// was minted.
    pub(crate) async fn remove(&self, task: TaskId) -> Vec<(String, Option<Index>)> {
        let removed = self.by_task.lock().remove(&task);
        let mut found = Vec::new();
        for slot in removed.iter().flat_map(|of_task| of_task.slots.values()) {
            let session = slot.0.lock().await.take();
            found.extend(session.map(|s| (s.accessor.clone(), s.minted.clone())));
        }
        found
    }

    /// Removes the task's sessions that are among `accessors`, so that the next issue mints others.
    pub(crate) async fn remove_any_of(&self, task: TaskId, accessors: &BTreeSet<String>) {
        let slots: Vec<_> = match self.by_task.lock().get(&task) {
            Some(of_task) => of_task.slots.values().cloned().collect(),
            None => Vec::new(),
        };
        for slot in slots {
            let mut held = slot.0.lock().await;
            held.take_if(|session| accessors.contains(&session.accessor));
        }
    }

    /// Removes the sessions of tasks past their deadline.
    pub(crate) fn remove_expired(&self, now: Timestamp) {
        self.by_task.lock().retain(|_, task| task.deadline > now);
    }

    fn slot(
        &self,
        order: &IssueOrder,
        policies: &Policies,
        now: Timestamp,
    ) -> Result<Arc<Slot>, ProviderError> {
        let mut by_task = self.by_task.lock();
        if !by_task.contains_key(&order.task) && by_task.len() >= TASKS_MAX {
            by_task.retain(|_, task| task.deadline > now);
            if by_task.len() >= TASKS_MAX {
                return Err(ProviderError::retryable(format!(
                    "{TASKS_MAX} tasks have sessions at this provider; wait for some to end"
                )));
            }
        }
        let of_task = by_task.entry(order.task).or_insert_with(|| OfTask {
            slots: BTreeMap::new(),
            deadline: order.task_deadline,
        });
        if let Some(slot) = of_task.slots.get(policies) {
            return Ok(Arc::clone(slot));
        }
        if of_task.slots.len() >= SESSIONS_PER_TASK_MAX {
            return Err(ProviderError::Denied(format!(
                "task `{}` has {SESSIONS_PER_TASK_MAX} sessions with different policies already; start another task for this role",
                order.task
            )));
        }
        let slot = Arc::<Slot>::default();
        of_task.slots.insert(policies.clone(), Arc::clone(&slot));
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
        call_ends_within(vault)
    } else {
        SESSION_LEFT_MIN
    };
    session.usable_until > now.plus(needed)
}

fn call_ends_within(vault: &Vault) -> Duration {
    vault.request_max + CALL_BEGINS_WITHIN
}

#[cfg(test)]
mod tests {
    use taskpass_core::{Clock as _, CredentialId, ManualClock, Scope, SeededEntropy};

    use super::*;

    #[test]
    fn a_task_has_as_many_sessions_as_roles_and_no_more() {
        let (clock, entropy) = (ManualClock::new(Timestamp::EPOCH), SeededEntropy::new(1));
        let order = || IssueOrder {
            credential: CredentialId::generate(&clock, &entropy).unwrap(),
            task: TaskId::generate(&clock, &entropy).unwrap(),
            agent: "builder".parse().unwrap(),
            task_deadline: clock.now().plus(Duration::from_secs(60)),
            role: "vault-main/ci".parse().unwrap(),
            scope: Scope::default(),
            expires_at: clock.now(),
        };
        let (sessions, one) = (Sessions::default(), order());
        let slot = |order: &IssueOrder, n: usize| {
            let policies = Policies([format!("p{n}")].into());
            sessions.slot(order, &policies, clock.now())
        };
        for n in 0..SESSIONS_PER_TASK_MAX {
            slot(&one, n).unwrap();
        }
        let refused = slot(&one, SESSIONS_PER_TASK_MAX);
        assert!(
            matches!(refused, Err(ProviderError::Denied(_))),
            "{refused:?}"
        );
        assert!(slot(&one, 0).is_ok() && slot(&order(), 0).is_ok());
        assert_eq!(SESSIONS_PER_TASK_MAX, limits::TASK_ROLES_MAX);
    }
}
