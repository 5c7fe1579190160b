//! A configured role, checked: its spec for the broker, and where its credentials come from.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use taskpass_core::{InvalidValue, ProviderName, RevocationClass, RoleName, RoleSpec, Scope, Ttl};
use taskpass_provider::config::{
    check_env, env_of_fields, env_of_usual_fields, param_rules, required_params,
};

use crate::{
    api::EngineCall,
    config::{Method, RoleConfig, RoleType},
    engine::EngineRevokes,
    path::PathTemplate,
};

/// The one field of a `token` role, and the variable in which Vault's own tools look for it.
const TOKEN_ENVIRONMENT: [(&str, &str); 1] = [("token", "VAULT_TOKEN")];

/// The fields that the engines of Vault and OpenBao use for logins, keys, tokens and certificates.
const USUAL_FIELDS: [&str; 12] = [
    "username",
    "password",
    "access_key",
    "secret_key",
    "security_token",
    "session_token",
    "token",
    "certificate",
    "private_key",
    "issuing_ca",
    "serial_number",
    "signed_key",
];

#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub(crate) spec: RoleSpec,
    pub(crate) policies: Vec<String>,
    pub(crate) source: CredentialSource,
}

/// Where credentials of a role come from.
#[derive(Debug, Clone)]
pub(crate) enum CredentialSource {
    /// A secrets engine mints them under a lease.
    Dynamic(Dynamic),
    /// Vault mints a token.
    Token,
    /// They are read from a key-value engine.
    Kv {
        path: PathTemplate,
        version: KvVersion,
    },
}

/// A path of a secrets engine that mints, and how it is called.
#[derive(Debug, Clone)]
pub(crate) struct Dynamic {
    path: PathTemplate,
    method: Method,
    body: BTreeMap<String, Value>,
    ttl_field: Option<String>,
    /// As much as the role claims for its engine.
    revokes: EngineRevokes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvVersion {
    One,
    Two,
}

impl Role {
    pub(crate) fn new(provider: &ProviderName, config: &RoleConfig) -> Result<Self, InvalidValue> {
        let name = RoleName::new(provider.clone(), &config.name)?;
        check_policies(&config.policies)?;
        let params = param_rules(&config.params)?;
        let source = source(config)?;
        let in_path = match &source {
            CredentialSource::Dynamic(Dynamic { path, .. }) | CredentialSource::Kv { path, .. } => {
                path.params()
            }
            CredentialSource::Token => Vec::new(),
        };
        if let Some(unknown) = in_path.iter().find(|param| !params.contains_key(*param)) {
            return Err(InvalidValue::new(format!(
                "`path` uses `${{{unknown}}}`, which `params` does not have"
            )));
        }
        let takes_any = matches!(&source, CredentialSource::Dynamic(dynamic) if dynamic.method == Method::Write);
        if let Some(idle) = params
            .keys()
            .find(|param| !takes_any && !in_path.contains(param))
        {
            return Err(InvalidValue::new(format!(
                "parameter `{idle}` has no effect: use it in `path`, or remove it"
            )));
        }
        if let Some(fixed) = params.keys().find(|param| is_fixed(config, param.as_str())) {
            return Err(InvalidValue::new(format!(
                "`{fixed}` is both a parameter and a fixed field of the body"
            )));
        }
        let required = required_params(&config.params, &in_path)?;
        let env = match &source {
            CredentialSource::Token => env_of_fields(&config.env, &TOKEN_ENVIRONMENT)?,
            CredentialSource::Dynamic(_) => env_of_usual_fields(&name, &config.env, &USUAL_FIELDS)?,
            // The writer of the secret names its fields, and is often another team.
            CredentialSource::Kv { .. } => {
                check_env(&config.env)?;
                config.env.clone()
            }
        };
        let (revocation_class, renewable) = match &source {
            CredentialSource::Dynamic(dynamic) => {
                (dynamic.revokes.class(), dynamic.method == Method::Read)
            }
            // What the token itself drew is as dead as the engines behind it make it. The end of
            // the token can only move if the holder may move it, too.
            CredentialSource::Token => (RevocationClass::Inherits, false),
            CredentialSource::Kv { .. } => (RevocationClass::None, false),
        };
        let spec = RoleSpec {
            name,
            kind: type_word(config.role_type).to_owned(),
            params,
            required,
            max_ttl: config.max_ttl,
            max_total_ttl: max_total_ttl(config)?,
            impact: config.impact,
            environment: config.environment.clone(),
            data_classes: config.data_classes.clone(),
            revocation_class,
            renewable: config.renewable.unwrap_or(renewable),
            env,
        };
        Ok(Self {
            spec,
            policies: config.policies.clone(),
            source,
        })
    }
}

/// The longest life with renewals, which cannot be shorter than one without.
fn max_total_ttl(config: &RoleConfig) -> Result<Option<Ttl>, InvalidValue> {
    match config.max_total_ttl {
        Some(total) if total < config.max_ttl => Err(InvalidValue::new(format!(
            "`max_total_ttl` is {total}, shorter than `max_ttl`, which is {}",
            config.max_ttl
        ))),
        total => Ok(total),
    }
}

impl CredentialSource {
    /// The capabilities with which a session can use the path; one of them is enough.
    pub(crate) fn capabilities(&self) -> &'static [&'static str] {
        match self {
            Self::Dynamic(dynamic) if dynamic.method == Method::Write => &["create", "update"],
            Self::Dynamic(_) | Self::Token | Self::Kv { .. } => &["read"],
        }
    }
}

