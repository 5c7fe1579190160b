//! The provider: its parts, and the trait.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustify::endpoint::Endpoint;
use serde_json::Value;
use taskpass_core::{Clock, ProviderName, RoleName, RoleSpec, Scope};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};

use crate::{
    api::Reply,
    broker_token::{BrokerToken, TokenSource},
    config::{AppRoleConfig, ConfigError, VaultConfig},
    doubt::Doubts,
    fault::Fault,
    issue::lost_lease,
    role::Role,
    session::Sessions,
    transport::Transport,
};

/// One Vault or OpenBao.
#[derive(Debug)]
pub struct VaultProvider {
    pub(crate) name: ProviderName,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) roles: Vec<Role>,
    pub(crate) transport: Transport,
    pub(crate) sessions: Sessions,
    pub(crate) doubts: Doubts,
    /// The longest that Vault works on one request.
    pub(crate) request_max: Duration,
    /// Without the slashes that people put around it.
    pub(crate) namespace: Option<String>,
    /// Roles whose engine was seen to answer without a lease: looking for one would always find none.
    pub(crate) unleased: Mutex<BTreeSet<RoleName>>,
    specs: Vec<RoleSpec>,
    token: BrokerToken,
}

impl VaultProvider {
    /// Checks the configuration and prepares the connection; asks the server nothing yet.
    ///
    /// Relative paths in `config` are below `base_dir`. The files with secrets are read at the first call.
    pub fn new(
        config: &VaultConfig,
        base_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let roles = config.checked_roles()?;
        let transport = Transport::new(config, base_dir)?;
        let source = match (&config.token_file, &config.approle) {
            (_, Some(approle)) => TokenSource::AppRole(AppRoleConfig {
                secret_id_file: base_dir.join(&approle.secret_id_file),
                ..approle.clone()
            }),
            (file, None) => TokenSource::File(base_dir.join(file.clone().unwrap_or_default())),
        };
        Ok(Self {
            name: config.name.clone(),
            specs: roles.iter().map(|role| role.spec.clone()).collect(),
            roles,
            transport,
            sessions: Sessions::default(),
            doubts: Doubts::default(),
            request_max: config.max_request_duration.duration(),
            namespace: plain_namespace(config.namespace.as_deref()),
            unleased: Mutex::default(),
            token: BrokerToken::new(source, Arc::clone(&clock)),
            clock,
        })
    }

    pub(crate) fn role(&self, name: &RoleName) -> Option<&Role> {
        self.roles.iter().find(|role| role.spec.name == *name)
    }

    /// Calls with the broker's own token.
    pub(crate) async fn broker_call<E, F>(&self, endpoint: F) -> Result<Reply, Fault>
    where
        E: Endpoint,
        F: Fn() -> E + Send + Sync,
    {
        self.token.call(&self.transport, endpoint).await
    }
}

#[async_trait]
impl Provider for VaultProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "vault"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.specs
    }

    fn locator(&self, role: &RoleName, scope: &Scope) -> Option<Value> {
        if self.unleased.lock().contains(role) {
            return None;
        }
        Some(lost_lease(self.role(role)?, scope)?.to_json())
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        self.examine().await
    }

    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        self.mint(order, anchors).await
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        self.extend(order).await
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        self.revoke_all(order).await
    }

    async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        self.look_at(order).await
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        self.sessions.prune(self.clock.now());
        self.token.maintain(&self.transport).await
    }
}

fn plain_namespace(namespace: Option<&str>) -> Option<String> {
    let plain = namespace?.trim_matches('/');
    (!plain.is_empty() && plain != "root").then(|| plain.to_owned())
}
