//! A server with engines, policies and roles, and a provider for it.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskpass_core::{
    Clock, CredentialId, ManualClock, RoleName, Scope, SeededEntropy, SystemClock, TaskId,
    Timestamp,
};
use taskpass_provider::{
    IssueOrder, Issued, Provider, ProviderError, RevokeOrder, Revoked, conformance::Fixture,
};
use taskpass_provider_vault::{BROKER_POLICY, VaultConfig, VaultProvider};

use crate::server::{Bao, Proxy, REQUEST_MAX, ROOT_TOKEN, Weather};

const ROLES: &str = r#"
[[role]]
name = "pki"
type = "dynamic"
path = "pki/issue/web"
method = "write"
ttl_field = "ttl"
policies = ["web"]
params = { common_name = { pattern = "[a-z.]+" } }

[[role]]
name = "pki-by-name"
type = "dynamic"
path = "pki/issue/${name}"
method = "write"
policies = ["web"]
params = { name = { pattern = ".*" }, common_name = { pattern = ".*" } }

[[role]]
name = "pki-unleased"
type = "dynamic"
path = "pki/issue/unleased"
method = "write"
ttl_field = "ttl"
policies = ["web"]
params = { common_name = { pattern = "[a-z.]+" } }

[[role]]
name = "reader"
type = "token"
policies = ["reader"]

[[role]]
name = "web-token"
type = "token"
policies = ["web"]

[[role]]
name = "reader-renewable"
type = "token"
policies = ["reader"]
renewable = true

[[role]]
name = "static"
type = "kv"
path = "secret/data/app"
policies = ["reader"]

[[role]]
name = "static-v1"
type = "kv"
path = "old/app"
version = 1
policies = ["reader"]

[[role]]
name = "no-op"
type = "dynamic"
path = "leased/app"
policies = ["reader"]

[[role]]
name = "no-op-by-name"
type = "dynamic"
path = "leased/${name}"
policies = ["reader"]
params = { name = { pattern = "[a-z]+" } }

[[role]]
name = "pki-claims-less"
type = "dynamic"
path = "pki/issue/web"
method = "write"
ttl_field = "ttl"
policies = ["web"]
params = { common_name = { pattern = "[a-z.]+" } }
engine_revokes = "at_expiry"

[[role]]
name = "shelf"
type = "kv"
path = "secret/data/${app}"
policies = ["reader"]
params = { app = { pattern = "[a-z]+" } }

[[role]]
name = "payroll"
type = "kv"
path = "secret/data/payroll"
policies = ["payroll"]

[[role]]
name = "shared"
type = "kv"
path = "secret/data/payroll"
policies = ["reader", "payroll"]

[[role]]
name = "denied"
type = "dynamic"
path = "pki/issue/web"
method = "write"
policies = ["nobody-wrote-this"]
params = { common_name = { pattern = "[a-z.]+" } }
"#;

const TOKEN_FILE: &str = "token_file = \"token\"\ntoken_role = \"taskpass\"";

/// The policies that the token role allows; the last one does not exist.
const ALLOWED: [&str; 4] = ["web", "reader", "payroll", "nobody-wrote-this"];

/// What the broker's policy needs beside the example where there is no token role.
pub(crate) const CREATE_ORPHAN: &str =
    "path \"auth/token/create-orphan\" { capabilities = [\"update\", \"sudo\"] }";

/// The example policy with the paths of the roles here in place of those of the example.
pub(crate) fn broker_policy() -> String {
    BROKER_POLICY
        .replace("lookup/database/creds/ci/", "lookup/leased/+/")
        .replace("lookup/pki/issue/ci/", "lookup/pki/issue/+/")
}

/// The policies of the roles.
const POLICIES: [(&str, &str); 3] = [
    (
        "payroll",
        "path \"secret/data/payroll\" { capabilities = [\"read\"] }",
    ),
    (
        "web",
        "path \"pki/issue/*\" { capabilities = [\"update\"] }",
    ),
    (
        "reader",
        "path \"secret/data/app\" { capabilities = [\"read\"] }\npath \"old/app\" { capabilities = [\"read\"] }\npath \"leased/app\" { capabilities = [\"read\"] }\npath \"auth/token/renew-self\" { capabilities = [\"update\"] }",
    ),
];

/// The same, and the broker's own.
fn policies() -> Vec<(&'static str, String)> {
    let of_roles = POLICIES.map(|(name, text)| (name, text.to_owned()));
    let own = ("broker", broker_policy());
    of_roles.into_iter().chain([own]).collect()
}

