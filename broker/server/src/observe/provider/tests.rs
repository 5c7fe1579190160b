//! Every method reaches the provider that is measured, and its answer comes back.

use parking_lot::Mutex;
use serde_json::json;
use taskpass_core::{AnchorId, CredentialId, ManualClock, TaskId, Timestamp};
use taskpass_provider::RevokeScope;

use super::*;

/// The trait in its own words, so that a method that is added to it is missed here.
const TRAIT: &str = include_str!("../../../../../providers/api/src/lib.rs");

/// A provider that notes which of its methods are called. No answer is a default of the trait.
#[derive(Debug)]
struct Recorder {
    name: ProviderName,
    called: Mutex<Vec<&'static str>>,
}

impl Recorder {
    fn note(&self, method: &'static str) {
        self.called.lock().push(method);
    }

    fn failed<T>(&self, method: &'static str) -> Result<T, ProviderError> {
        self.note(method);
        Err(ProviderError::Gone(method.to_owned()))
    }
}

#[deny(clippy::missing_trait_methods)]
#[tonic::async_trait]
impl Provider for Recorder {
    fn name(&self) -> &ProviderName {
        self.note("name");
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.note("kind");
        "recorder"
    }

    fn roles(&self) -> &[RoleSpec] {
        self.note("roles");
        &[]
    }

    fn locator(&self, _: &RoleName, _: &Scope) -> Option<Value> {
        self.note("locator");
        Some(json!("a place"))
    }

    fn anchor_key(&self, _: &RoleName, _: &Scope, _: CredentialId) -> Option<AnchorKey> {
        self.note("anchor_key");
        Some(AnchorKey::of(["a kind"]))
    }

    fn held_anchor(&self, _: TaskId, _: &RoleName, _: &Scope) -> Option<AnchorId> {
        self.note("held_anchor");
        Some(AnchorId::first_at(Timestamp::EPOCH))
    }

    async fn calls_are_over(&self, _: Duration) -> Result<(), ProviderError> {
        self.failed("calls_are_over")
    }

    fn may_overlap(&self) -> bool {
        self.note("may_overlap");
        false
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        self.failed("check")
    }

    async fn issue(&self, _: &IssueOrder, _: &dyn Anchors) -> Result<Issued, ProviderError> {
        self.failed("issue")
    }

    async fn renew(&self, _: &RenewOrder) -> Result<Renewed, ProviderError> {
        self.failed("renew")
    }

    async fn revoke(
        &self,
        _: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        self.failed("revoke")
    }

    async fn probe(&self, _: &RevokeOrder) -> Result<Liveness, ProviderError> {
        self.failed("probe")
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        self.failed("maintain")
    }
}

/// Records nothing.
#[derive(Debug)]
struct NoAnchors;

#[tonic::async_trait]
impl Anchors for NoAnchors {
    async fn intent_durable(&self) -> Result<(), ProviderError> {
        Err(ProviderError::retryable("nothing is recorded here"))
    }

    async fn record(&self, _: Value, _: Timestamp) -> Result<AnchorId, ProviderError> {
        Err(ProviderError::retryable("nothing is recorded here"))
    }
}

/// The names of the trait's methods, in its order.
fn methods() -> Vec<&'static str> {
    let declared = |line: &'static str| {
        let line = line.trim().trim_start_matches("async ");
        line.strip_prefix("fn ")?.split('(').next()
    };
    TRAIT.lines().filter_map(declared).collect()
}

fn word<T>(result: Result<T, ProviderError>) -> String {
    result
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[tokio::test]
async fn every_method_is_forwarded() {
    let role: RoleName = "vault-main/r".parse().unwrap();
    let (task, credential) = (
        TaskId::first_at(Timestamp::EPOCH),
        CredentialId::first_at(Timestamp::EPOCH),
    );
    let inner = Arc::new(Recorder {
        name: "vault-main".parse().unwrap(),
        called: Mutex::default(),
    });
    let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
    let provider = Arc::<Recorder>::clone(&inner);
    let observed = ObservedProvider::new(provider, &Metrics::default(), clock);
    inner.called.lock().clear();

    let issue = IssueOrder {
        credential,
        task,
        agent: "builder".parse().unwrap(),
        task_deadline: Timestamp::EPOCH,
        role: role.clone(),
        scope: Scope::default(),
        expires_at: Timestamp::EPOCH,
    };
    let renew = RenewOrder {
        credential,
        task,
        role: role.clone(),
        handle: None,
        anchor: None,
        until: Timestamp::EPOCH,
    };
    let revoke = RevokeOrder {
        task,
        agent: "builder".parse().unwrap(),
        task_deadline: Timestamp::EPOCH,
        scope: RevokeScope::Task,
        anchors: Vec::new(),
        calls_may_run: false,
        items: Vec::new(),
    };
    assert_eq!(observed.name().to_string(), "vault-main");
    assert_eq!(observed.kind(), "recorder");
    assert!(observed.roles().is_empty());
    let place = observed.locator(&role, &Scope::default());
    assert_eq!(place, Some(json!("a place")));
    let key = observed.anchor_key(&role, &Scope::default(), credential);
    assert_eq!(key, Some(AnchorKey::of(["a kind"])));
    let held = observed.held_anchor(task, &role, &Scope::default());
    assert_eq!(held, Some(AnchorId::first_at(Timestamp::EPOCH)));
    let over = observed.calls_are_over(Duration::ZERO).await;
    assert_eq!(word(over), "calls_are_over");
    assert!(!observed.may_overlap());
    assert_eq!(word(observed.check().await), "check");
    assert_eq!(word(observed.issue(&issue, &NoAnchors).await), "issue");
    assert_eq!(word(observed.renew(&renew).await), "renew");
    assert_eq!(word(observed.revoke(&revoke).await), "revoke");
    assert_eq!(word(observed.probe(&revoke).await), "probe");
    assert_eq!(word(observed.maintain().await), "maintain");
    assert_eq!(*inner.called.lock(), methods());
}