impl Dynamic {
    /// The call that mints one credential with a life of `ttl`.
    pub(crate) fn engine_call(&self, scope: &Scope, ttl: Ttl) -> Result<EngineCall, InvalidValue> {
        let path = self.path.render(scope)?;
        if self.method == Method::Read {
            return Ok(EngineCall { path, body: None });
        }
        let in_path = self.path.params();
        let mut body: Map<String, Value> = self.body.clone().into_iter().collect();
        for (name, value) in scope.iter().filter(|(name, _)| !in_path.contains(name)) {
            body.insert(name.as_str().to_owned(), Value::from(value));
        }
        if let Some(field) = &self.ttl_field {
            body.insert(field.clone(), Value::from(format!("{}s", ttl.seconds())));
        }
        Ok(EngineCall {
            path,
            body: Some(Value::Object(body)),
        })
    }

    /// The path below which Vault files the leases.
    pub(crate) fn lease_path(&self, scope: &Scope) -> Result<String, InvalidValue> {
        self.path.render(scope)
    }

    /// The beginning of the path that is the same for every scope.
    pub(crate) fn fixed_beginning(&self) -> String {
        self.path.fixed_beginning()
    }

    /// What revoking does: as much as the role claims for its engine, and no more than is known of
    /// an engine of this type.
    pub(crate) fn revokes(&self, engine: Option<&str>, data: Option<&Value>) -> EngineRevokes {
        self.revokes.max(EngineRevokes::of(engine, data))
    }

    /// As much as the role claims for its engine.
    pub(crate) const fn claimed(&self) -> EngineRevokes {
        self.revokes
    }

    /// Whether the engine is told the credential's lifetime.
    pub(crate) const fn tells_ttl(&self) -> bool {
        self.ttl_field.is_some()
    }
}

fn source(config: &RoleConfig) -> Result<CredentialSource, InvalidValue> {
    let refuse = |present: bool, key: &str| {
        if present {
            let word = type_word(config.role_type);
            return Err(InvalidValue::new(format!(
                "a role of type `{word}` has no `{key}`"
            )));
        }
        Ok(())
    };
    let path = || {
        let path = config
            .path
            .as_deref()
            .ok_or_else(|| InvalidValue::new("`path` is missing"))?;
        PathTemplate::parse(path)
    };
    let has_body = !config.body.is_empty();
    match config.role_type {
        RoleType::Dynamic => {
            let method = config.method.unwrap_or(Method::Read);
            refuse(config.version.is_some(), "version")?;
            if method == Method::Read && (has_body || config.ttl_field.is_some()) {
                return Err(InvalidValue::new(
                    "`body` and `ttl_field` need `method = \"write\"`",
                ));
            }
            Ok(CredentialSource::Dynamic(Dynamic {
                path: path()?,
                method,
                body: config.body.clone(),
                ttl_field: config.ttl_field.clone(),
                revokes: config.engine_revokes.unwrap_or(EngineRevokes::Now),
            }))
        }
        RoleType::Token => {
            refuse(config.path.is_some(), "path")?;
            refuse(config.engine_revokes.is_some(), "engine_revokes")?;
            refuse(config.method.is_some(), "method")?;
            refuse(has_body, "body")?;
            refuse(config.ttl_field.is_some(), "ttl_field")?;
            refuse(config.version.is_some(), "version")?;
            Ok(CredentialSource::Token)
        }
        RoleType::Kv => {
            refuse(config.engine_revokes.is_some(), "engine_revokes")?;
            refuse(config.method.is_some(), "method")?;
            refuse(has_body, "body")?;
            refuse(config.ttl_field.is_some(), "ttl_field")?;
            let path = path()?;
            let version = match config.version.unwrap_or(2) {
                1 => KvVersion::One,
                2 if path.has_segment("data") => KvVersion::Two,
                2 => {
                    return Err(InvalidValue::new(
                        "the path of a version 2 secret has `data` after the mount, like `secret/data/app`",
                    ));
                }
                other => {
                    return Err(InvalidValue::new(format!(
                        "`version = {other}` is neither 1 nor 2"
                    )));
                }
            };
            Ok(CredentialSource::Kv { path, version })
        }
    }
}

fn check_policies(policies: &[String]) -> Result<(), InvalidValue> {
    if policies.is_empty() {
        return Err(InvalidValue::new(
            "`policies` is empty; name the Vault policies that its credentials need",
        ));
    }
    for policy in policies {
        let odd = policy.is_empty() || !policy.chars().all(|c| c.is_ascii_graphic());
        if odd || policy.eq_ignore_ascii_case("root") {
            return Err(InvalidValue::new(format!(
                "`{policy}` cannot be a role's policy: name one that was written for this role"
            )));
        }
    }
    Ok(())
}

fn is_fixed(config: &RoleConfig, name: &str) -> bool {
    config.body.contains_key(name) || config.ttl_field.as_deref() == Some(name)
}

const fn type_word(role_type: RoleType) -> &'static str {
    match role_type {
        RoleType::Dynamic => "dynamic",
        RoleType::Token => "token",
        RoleType::Kv => "kv",
    }
}
