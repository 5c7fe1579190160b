//! A seal: the transit engine of Vault or OpenBao wraps the data key of the broker's own keys.
//!
//! The engine's key never leaves the server. The context is passed as `associated_data`, which an
//! AEAD key authenticates, and as `context`, which a derived key needs.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use taskpass_core::{Secret, Ttl};
use taskpass_provider::{
    BuildError, Finding, ProviderError, Seal, SealConfiguration, SealParts,
    config::{FilePath, SecretFile},
};

use crate::{
    api::EngineCall,
    broker_token::{BrokerToken, TokenSource},
    config::{AppRoleConfig, ConfigError, VaultConfig},
    transport::Transport,
    validate::is_plain_path,
};

/// A key of the transit engine of HashiCorp Vault or OpenBao. The broker calls the engine once at
/// its start. The token needs `update` on `<mount>/encrypt/<key>` and `<mount>/decrypt/<key>`, and
/// nothing else. Use a server on another machine: a thief of this one must not get both.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitConfig {
    /// The kind of seal.
    pub seal: TransitWord,
    /// The name of the transit key, of type `aes256-gcm96` or `chacha20-poly1305`.
    pub key: String,
    /// Where the transit engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// Where the server is, `https://host:port`, with a path when it is behind one.
    pub address: String,
    /// The namespace of the engine. Without it, the root namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// PEM certificates of the authorities to trust, and no others. Without it, the broker trusts
    /// the authorities of the system.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
    /// Allows `http://` to another machine, which shows the data key to the network.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// A file of mode 0600 with a token. Give exactly one of `token_file` and `approle`.
    #[serde(default)]
    pub token_file: Option<SecretFile>,
    /// Logs in with AppRole instead of a token.
    #[serde(default)]
    pub approle: Option<AppRoleConfig>,
    /// How long one request may take, connecting included.
    #[serde(default = "default_timeout")]
    pub timeout: Ttl,
}

/// The word behind `seal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransitWord {
    /// A key of the transit engine of HashiCorp Vault or OpenBao.
    VaultTransit,
}

fn default_mount() -> String {
    "transit".to_owned()
}

fn default_timeout() -> Ttl {
    // INVARIANT: 10 is within 1 s … 366 d; the fallback is never taken.
    Ttl::from_seconds(10).unwrap_or(Ttl::MAX)
}

impl TransitConfig {
    /// The server as a provider without roles would be configured, so that both follow the same
    /// rules.
    fn server(&self) -> Result<VaultConfig, serde_json::Error> {
        let path = |file: &Path| file.to_string_lossy().into_owned();
        let approle = self.approle.as_ref().map(|approle| {
            json!({
                "mount": approle.mount,
                "role_id": approle.role_id,
                "secret_id_file": path(approle.secret_id_file.as_ref()),
            })
        });
        serde_json::from_value(json!({
            "name": "keys",
            "kind": "vault",
            "address": self.address,
            "namespace": self.namespace,
            "ca_file": self.ca_file.as_ref().map(|file| path(file.as_ref())),
            "allow_plaintext": self.allow_plaintext,
            "token_file": self.token_file.as_ref().map(|file| path(file.as_ref())),
            "approle": approle,
            "timeout": self.timeout.to_string(),
        }))
    }
}

impl SealConfiguration for TransitConfig {
    const WORD: &'static str = "vault_transit";

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let odd = |text: &str| !is_plain_path(text);
        if odd(&self.mount) {
            found.push(Finding::new(
                "/mount",
                "`mount` must be a path like `transit`",
            ));
        }
        if odd(&self.key) || self.key.contains('/') {
            found.push(Finding::new(
                "/key",
                "`key` must be the name of a transit key",
            ));
        }
        match self.server() {
            Ok(server) => found.extend(server.mistakes().into_iter().map(|(place, error)| {
                let message = match error {
                    ConfigError::Provider { message, .. } | ConfigError::Role { message, .. } => {
                        message
                    }
                };
                Finding::new(place, message)
            })),
            Err(error) => found.push(Finding::new("", error)),
        }
        found
    }

    fn build(&self, parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError> {
        if let Some(first) = self.findings().into_iter().next() {
            return Err(first.message.into());
        }
        let server = self.server()?;
        let base_dir = &parts.base_dir;
        let source = match (&self.approle, &self.token_file) {
            (Some(approle), _) => TokenSource::AppRole(AppRoleConfig {
                secret_id_file: base_dir.join(&approle.secret_id_file).into(),
                ..approle.clone()
            }),
            (None, Some(file)) => TokenSource::File(base_dir.join(file)),
            // INVARIANT: `findings` names this as a mistake.
            (None, None) => TokenSource::File(base_dir.clone()),
        };
        Ok(Arc::new(Transit {
            transport: Transport::new(&server, base_dir)?,
            token: BrokerToken::new(source, Arc::clone(&parts.clock)),
            mount: self.mount.clone(),
            key: self.key.clone(),
        }))
    }
}

#[derive(Debug)]
struct Transit {
    transport: Transport,
    token: BrokerToken,
    mount: String,
    key: String,
}

impl Transit {
    /// Calls one operation of the engine, and returns one field of the answer.
    async fn call(
        &self,
        operation: &str,
        mut body: Value,
        context: &str,
        field: &str,
    ) -> Result<Secret, ProviderError> {
        let context = STANDARD.encode(context);
        if let Some(body) = body.as_object_mut() {
            body.insert("associated_data".to_owned(), Value::from(context.clone()));
            body.insert("context".to_owned(), Value::from(context));
        }
        let call = EngineCall {
            path: format!("{}/{operation}/{}", self.mount, self.key),
            body: Some(body),
        };
        let doing = format!(
            "{operation} the data key with `{}/{}`",
            self.mount, self.key
        );
        let answered = self.token.call(&self.transport, || call.clone(), None);
        let reply = answered.await.map_err(|fault| fault.while_doing(&doing))?;
        let text = reply.text(field).map(str::to_owned).map(Secret::new);
        text.ok_or_else(|| {
            ProviderError::retryable(format!("Vault's answer to {doing} has no `{field}`"))
        })
    }
}

#[async_trait]
impl Seal for Transit {
    async fn wrap(&self, key: &Secret, context: &str) -> Result<String, ProviderError> {
        let body = json!({ "plaintext": key.expose() });
        let wrapped = self.call("encrypt", body, context, "ciphertext").await?;
        Ok(wrapped.expose().to_owned())
    }

    async fn unwrap(&self, wrapped: &str, context: &str) -> Result<Secret, ProviderError> {
        let body = json!({ "ciphertext": wrapped });
        self.call("decrypt", body, context, "plaintext").await
    }
}
