//! The suite that every provider must pass, and this provider's own tests.
//!
//! The suite asks a fixture for orders, and for whether a credential really works. Give it as much
//! of the real back end as a test can have.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is a failed test"
)]

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskpass_core::{
    Clock, CredentialId, RoleName, Scope, SystemClock, SystemEntropy, TaskId, Timestamp,
};
use taskpass_provider::{
    Finding, IssueOrder, Issued, Parts, Provider, ProviderError, RevokeScope,
    conformance::{Fixture, RecordedAnchors, intent_item, revoke_order},
};
use taskpass_provider_template::{BROKER_PASSWORD, TemplateConfig, TemplateProvider, factory};

/// A provider with its directory, and the files that an operator writes.
struct World {
    provider: TemplateProvider,
    clock: Arc<dyn Clock>,
    _dir: tempfile::TempDir,
}

/// The example of `taskpass.toml`, with one role more.
fn config(address: &str) -> Value {
    let text = include_str!("../src/example.toml");
    let example: Value = toml::from_str(text).unwrap();
    let mut table = example["provider"][0].clone();
    table["address"] = json!(address);
    let admin = json!({ "name": "admin", "group": "admins", "impact": 3 });
    table["role"].as_array_mut().unwrap().push(admin);
    table
}

impl World {
    async fn new() -> Self {
        Self::at("memory:office")
    }

    fn at(address: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets/office-password");
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        std::fs::write(&file, format!("{BROKER_PASSWORD}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config: TemplateConfig = serde_json::from_value(config(address)).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let parts = Parts {
            base_dir: dir.path().to_owned(),
            clock: Arc::clone(&clock),
        };
        Self {
            provider: TemplateProvider::new(&config, &parts).unwrap(),
            clock,
            _dir: dir,
        }
    }

    fn order_for(&self, task: TaskId, role: &str, scope: &[(&str, &str)]) -> IssueOrder {
        let now = self.clock.now();
        let role: RoleName = role.parse().unwrap();
        IssueOrder {
            credential: CredentialId::generate(&*self.clock, &SystemEntropy::new()).unwrap(),
            task,
            agent: "builder".parse().unwrap(),
            task_deadline: now.plus(std::time::Duration::from_secs(3600)),
            role,
            scope: Scope::from_pairs(scope.iter().copied()).unwrap(),
            expires_at: now.plus(std::time::Duration::from_secs(600)),
        }
    }
}

#[async_trait]
impl Fixture for World {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn new_task(&self) -> TaskId {
        TaskId::generate(&*self.clock, &SystemEntropy::new()).unwrap()
    }

    fn order(&self, task: TaskId) -> IssueOrder {
        self.order_for(task, "office/reader", &[("team", "sales")])
    }

    async fn usable(&self, issued: &Issued) -> bool {
        let field = |name| issued.data.field(name).unwrap();
        let directory = self.provider.directory();
        directory.login(field("username").expose(), field("password"))
    }

    fn denied_order(&self) -> Option<IssueOrder> {
        Some(self.order_for(self.new_task(), "office/admin", &[]))
    }

    fn hostile_orders(&self) -> Vec<IssueOrder> {
        let values = ["../admins", "a/b", "a b"];
        let order = |value| self.order_for(self.new_task(), "office/reader", &[("team", value)]);
        values.map(order).to_vec()
    }

    fn canaries(&self) -> Vec<String> {
        vec![BROKER_PASSWORD.to_owned()]
    }

    async fn break_back_end(&self) -> bool {
        self.provider.directory().set_down(true);
        true
    }

    async fn mend_back_end(&self) {
        self.provider.directory().set_down(false);
    }
}

taskpass_provider::conformance!(World::new());

/// The configuration may have changed since a credential was minted. An unknown account is then no
/// proof.
#[tokio::test]
async fn another_directory_proves_nothing() {
    let (old, new) = (World::at("memory:old"), World::at("memory:new"));
    let order = old.order(old.new_task());
    let anchors = RecordedAnchors::new();
    old.provider.issue(&order, &anchors).await.unwrap();
    let item = intent_item(&old.provider, &order, Timestamp::EPOCH);
    let revoke = revoke_order(&order, RevokeScope::Credentials, &anchors, vec![item]);
    let results = new.provider.revoke(&revoke).await.unwrap();
    assert!(
        matches!(results.as_slice(), [Err(ProviderError::Misconfigured(text))] if text.contains("memory:old")),
        "{results:?}"
    );
}

#[test]
fn mistakes_have_their_places() {
    let factory = factory();
    assert_eq!(factory.check(&config("memory:office")), []);
    let mut wrong = config("ldap://x");
    wrong["role"][0]["params"] = json!({ "floor": { "max": 3 } });
    let places = factory.check(&wrong);
    let places: Vec<&str> = places
        .iter()
        .map(|Finding { place, .. }| place.as_str())
        .collect();
    assert_eq!(places, ["/address", "/role/0"]);
}
