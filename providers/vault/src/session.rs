//! One Vault token for each task: made short, recorded, extended; kept in memory only.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::{AnchorId, CredentialId, Secret, TaskId, Timestamp};
use taskpass_provider::{Anchors, IssueOrder, ProviderError};
use vaultrs::api::token::requests::{
    CreateOrphanTokenRequest, LookupTokenAccessorRequest, RenewTokenAccessorRequest,
    RevokeTokenAccessorRequest,
};

use crate::{fault::Fault, handle::AnchorHandle, provider::VaultProvider};

/// How long a token lives that was made but not yet recorded: longer than recording takes, also on a disk that is busy.
pub(crate) const PROBATION: Duration = Duration::from_secs(20);
/// Tasks whose tokens are kept; far more than one broker serves.
const SESSIONS_MAX: usize = 65_536;
/// How much later than now a call may begin, and Vault's clock may differ from ours.
const CALL_BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// A token with less than this left is not worth drawing with.
const SESSION_REST_MIN: Duration = Duration::from_secs(1);

/// A token that was recorded and extended.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) token: Secret,
    pub(crate) accessor: String,
    pub(crate) anchor: AnchorId,
    /// Until then it can be used for sure.
    pub(crate) ends_at: Timestamp,
    /// By then it is dead for sure, if nobody extends it.
    pub(crate) ends_by: Timestamp,
}

/// The sessions of all tasks.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_task: Mutex<HashMap<TaskId, Arc<Slot>>>,
}

/// One task's place. Its lock is held while a session is made, so that a task never makes two at once and no task
/// waits for another's.
#[derive(Debug)]
struct Slot {
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    deadline: Timestamp,
}

impl Sessions {
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

    /// Forgets the task's session and says which it was.
    pub(crate) async fn close(&self, task: TaskId) -> Option<String> {
        let slot = self.by_task.lock().remove(&task)?;
        let session = slot.session.lock().await.take();
        session.map(|session| session.accessor.clone())
    }

    /// Forgets the task's session if it is one of these.
    pub(crate) async fn drop_any_of(&self, task: TaskId, accessors: &BTreeSet<String>) {
        let slot = self.by_task.lock().get(&task).map(Arc::clone);
        if let Some(slot) = slot {
            let mut held = slot.session.lock().await;
            held.take_if(|session| accessors.contains(&session.accessor));
        }
    }

    /// Forgets `session`, which turned out to be dead, so that the next call makes another.
    pub(crate) async fn forget(&self, task: TaskId, session: &Arc<Session>) {
        let slot = self.by_task.lock().get(&task).map(Arc::clone);
        if let Some(slot) = slot {
            let mut held = slot.session.lock().await;
            held.take_if(|current| Arc::ptr_eq(current, session));
        }
    }

    /// Forgets the sessions of tasks whose deadline has passed.
    pub(crate) fn prune(&self, now: Timestamp) {
        self.by_task.lock().retain(|_, slot| slot.deadline > now);
    }
}