/// A server, a proxy in front of it, and a provider.
pub(crate) struct World {
    pub(crate) bao: Bao,
    pub(crate) proxy: Proxy,
    pub(crate) provider: VaultProvider,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) broker_token: String,
    address: String,
    /// More lines of the configuration, which make the provider trust the server.
    trust: &'static str,
    entropy: SeededEntropy,
    role: &'static str,
}

impl World {
    /// A world with orders for `role` from [`Fixture::order`].
    pub(crate) async fn new(role: &'static str) -> Self {
        Self::with_clock(role, Arc::new(SystemClock::new())).await
    }

    /// A world whose clock only the test moves; it starts with Vault's time.
    pub(crate) async fn with_manual_clock(role: &'static str) -> (Self, Arc<ManualClock>) {
        let clock = right_clock();
        (Self::with_clock(role, clock.clone()).await, clock)
    }

    pub(crate) async fn with_clock(role: &'static str, clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::around(Bao::start(), dir, role, clock, "").await
    }

    /// A world around the active server of a cluster.
    pub(crate) async fn of_cluster(role: &'static str, active: Bao) -> Self {
        Self::of_cluster_at(role, active, Arc::new(SystemClock::new())).await
    }

    pub(crate) async fn of_cluster_at(
        role: &'static str,
        active: Bao,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::around(active, dir, role, clock, "").await
    }

    /// A world in which Vault speaks TLS, and with it HTTP/2. A request may take ten minutes.
    pub(crate) async fn over_tls(role: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bao = Bao::start_with_tls(dir.path());
        let trust = "ca_file = \"vault-ca.pem\"\ntimeout = \"10m\"\n";
        Self::around(bao, dir, role, Arc::new(SystemClock::new()), trust).await
    }

    async fn around(
        bao: Bao,
        dir: tempfile::TempDir,
        role: &'static str,
        clock: Arc<dyn Clock>,
        trust: &'static str,
    ) -> Self {
        let broker_token = prepare(&bao).await;
        let proxy = Proxy::start(bao.port).await;
        write_secret(&dir, "token", &broker_token);
        let address = format!("{}://127.0.0.1:{}", bao.scheme, proxy.port);
        let config = config_at(&address, &format!("{trust}{TOKEN_FILE}"));
        let provider = VaultProvider::new(&config, dir.path(), Arc::clone(&clock)).unwrap();
        let entropy = SeededEntropy::new(7);
        Self {
            bao,
            proxy,
            provider,
            clock,
            dir,
            broker_token,
            address,
            trust,
            entropy,
            role,
        }
    }

    /// An order for any role.
    pub(crate) fn order_for(&self, task: TaskId, role: &str, scope: &[(&str, &str)]) -> IssueOrder {
        let now = self.clock.now();
        let role: RoleName = format!("vault-test/{role}").parse().unwrap();
        IssueOrder {
            credential: CredentialId::generate(&*self.clock, &self.entropy).unwrap(),
            task,
            agent: "builder".parse().unwrap(),
            task_deadline: now.plus(Duration::from_secs(1800)),
            role,
            scope: Scope::from_pairs(scope.iter().copied()).unwrap(),
            expires_at: now.plus(Duration::from_secs(600)),
        }
    }

    /// An order for a PKI role.
    pub(crate) fn pki_order(&self, task: TaskId, role: &str) -> IssueOrder {
        self.order_for(task, role, &[("common_name", "web.test")])
    }

    /// A provider of the same Vault, configured with another longest duration of a request.
    pub(crate) fn with_request_max(&self, longest: &str) -> VaultProvider {
        let mut config = self.config(TOKEN_FILE);
        config.max_request_duration = longest.parse().unwrap();
        self.provider_with(&config)
    }

    /// A provider of the same Vault in a namespace of its own.
    pub(crate) async fn in_namespace(&self, name: &str) -> VaultProvider {
        let path = format!("sys/namespaces/{name}");
        self.bao.must("POST", &path, json!({})).await;
        let token = admit_broker(&self.bao, &format!("{name}/")).await;
        write_secret(&self.dir, "token-of-namespace", &token);
        let access = format!(
            "token_file = \"token-of-namespace\"\ntoken_role = \"taskpass\"\nnamespace = \"{name}\""
        );
        self.provider_with(&self.config(&access))
    }

    /// A world in which the broker uses no token role, and may create orphans of any kind.
    pub(crate) async fn without_token_role(mut self) -> Self {
        let policy = format!("{}\n{CREATE_ORPHAN}", broker_policy());
        self.set_broker_policy(&policy).await;
        self.provider = self.provider_with(&self.config("token_file = \"token\""));
        self
    }

