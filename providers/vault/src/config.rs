//! What an operator writes about one Vault or OpenBao, and whether it can work.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;
use taskpass_core::{Impact, InvalidValue, ProviderName, Ttl};
use taskpass_provider::config::ParamConfigs;
use url::{Host, Url};

use crate::role::Role;

/// One `[[provider]]` of kind `vault`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// The provider's name; roles are called `<name>/<role>`.
    pub name: ProviderName,
    /// Always `vault`.
    pub kind: VaultKind,
    /// Where the server is: `https://host:port`, with a path when it is behind one.
    pub address: String,
    /// The namespace of every request. Default: none.
    #[serde(default)]
    pub namespace: Option<String>,
    /// PEM certificates of the authorities to trust, and no others. Default: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Allow `http://` to another machine, which shows every secret to the network. Default: false.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// A file with the broker's own token; read again when it changes. Not together with `approle`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Log in with AppRole instead of a token.
    #[serde(default)]
    pub approle: Option<AppRoleConfig>,
    /// How long one request may take, connecting included. Default: 10s.
    #[serde(default = "default_timeout")]
    pub timeout: Ttl,
    /// The longest that the server itself works on one request: its `default_max_request_duration`, or the largest
    /// `max_request_duration` of its listeners. When an answer was lost, the task's session has to live for that long; with a
    /// value that is too short, what the lost call mints can outlive the task unseen. Default: 90s, as the server has it.
    #[serde(default = "default_max_request_duration")]
    pub max_request_duration: Ttl,
    /// The roles.
    #[serde(default, rename = "role")]
    pub roles: Vec<RoleConfig>,
}

/// The word `vault`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VaultKind {
    /// HashiCorp Vault or OpenBao.
    Vault,
}

/// Logging in with AppRole.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRoleConfig {
    /// Where the auth method is mounted. Default: `approle`.
    #[serde(default = "default_approle_mount")]
    pub mount: String,
    /// The role's id; not a secret.
    pub role_id: String,
    /// A file with the secret id; read at each login.
    pub secret_id_file: PathBuf,
}

/// One `[[provider.role]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// The part of the role's name after the slash.
    pub name: String,
    /// What is handed out.
    #[serde(rename = "type")]
    pub role_type: RoleType,
    /// The API path below `/v1/`, such as `database/creds/ci` or `secret/data/app`; `${param}` stands for a scope
    /// parameter and becomes one path segment or a part of one. For `dynamic` and `kv`.
    #[serde(default)]
    pub path: Option<String>,
    /// How a `dynamic` path is called. Default: read.
    #[serde(default)]
    pub method: Option<Method>,
    /// Fixed fields of the body of a `write`; the scope's parameters are added. Default: none.
    #[serde(default)]
    pub body: BTreeMap<String, Value>,
    /// The field of the body that tells the engine the lifetime, such as `ttl` for `pki/issue/…`; it gets the asked
    /// lifetime in seconds (`900s`). Default: none, the engine decides.
    #[serde(default)]
    pub ttl_field: Option<String>,
    /// The version of a `kv` engine, 1 or 2. Default: 2.
    #[serde(default)]
    pub version: Option<u8>,
    /// Vault policies that the task's token needs for this role; a `token` role hands out exactly these.
    pub policies: Vec<String>,
    /// The parameters an agent may give. Default: none.
    #[serde(default)]
    pub params: ParamConfigs,
    /// The longest lifetime of one credential. Default: 15m.
    #[serde(default = "default_max_ttl")]
    pub max_ttl: Ttl,
    /// How much harm it can do, 0 to 3. Default: 2, since nobody said that it is less.
    #[serde(default = "default_impact")]
    pub impact: Impact,
    /// The environment, such as `prod`. Default: empty.
    #[serde(default)]
    pub environment: String,
    /// Classes of data it reaches, such as `customer`. Default: none.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// Whether credentials can be extended. Default: true for `token` and for `dynamic` read, else false.
    #[serde(default)]
    pub renewable: Option<bool>,
}

/// What a role hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleType {
    /// What an engine makes, under a lease.
    Dynamic,
    /// A Vault token.
    Token,
    /// A static secret.
    Kv,
}

/// How a path is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `GET`.
    Read,
    /// `POST`, with the scope's parameters as body.
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
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A key of a role is wrong.
    #[error("role `{role}` of provider `{provider}`: {message}")]
    Role {
        /// The provider.
        provider: ProviderName,
        /// The role as written.
        role: String,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// The certificates of `ca_file` or of the system are not usable.
    #[error("provider `{provider}`: {message}")]
    Trust {
        /// The provider.
        provider: ProviderName,
        /// What is wrong.
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

impl VaultConfig {
    /// Checks everything that can be checked without reading files or the network.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.url()?;
        self.checked_roles()?;
        let complain = |message: &str| Err(self.complaint(message));
        match (&self.token_file, &self.approle) {
            (Some(_), Some(_)) => complain("`token_file` and `approle` are both given; keep one"),
            (None, None) => complain(
                "neither `token_file` nor `approle` is given; the broker needs a token of its own",
            ),
            (None, Some(approle)) if !is_plain_path(&approle.mount) => {
                complain("`approle.mount` must be a path like `approle`")
            }
            _ => {
                let odd =
                    |text: &String| text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic());
                if self.namespace.as_ref().is_some_and(odd) {
                    return complain("`namespace` must be visible ASCII");
                }
                Ok(())
            }
        }
    }

    /// The address, when it is one that may be used.
    pub(crate) fn url(&self) -> Result<Url, ConfigError> {
        let complain = |message: String| self.complaint(&message);
        let url = Url::parse(&self.address).map_err(|e| {
            complain(format!(
                "`address` is not a URL like https://vault.acme.test:8200: {e}"
            ))
        })?;
        let local = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let extra = url.query().is_some() || url.fragment().is_some();
        if extra || !url.username().is_empty() || url.password().is_some() {
            return Err(complain(
                "`address` must have no user, query or fragment".to_owned(),
            ));
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if local || self.allow_plaintext => Ok(url),
            "http" => Err(complain(format!(
                "`{}` would show every secret to the network; use https, or set `allow_plaintext = true`",
                self.address
            ))),
            _ => Err(complain(
                "`address` must begin with https:// or http://".to_owned(),
            )),
        }
    }

    /// The roles in the form that works with them.
    pub(crate) fn checked_roles(&self) -> Result<Vec<Role>, ConfigError> {
        let mut roles: Vec<Role> = Vec::with_capacity(self.roles.len());
        for config in &self.roles {
            let complain = |error: InvalidValue| ConfigError::Role {
                provider: self.name.clone(),
                role: config.name.clone(),
                message: error.to_string(),
            };
            let role = Role::new(&self.name, config).map_err(complain)?;
            if roles.iter().any(|known| known.spec.name == role.spec.name) {
                return Err(complain(InvalidValue::new("the name is used twice")));
            }
            roles.push(role);
        }
        Ok(roles)
    }

    fn complaint(&self, message: &str) -> ConfigError {
        ConfigError::Provider {
            provider: self.name.clone(),
            message: message.to_owned(),
        }
    }
}

fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.split('/').all(|segment| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        })
}

#[cfg(test)]
mod tests;
