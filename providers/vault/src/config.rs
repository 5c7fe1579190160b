//! The configuration of one Vault or OpenBao.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use taskpass_core::{Impact, ProviderName, Ttl};
use taskpass_provider::config::{EnvConfig, FilePath, ParamConfigs, SecretFile};

use crate::engine::EngineRevokes;

/// HashiCorp Vault or OpenBao. A task gets Vault tokens of its own, through which its credentials
/// are issued: one for each set of `policies` of the roles that it uses.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// The provider's name, the part before the slash in `<provider>/<role>`. Unique in the file.
    pub name: ProviderName,
    /// The kind of provider.
    pub kind: VaultKind,
    /// Where the server is, `https://host:port`, with a path when it is behind one.
    pub address: String,
    /// The namespace of every request. Without it, the root namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// PEM certificates of the authorities to trust, and no others. Without it, the broker trusts
    /// the authorities of the system.
    #[serde(default)]
    pub ca_file: Option<FilePath>,
    /// Allows `http://` to another machine, which shows every secret to the network.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// A file of mode 0600 with the broker's own token; read again when it changes. Give exactly
    /// one of `token_file` and `approle`.
    #[serde(default)]
    pub token_file: Option<SecretFile>,
    /// Logs in with AppRole instead of a token.
    #[serde(default)]
    pub approle: Option<AppRoleConfig>,
    /// The token role through which the broker makes the tokens of tasks, with
    /// `auth/token/create/<token_role>`. Its `allowed_policies` and `allowed_policies_glob` are all
    /// that a thief of the broker's token could get. Without it, the broker needs `sudo` on
    /// `auth/token/create-orphan`, which gives tokens with any policy but root, and a check of the
    /// provider warns.
    #[serde(default)]
    pub token_role: Option<String>,
    /// How long one request may take, connecting included.
    #[serde(default = "default_timeout")]
    pub timeout: Ttl,
    /// The longest that the server works on one request: its `default_max_request_duration`, or the
    /// largest `max_request_duration` of its listeners. When the answer to a request is lost, the
    /// task's Vault token has to live for that long. With a value that is too short, a credential
    /// of the lost answer can outlive the task unseen.
    #[serde(default = "default_max_request_duration")]
    pub max_request_duration: Ttl,
    /// The roles.
    #[serde(default, rename = "role")]
    pub roles: Vec<RoleConfig>,
}

/// The word behind `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaultKind {
    /// HashiCorp Vault or OpenBao.
    Vault,
}

/// Logging in with AppRole.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRoleConfig {
    /// Where the auth method is mounted.
    #[serde(default = "default_approle_mount")]
    pub mount: String,
    /// The role's id; not a secret.
    pub role_id: String,
    /// A file of mode 0600 with the secret id; read at each login.
    pub secret_id_file: SecretFile,
}