    /// Writes the policy that the broker's token has.
    pub(crate) async fn set_broker_policy(&self, policy: &str) {
        let policy = json!({ "policy": policy });
        let path = "sys/policies/acl/broker";
        self.bao.must("POST", path, policy).await;
    }

    /// Takes from the broker's token the right to list leases.
    pub(crate) async fn forbid_listing(&self) {
        let weaker = broker_policy().replace("\"list\", \"sudo\"", "\"deny\"");
        self.set_broker_policy(&weaker).await;
    }

    /// Makes another token and gives it to the broker.
    pub(crate) async fn replace_broker_token(&self, settings: Value) -> String {
        let token = created_token(&self.bao, "auth/token/create-orphan", settings).await;
        write_secret(&self.dir, "token", &token);
        token
    }

    /// Gives the broker a token that it has to renew now.
    pub(crate) async fn use_an_old_token(&self) -> String {
        let new = json!({"ttl": "1h", "policies": ["broker"], "no_default_policy": true});
        let token = self.replace_broker_token(new).await;
        let short = json!({"token": token, "increment": "20s"});
        self.bao.must("POST", "auth/token/renew", short).await;
        token
    }

    /// Writes settings of the token role, beside those that make it work.
    pub(crate) async fn set_token_role(&self, more: Value) {
        let mut settings = token_role();
        let more = more.as_object().unwrap().clone();
        settings.as_object_mut().unwrap().extend(more);
        let path = "auth/token/roles/taskpass";
        self.bao.must("POST", path, settings).await;
    }

    /// Another broker process on the same Vault, without sessions in memory.
    pub(crate) fn restarted(&self) -> VaultProvider {
        self.provider_with(&self.config(TOKEN_FILE))
    }

    fn provider_with(&self, config: &VaultConfig) -> VaultProvider {
        VaultProvider::new(config, self.dir.path(), Arc::clone(&self.clock)).unwrap()
    }

    fn config(&self, access: &str) -> VaultConfig {
        config_at(&self.address, &format!("{}{access}", self.trust))
    }

    /// Whether Vault still knows a lease.
    pub(crate) async fn lease_is_there(&self, lease_id: &str) -> bool {
        let body = json!({"lease_id": lease_id});
        self.bao.admin("PUT", "sys/leases/lookup", body).await.0 == 200
    }

    /// Whether Vault still knows a token.
    pub(crate) async fn token_is_there(&self, accessor: &str) -> bool {
        let body = json!({"accessor": accessor});
        self.bao
            .admin("POST", "auth/token/lookup-accessor", body)
            .await
            .0
            == 200
    }

    /// What Vault says of the token with this handle.
    pub(crate) async fn token_data(&self, handle: Value) -> Value {
        let path = "auth/token/lookup-accessor";
        self.bao.must("POST", path, handle).await["data"].take()
    }

    /// The accessors of all tokens.
    pub(crate) async fn accessors(&self) -> Vec<String> {
        let listed = self
            .bao
            .must("LIST", "auth/token/accessors", Value::Null)
            .await;
        let keys = listed["data"]["keys"].as_array().unwrap();
        keys.iter()
            .map(|key| key.as_str().unwrap().to_owned())
            .collect()
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
        TaskId::generate(&*self.clock, &self.entropy).unwrap()
    }

    fn order(&self, task: TaskId) -> IssueOrder {
        match self.role {
            "pki" => self.pki_order(task, "pki"),
            role => self.order_for(task, role, &[]),
        }
    }

    async fn usable(&self, issued: &Issued) -> bool {
        if let Some(token) = issued.data.field("token") {
            let (status, _) = self
                .bao
                .call_as(token.expose(), "GET", "secret/data/app", Value::Null)
                .await;
            return status == 200;
        }
        if let Some(serial) = issued.data.field("serial_number") {
            let path = format!("pki/cert/{}", serial.expose());
            let answer = self.bao.must("GET", &path, Value::Null).await;
            return answer["data"]["revocation_time"] == 0;
        }
        issued
            .data
            .field("password")
            .is_some_and(|secret| secret.expose() == "canary-static-secret")
    }

    fn denied_order(&self) -> Option<IssueOrder> {
        (self.role == "pki").then(|| self.pki_order(self.new_task(), "denied"))
    }

    fn hostile_orders(&self) -> Vec<IssueOrder> {
        let names = [
            "..",
            ".",
            "",
            "web/../../sys",
            "%2e%2e",
            "a?b",
            "a#b",
            "..\\x",
        ];
        let order = |name: &&str| {
            let scope = [("name", *name), ("common_name", "web.test")];
            self.order_for(self.new_task(), "pki-by-name", &scope)
        };
        names.iter().map(order).collect()
    }