impl VaultProvider {
    /// The task's session; makes one if there is none.
    pub(crate) async fn session(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Arc<Session>, ProviderError> {
        let now = self.clock.now();
        let slot = self.sessions.slot(order, now)?;
        let mut held = slot.session.lock().await;
        // One that Vault cut short must outlive the call it is used for: see `doubt`.
        let worth = |session: &Arc<Session>| {
            let is_short = session.ends_at.plus(SESSION_REST_MIN) < order.task_deadline;
            let rest = if is_short {
                self.request_max + CALL_BEGINS_WITHIN
            } else {
                SESSION_REST_MIN
            };
            session.ends_at > now.plus(rest)
        };
        if let Some(session) = held.as_ref().filter(|session| worth(session)) {
            return Ok(Arc::clone(session));
        }
        let policies = self.task_policies(order);
        let born = self
            .bear_token(order, policies, order.task_deadline, None, anchors)
            .await?;
        let session = Arc::new(born);
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Makes an orphan token in two phases. It can live until `until`, and never beyond the task's deadline. `credential`
    /// is what it will be handed out as, if it is.
    pub(crate) async fn bear_token(
        &self,
        order: &IssueOrder,
        policies: Vec<String>,
        until: Timestamp,
        credential: Option<CredentialId>,
        anchors: &dyn Anchors,
    ) -> Result<Session, ProviderError> {
        let now = self.clock.now();
        let life = whole_seconds(until.since(now))?;
        let whole_life = whole_seconds(order.task_deadline.since(now))?;
        let probation = life.min(PROBATION.as_secs());
        let request = || token_request(order, &policies, probation, whole_life);
        let created = self.broker_call(request).await;
        let auth = created
            .map_err(|e| e.while_doing("create the task's token"))?
            .auth
            .ok_or_else(|| ProviderError::retryable("Vault created a token without telling it"))?;
        let token = Secret::new(auth.client_token);
        let accessor = auth.accessor;
        let recorded = self.record(&accessor, order, credential, anchors).await;
        let anchor = match recorded {
            Ok(anchor) => anchor,
            Err(error) => return Err(self.unmade(&accessor, error).await),
        };
        let mut seconds = probation;
        let (mut began, mut answered) = (now, self.clock.now());
        if life > probation {
            began = answered;
            let left = until.since(began).as_secs().max(1);
            match self.extend_token(&accessor, left).await {
                Ok(granted) => (seconds, answered) = (granted, self.clock.now()),
                Err(fault) => {
                    let error = fault.while_doing("extend the task's token");
                    return Err(self.unmade(&accessor, error).await);
                }
            }
        }
        let granted = Duration::from_secs(seconds);
        Ok(Session {
            token,
            accessor,
            anchor,
            ends_at: began.plus(granted).min(until),
            ends_by: answered.plus(granted),
        })
    }

    /// Lets go of a token that could not be brought to use. An error may promise that nothing was minted, which is true
    /// only of a token that is gone.
    async fn unmade(&self, accessor: &str, error: ProviderError) -> ProviderError {
        if self.let_go(accessor).await {
            error
        } else {
            ProviderError::retryable(error.to_string())
        }
    }

    /// Puts a token on record together with who made it: without that nobody could tell later whose word on its death counts.
    async fn record(
        &self,
        accessor: &str,
        order: &IssueOrder,
        credential: Option<CredentialId>,
        anchors: &dyn Anchors,
    ) -> Result<AnchorId, ProviderError> {
        let handle = AnchorHandle {
            accessor: accessor.to_owned(),
            credential,
            cluster: self.cluster().await?,
            namespace: self.namespace.clone(),
        };
        anchors.record(handle.to_json(), order.task_deadline).await
    }

    /// Extends a token to `seconds` from now; answers how many it got.
    pub(crate) async fn extend_token(&self, accessor: &str, seconds: u64) -> Result<u64, Fault> {
        let request = || RenewTokenAccessorRequest {
            accessor: accessor.to_owned(),
            increment: Some(format!("{seconds}s")),
        };
        let reply = self.broker_call(request).await?;
        Ok(reply.auth.map_or(0, |auth| auth.lease_duration))
    }

    /// Whether a token still exists.
    pub(crate) async fn token_is_alive(&self, accessor: &str) -> Result<bool, Fault> {
        let request = || LookupTokenAccessorRequest {
            accessor: accessor.to_owned(),
        };
        match self.broker_call(request).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.says_gone() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Revokes a token and proves by a lookup that it is gone.
    pub(crate) async fn end_token(&self, accessor: &str) -> Result<(), ProviderError> {
        let request = || RevokeTokenAccessorRequest {
            accessor: accessor.to_owned(),
        };
        match self.broker_call(request).await {
            Ok(_) => {}
            Err(fault) if fault.says_gone() => {}
            Err(fault) => return Err(fault.while_doing("revoke a token")),
        }
        match self.token_is_alive(accessor).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(ProviderError::retryable(
                "Vault revoked a token, but still finds it",
            )),
            Err(fault) => Err(fault.while_doing("look up a revoked token")),
        }
    }

    /// Revokes a token that nobody will use; when that fails, its short life ends it.
    pub(crate) async fn let_go(&self, accessor: &str) -> bool {
        match self.end_token(accessor).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(provider = %self.name, %error, "a token that was not handed out is left to expire");
                false
            }
        }
    }

    /// The policies of all roles that the task may draw on.
    fn task_policies(&self, order: &IssueOrder) -> Vec<String> {
        let roles = order.task_roles.iter().chain([&order.role]);
        let mut policies: Vec<String> = roles
            .filter_map(|name| self.role(name))
            .flat_map(|role| role.policies.iter().cloned())
            .collect();
        policies.sort();
        policies.dedup();
        policies
    }
}

/// An orphan that lives for `ttl` seconds, and can be extended until it is `ttl_max` seconds old.
fn token_request(
    order: &IssueOrder,
    policies: &[String],
    ttl: u64,
    ttl_max: u64,
) -> CreateOrphanTokenRequest {
    CreateOrphanTokenRequest {
        display_name: Some(format!("taskpass-{}", order.task)),
        meta: Some(HashMap::from([
            ("task".to_owned(), order.task.to_string()),
            ("agent".to_owned(), order.agent.to_string()),
        ])),
        explicit_max_ttl: Some(format!("{ttl_max}s")),
        ttl: Some(format!("{ttl}s")),
        no_default_policy: Some(true),
        policies: Some(policies.to_vec()),
        renewable: Some(true),
        token_type: Some("service".to_owned()),
        ..CreateOrphanTokenRequest::default()
    }
}

/// Rounded down, so that nothing outlives what was asked.
fn whole_seconds(span: Duration) -> Result<u64, ProviderError> {
    match span.as_secs() {
        0 => Err(ProviderError::Denied(
            "the task ends within a second; nothing is issued any more".to_owned(),
        )),
        seconds => Ok(seconds),
    }
}