/// One `[[provider.role]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// The role's name, the part after the slash in `<provider>/<role>`. Unique in the provider.
    pub name: String,
    /// The type of credential that the role issues.
    #[serde(rename = "type")]
    pub role_type: RoleType,
    /// The API path below `/v1/`, such as `database/creds/ci` or `secret/data/app`; for `dynamic`
    /// and `kv`. `${param}` stands for a scope parameter and becomes one path segment or a part of
    /// one.
    #[serde(default)]
    pub path: Option<String>,
    /// How a `dynamic` path is called. Without it, `"read"`.
    #[serde(default)]
    pub method: Option<Method>,
    /// Fixed fields of the body of a `write`; the scope's parameters are added.
    #[serde(default)]
    pub body: BTreeMap<String, Value>,
    /// The field of the body that tells the engine the lifetime, such as `ttl` for `pki/issue/…`;
    /// it gets the lifetime in seconds (`900s`). Without it, the engine decides.
    #[serde(default)]
    pub ttl_field: Option<String>,
    /// What revoking a lease does in the engine of a `dynamic` role: `"now"` makes the credential
    /// useless, `"at_expiry"` leaves it alone until its own end, `"never"` for ever. The type of
    /// the mounted engine decides, and this key can only say less: `"now"` does not help an engine
    /// that is not known to revoke. The broker takes every type that it does not know for
    /// `"at_expiry"`, and never calls such a credential `revoked_verified`. Without it, `"now"`.
    #[serde(default)]
    pub engine_revokes: Option<EngineRevokes>,
    /// The version of a `kv` engine. Without it, 2.
    #[serde(default)]
    #[schemars(range(min = 1, max = 2))]
    pub version: Option<u8>,
    /// The Vault policies that the task's token needs for this role. Roles with the same policies
    /// share a token. A `token` role gives exactly these.
    pub policies: Vec<String>,
    /// The parameters that an agent may give, each with exactly one rule:
    /// `{ name = { pattern = "[a-z]+" } }`.
    #[serde(default)]
    pub params: ParamConfigs,
    /// The longest life that one request or renewal gives a credential.
    #[serde(default = "default_max_ttl")]
    pub max_ttl: Ttl,
    /// The longest life of one credential with all its renewals. Without it, a credential can be
    /// renewed to the end of its task. `max_ttl` or longer.
    #[serde(default)]
    pub max_total_ttl: Option<Ttl>,
    /// How much harm a credential can do: 0 reads, 1 writes that can be undone, 2 cannot be undone
    /// or is seen outside, 3 administration. The default is 2, so that a role is not taken for
    /// harmless because the key was forgotten.
    #[serde(default = "default_impact")]
    pub impact: Impact,
    /// The environment that the role touches, such as `prod`; for policies.
    #[serde(default)]
    pub environment: String,
    /// The classes of data that the role can read, such as `customer`; for policies.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// Whether credentials can be renewed. Without it, `true` for a `dynamic` read, else `false`. A
    /// token that can be renewed may live until the end of its task where `policies` allow
    /// `auth/token/renew-self`; the broker revokes it at its end all the same.
    #[serde(default)]
    pub renewable: Option<bool>,
    /// The environment variable that `taskpass run` sets from a field of the credential:
    /// `{ username = "PGUSER" }`. Without it, a `token` role sets `VAULT_TOKEN`, and a `dynamic`
    /// role sets `<ROLE>_<FIELD>`, such as `CI_DB_USERNAME`, from the fields `username`,
    /// `password`,
    /// `access_key`, `secret_key`, `security_token`, `session_token`, `token`, `certificate`,
    /// `private_key`, `issuing_ca`, `serial_number` and `signed_key`. A field that neither names
    /// sets no variable, so a `kv` role needs this key: the writer of a secret must not choose
    /// names. Known variables that make programs run code, such as `LD_PRELOAD` and `PATH`, are
    /// refused.
    #[serde(default)]
    pub env: EnvConfig,
}

/// The type of credential of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoleType {
    /// A credential that a secrets engine mints, under a lease.
    Dynamic,
    /// A Vault token with just `policies`. Its class is `inherits`: what it was used to mint ends
    /// as the engines behind it allow.
    Token,
    /// A static secret, which ending the task cannot revoke.
    Kv,
}

/// How a path is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A `GET`.
    Read,
    /// A `POST` with the scope's parameters as body, as `pki/issue/…` needs.
    Write,
}

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key of the provider is wrong.
    #[error("provider `{provider}`: {message}")]
    Provider {
        /// The provider.
        provider: ProviderName,
        /// The mistake and its remedy.
        message: String,
    },
    /// A key of a role is wrong.
    #[error("role `{role}` of provider `{provider}`: {message}")]
    Role {
        /// The provider.
        provider: ProviderName,
        /// The role as written.
        role: String,
        /// The mistake and its remedy.
        message: String,
    },
}

fn default_timeout() -> Ttl {
    ttl_of(10)
}

fn default_max_request_duration() -> Ttl {
    ttl_of(90)
}

fn default_max_ttl() -> Ttl {
    ttl_of(900)
}

fn ttl_of(seconds: u64) -> Ttl {
    Ttl::from_seconds(seconds).unwrap_or(Ttl::MAX)
}

const fn default_impact() -> Impact {
    Impact::Irreversible
}

fn default_approle_mount() -> String {
    "approle".to_owned()
}

#[cfg(test)]
mod tests;
