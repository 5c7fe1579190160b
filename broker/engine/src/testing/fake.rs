//! A provider that a test controls.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{
    AnchorId, Clock, CredentialId, Impact, ManualClock, ProviderName, RevocationClass, RoleName,
    RoleSpec, Scope, Secret, SecretFields, TaskId, Ttl,
};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};
use tokio::sync::{Semaphore, oneshot};

use super::Happened;

/// How a call to issue shall end.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A credential that lives so long.
    Give(Duration),
    /// The same, but nothing ends it earlier. The role said otherwise.
    GiveIrrevocable(Duration),
    /// An error that leaves the outcome unknown.
    Doubt,
}

/// A provider with the role `<name>/r` and a session for each task. Its calls wait until the test
/// answers.
#[derive(Debug)]
pub(crate) struct Fake {
    name: ProviderName,
    roles: Vec<RoleSpec>,
    clock: Arc<ManualClock>,
    pub(crate) issues: Mutex<BTreeMap<CredentialId, oneshot::Sender<Answer>>>,
    pub(crate) renewals: AtomicUsize,
    /// Calls to renew wait while a test holds all of these.
    pub(crate) renewing: Semaphore,
    /// Calls to revoke pass one by one with these.
    pub(crate) revokes: Semaphore,
    pub(crate) revoking: AtomicUsize,
    pub(crate) revoking_most: AtomicUsize,
    pub(crate) orders: Mutex<Vec<RevokeOrder>>,
    /// Whether calls to issue, to renew and to revoke fail.
    pub(crate) is_down: AtomicBool,
    /// Why calls to issue from one role fail, if they do.
    pub(crate) sick: Mutex<Option<(RoleName, ProviderError)>>,
    /// Whether it issues through a session of the task that it has.
    pub(crate) keeps_sessions: AtomicBool,
    pub(crate) sessions: Mutex<BTreeMap<TaskId, AnchorId>>,
    /// How long lost calls may still run, if they may.
    pub(crate) lost_calls_run: Mutex<Option<Duration>>,
    happened: Happened,
}

impl Fake {
    pub(super) fn new(name: &str, clock: &Arc<ManualClock>, happened: &Happened) -> Arc<Self> {
        Arc::new(Self {
            name: name.parse().unwrap(),
            roles: vec![fake_role(name), other_role(name)],
            clock: Arc::clone(clock),
            issues: Mutex::default(),
            renewals: AtomicUsize::new(0),
            renewing: Semaphore::new(1),
            revokes: Semaphore::new(0),
            revoking: AtomicUsize::new(0),
            revoking_most: AtomicUsize::new(0),
            orders: Mutex::default(),
            is_down: false.into(),
            sick: Mutex::default(),
            keeps_sessions: false.into(),
            sessions: Mutex::default(),
            lost_calls_run: Mutex::default(),
            happened: Arc::clone(happened),
        })
    }

    /// Its first role.
    pub(crate) fn role(&self) -> &RoleName {
        &self.roles[0].name
    }

    /// Its second role.
    pub(crate) fn other_role(&self) -> &RoleName {
        &self.roles[1].name
    }

    fn held(&self, task: TaskId) -> Option<AnchorId> {
        let kept = self.sessions.lock().get(&task).copied();
        kept.filter(|_| self.keeps_sessions.load(Ordering::SeqCst))
    }

    /// Answers the call for the credential that has waited longest.
    pub(crate) fn answer(&self, answer: Answer) {
        let (_, waiting) = self.issues.lock().pop_first().unwrap();
        assert!(waiting.send(answer).is_ok());
    }
}

#[async_trait]
impl Provider for Fake {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "fake"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.roles
    }

    fn held_anchor(&self, task: TaskId, _: &RoleName, _: &Scope) -> Option<AnchorId> {
        self.held(task)
    }

    async fn calls_are_over(&self, _: Duration) -> Result<(), ProviderError> {
        let run_for = *self.lost_calls_run.lock();
        run_for.map_or(Ok(()), |left| {
            Err(ProviderError::Retryable {
                message: "a call may still run".to_owned(),
                after: Some(left),
            })
        })
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        Err(ProviderError::Unsupported("a test".to_owned()))
    }

    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(ProviderError::retryable("it is down"));
        }
        let sick = self.sick.lock().clone();
        if let Some((_, error)) = sick.filter(|(role, _)| *role == order.role) {
            return Err(error);
        }
        let (answer, answered) = oneshot::channel();
        let anchor = match self.held(order.task) {
            Some(held) => held,
            None => {
                anchors.intent_durable().await?;
                let handle = serde_json::json!({"session": order.credential});
                let anchor = anchors.record(handle, order.task_deadline).await?;
                self.sessions.lock().insert(order.task, anchor);
                anchor
            }
        };
        self.issues.lock().insert(order.credential, answer);
        self.happened.send_replace(());
        match answered.await {
            Ok(answer @ (Answer::Give(life) | Answer::GiveIrrevocable(life))) => {
                let revocation_class = match answer {
                    Answer::GiveIrrevocable(_) => RevocationClass::ExpiryOnly,
                    _ => RevocationClass::Immediate,
                };
                let mut data = SecretFields::new();
                data.insert("token", Secret::new("s3cret".to_owned()))
                    .unwrap();
                Ok(Issued {
                    data,
                    expires_at: self.clock.now().plus(life),
                    lives_for: Some(life),
                    revocation_class,
                    handle: None,
                    anchor: Some(anchor),
                })
            }
            _ => Err(ProviderError::retryable("no answer")),
        }
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        self.happened.send_replace(());
        if self.is_down.load(Ordering::SeqCst) {
            return Err(ProviderError::retryable("it is down"));
        }
        let _waited = self.renewing.acquire().await;
        Ok(Renewed {
            expires_at: order.until,
            lives_for: Some(order.until.since(self.clock.now())),
        })
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        let now = self.revoking.fetch_add(1, Ordering::SeqCst) + 1;
        self.revoking_most.fetch_max(now, Ordering::SeqCst);
        self.orders.lock().push(order.clone());
        self.happened.send_replace(());
        self.revokes.acquire().await.unwrap().forget();
        self.revoking.fetch_sub(1, Ordering::SeqCst);
        if self.is_down.load(Ordering::SeqCst) {
            return Err(ProviderError::retryable("it is down"));
        }
        let dead = Revoked {
            verified: true,
            proof: "the test says so".to_owned(),
            may_live_until: None,
            identity_until: None,
        };
        Ok(vec![Ok(dead); order.items.len()])
    }

    async fn probe(&self, _order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        Ok(Liveness::Unknown("a test".to_owned()))
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

/// The role `<provider>/r`, without parameters.
pub(crate) fn fake_role(provider: &str) -> RoleSpec {
    role_named(&format!("{provider}/r"))
}

/// The role `<provider>/s`.
fn other_role(provider: &str) -> RoleSpec {
    role_named(&format!("{provider}/s"))
}

fn role_named(name: &str) -> RoleSpec {
    RoleSpec {
        name: name.parse().unwrap(),
        kind: "fake".to_owned(),
        params: BTreeMap::new(),
        required: Vec::new(),
        max_ttl: Ttl::from_seconds(3600).unwrap(),
        max_total_ttl: None,
        impact: Impact::try_from(0).unwrap(),
        environment: String::new(),
        data_classes: Vec::new(),
        revocation_class: RevocationClass::Immediate,
        renewable: true,
        env: BTreeMap::new(),
    }
}
