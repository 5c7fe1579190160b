//! The provider: its parts, and the trait.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use rustify::endpoint::Endpoint;
use taskpass_core::{Clock, ProviderName, RoleName, RoleSpec};
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
