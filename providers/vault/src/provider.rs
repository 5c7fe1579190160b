//! The provider: its parts, and the trait.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use taskpass_core::{
    AnchorId, AnchorKey, Clock, CredentialId, ProviderName, RoleName, RoleSpec, Scope, TaskId,
};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};

use crate::{
    broker_token::{BrokerToken, TokenSource},
    check::check,
    config::{AppRoleConfig, ConfigError, VaultConfig},
    engine::KnownMounts,
    in_doubt::CallsInDoubt,
    issue::Issuing,
    probe::probe,
    reach::judged,
    renew::renew,
    revoke::Revoking,
    roles::Roles,
    session::Sessions,
    transport::Transport,
    vault::Vault,
};

/// One Vault or OpenBao.
#[derive(Debug)]
pub struct VaultProvider {
    vault: Vault,
    roles: Roles,
    sessions: Sessions,
    calls: CallsInDoubt,
}

impl VaultProvider {
    /// Checks the configuration and prepares the connection; makes no call to the server.
    ///
    /// Relative paths in `config` are below `base_dir`. The files with secrets are read at the
    /// first call.
    pub fn new(
        config: &VaultConfig,
        base_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let source = match (&config.token_file, &config.approle) {
            (_, Some(approle)) => TokenSource::AppRole(AppRoleConfig {
                secret_id_file: base_dir.join(&approle.secret_id_file).into(),
                ..approle.clone()
            }),
            (Some(file), None) => TokenSource::File(base_dir.join(file)),
            // INVARIANT: `validate` refused this.
            (None, None) => TokenSource::File(base_dir.to_owned()),
        };
        Ok(Self {
            vault: Vault {
                name: config.name.clone(),
                transport: Transport::new(config, base_dir)?,
                token: BrokerToken::new(source, Arc::clone(&clock)),
                clock,
                namespace: plain_namespace(config.namespace.as_deref()),
                token_role: config.token_role.clone(),
                request_max: config.max_request_duration.duration(),
                lag: parking_lot::Mutex::default(),
                mounts: KnownMounts::default(),
            },
            roles: Roles::new(config.checked_roles()?),
            sessions: Sessions::default(),
            calls: CallsInDoubt::default(),
        })
    }
}

#[async_trait]
impl Provider for VaultProvider {
    fn name(&self) -> &ProviderName {
        &self.vault.name
    }

    fn kind(&self) -> &'static str {
        "vault"
    }

    fn roles(&self) -> &[RoleSpec] {
        self.roles.specs()
    }

    fn locator(&self, role: &RoleName, scope: &Scope) -> Option<Value> {
        Some(self.roles.locator(role, scope)?.to_json())
    }

    fn anchor_key(
        &self,
        role: &RoleName,
        _scope: &Scope,
        credential: CredentialId,
    ) -> Option<AnchorKey> {
        self.roles.anchor_key(role, credential)
    }

    fn held_anchor(&self, task: TaskId, role: &RoleName, _scope: &Scope) -> Option<AnchorId> {
        let policies = self.roles.session_policies(role)?;
        self.sessions.held(&self.vault, task, &policies)
    }

    async fn calls_are_over(&self, sent_before: Duration) -> Result<(), ProviderError> {
        self.calls.are_over(&self.vault, sent_before).await
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        check(&self.vault, &self.roles).await
    }

    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        let issuing = Issuing {
            vault: &self.vault,
            roles: &self.roles,
            sessions: &self.sessions,
            order,
            anchors,
        };
        match issuing.issue().await {
            Err(error) => Err(judged(&self.vault, error).await),
            issued => issued,
        }
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        match renew(&self.vault, order).await {
            Err(error) => Err(judged(&self.vault, error).await),
            renewed => renewed,
        }
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        let revoking = Revoking {
            vault: &self.vault,
            roles: &self.roles,
            sessions: &self.sessions,
            calls: &self.calls,
            order,
        };
        revoking.revoke().await
    }

    async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        probe(&self.vault, order).await
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        self.sessions.remove_expired(self.vault.clock.now());
        self.vault.token.maintain(&self.vault.transport).await
    }
}

fn plain_namespace(namespace: Option<&str>) -> Option<String> {
    let plain = namespace?.trim_matches('/');
    (!plain.is_empty() && plain != "root").then(|| plain.to_owned())
}