    fn canaries(&self) -> Vec<String> {
        vec![ROOT_TOKEN.to_owned(), self.broker_token.clone()]
    }

    fn revoking_kills(&self) -> bool {
        !matches!(self.role, "static" | "no-op")
    }

    async fn break_back_end(&self) -> bool {
        self.proxy.set(Weather::Down);
        true
    }

    async fn mend_back_end(&self) {
        self.proxy.set(Weather::Fair);
    }
}

/// A clock that only the test moves; it starts with Vault's time.
pub(crate) fn right_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(SystemClock::new().now()))
}

/// The outcome for the first item of an order that the provider takes on.
pub(crate) async fn revoke(
    provider: &dyn Provider,
    order: &RevokeOrder,
) -> Result<Revoked, ProviderError> {
    provider.revoke(order).await.unwrap().remove(0)
}

pub(crate) fn lease_id(issued: &Issued) -> String {
    let handle = issued.handle.as_ref().unwrap();
    handle["lease_id"].as_str().unwrap().to_owned()
}

/// The configuration with every role of the tests.
pub(crate) fn config(port: u16, access: &str) -> VaultConfig {
    config_at(&format!("http://127.0.0.1:{port}"), access)
}

fn config_at(address: &str, access: &str) -> VaultConfig {
    let text = format!(
        "name = \"vault-test\"\nkind = \"vault\"\naddress = \"{address}\"\nmax_request_duration = \"{REQUEST_MAX}\"\n{access}\n{ROLES}"
    );
    toml::from_str(&text).unwrap()
}

/// Writes a secret file as an operator would.
pub(crate) fn write_secret(dir: impl AsRef<Path>, name: &str, secret: &str) {
    let (path, new) = (dir.as_ref().join(name), dir.as_ref().join("new"));
    std::fs::write(&new, secret).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Gives a fresh server its engines, policies and roles; returns the broker's own token.
async fn prepare(bao: &Bao) -> String {
    bao.must("POST", "sys/mounts/pki", json!({"type": "pki"}))
        .await;
    let ca = json!({"common_name": "test", "key_type": "ec", "key_bits": 256, "ttl": "24h"});
    bao.must("POST", "pki/root/generate/internal", ca).await;
    // Otherwise each revocation signs a new list.
    bao.must("POST", "pki/config/crl", json!({"auto_rebuild": true}))
        .await;
    for (name, leased) in [("web", true), ("unleased", false)] {
        let role = json!({
            "allow_any_name": true, "generate_lease": leased, "max_ttl": "12h", "key_type": "ec", "key_bits": 256
        });
        bao.must("POST", &format!("pki/roles/{name}"), role).await;
    }
    bao.must("POST", "sys/mounts/old", json!({"type": "kv"}))
        .await;
    let secret = json!({"password": "canary-static-secret", "port": 5432});
    bao.must("POST", "old/app", secret.clone()).await;
    // An engine that gives leases, and whose revocation does nothing.
    let leased = json!({"type": "kv", "options": {"version": "1", "leased_passthrough": "true"}});
    bao.must("POST", "sys/mounts/leased", leased).await;
    let with_ttl = json!({"password": "canary-static-secret", "ttl": "600"});
    bao.must("POST", "leased/app", with_ttl).await;
    bao.must("POST", "secret/data/app", json!({ "data": secret }))
        .await;
    admit_broker(bao, "").await
}

/// Writes the policies and the token role below a prefix; returns the broker's own token there.
async fn admit_broker(bao: &Bao, prefix: &str) -> String {
    for (name, policy) in policies() {
        let path = format!("{prefix}sys/policies/acl/{name}");
        bao.must("POST", &path, json!({ "policy": policy })).await;
    }
    let path = format!("{prefix}auth/token/roles/taskpass");
    bao.must("POST", &path, token_role()).await;
    let path = format!("{prefix}auth/token/create-orphan");
    let settings = json!({"period": "1h", "policies": ["broker"], "no_default_policy": true});
    created_token(bao, &path, settings).await
}

/// The token that a call to `path` makes.
pub(crate) async fn created_token(bao: &Bao, path: &str, settings: Value) -> String {
    let created = bao.must("POST", path, settings).await;
    created["auth"]["client_token"].as_str().unwrap().to_owned()
}

/// The settings that the example policy advises.
fn token_role() -> Value {
    json!({
        "allowed_policies": ALLOWED, "orphan": true, "token_no_default_policy": true,
        "token_type": "service", "token_explicit_max_ttl": "8h",
    })
}
