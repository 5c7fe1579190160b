//! Whether the roles work: asks with a token like a task's session, which is revoked at once.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use serde_json::Value;
use taskpass_core::{Scope, Secret};
use taskpass_provider::ProviderError;

use crate::{
    api::{CapabilitiesOf, MountOf, NewToken, Reply},
    consistency::Index,
    engine::{EngineRevokes, is_mixed},
    role::{CredentialSource, Dynamic, Role},
    roles::Roles,
    token::{PROBATION, misfit},
    vault::{CONCURRENT_CALLS_MAX, Vault},
};

/// A sentence about a role.
pub(crate) enum Found {
    /// It works, and this is so.
    Fine(String),
    /// It works, and an operator should know this.
    Weak(String),
    /// It does not work.
    Wrong(String),
}

/// The paths of a role that Vault can be asked about.
enum KnownPath {
    /// The whole path.
    Fixed(String),
    /// The path up to its first parameter.
    Beginning(String),
}

/// A token like a session of the role.
struct Trial {
    secret: Secret,
    accessor: String,
    minted: Option<Index>,
}

/// The findings about roles. A `token` role has no path to ask about: that its token can be made is
/// all. Whether a path with parameters can be used shows only when a credential is requested.
pub(crate) async fn check_roles(vault: &Vault, roles: &Roles) -> Result<Vec<Found>, ProviderError> {
    let mut checking = Vec::new();
    for role in roles.iter() {
        checking.push(check_role(vault, role));
    }
    let found = stream::iter(checking).buffered(CONCURRENT_CALLS_MAX);
    // All of them run to their end, also after a failure: each revokes its token.
    let found: Vec<Result<_, _>> = found.collect().await;
    found.into_iter().filter_map(Result::transpose).collect()
}

async fn check_role(vault: &Vault, role: &Role) -> Result<Option<Found>, ProviderError> {
    let about = |words: String| format!("role `{}`: {words}", role.spec.name);
    let trial = match trial_token(vault, role).await {
        Ok(trial) => trial,
        Err(ProviderError::Misconfigured(problem) | ProviderError::Denied(problem)) => {
            return Ok(Some(Found::Wrong(about(problem))));
        }
        Err(error) => return Err(error),
    };
    let found = match known_path(role) {
        Some(path) => try_role(vault, role, &path, &trial).await,
        None => Ok(None),
    };
    vault
        .discard_token(&trial.accessor, trial.minted.as_ref())
        .await;
    Ok(match (found, &role.source) {
        (Err(problem), _) => Some(Found::Wrong(about(problem))),
        (Ok(engine), CredentialSource::Dynamic(dynamic)) => {
            Some(match engine_words(dynamic, engine.as_deref()) {
                Ok(words) => Found::Fine(about(words)),
                Err(words) => Found::Weak(about(words)),
            })
        }
        (Ok(_), CredentialSource::Token | CredentialSource::Kv { .. }) => None,
    })
}

/// What revoking comes to behind the role's engine; an error where receipts cannot say
/// `revoked_verified`.
fn engine_words(dynamic: &Dynamic, engine: Option<&str>) -> Result<String, String> {
    const UNVERIFIED: &str = "so its receipts say `revoked_unverified`";
    if dynamic.claimed() != EngineRevokes::Now {
        return Ok(format!(
            "`engine_revokes` says that its engine does not revoke, {UNVERIFIED}"
        ));
    }
    let Some(engine) = engine else {
        return Err(format!(
            "Vault does not tell the type of its engine, {UNVERIFIED}"
        ));
    };
    if dynamic.revokes(Some(engine), None) == EngineRevokes::Now {
        return Ok(format!(
            "an engine of type `{engine}` makes its credentials useless when they are revoked"
        ));
    }
    Err(if is_mixed(engine) {
        format!(
            "an engine of type `{engine}` revokes users and keys, and not temporary credentials; the reply to each request names the class"
        )
    } else {
        format!(
            "an engine of type `{engine}` is not known to end what it minted, {UNVERIFIED}; let policy refuse the class, or use another provider"
        )
    })
}

/// Tries the role's path with a token like a task's session. Returns the type of the engine.
async fn try_role(
    vault: &Vault,
    role: &Role,
    path: &KnownPath,
    trial: &Trial,
) -> Result<Option<String>, String> {
    let (token, minted) = (&trial.secret, trial.minted.as_ref());
    let path = match path {
        KnownPath::Beginning(path) => {
            let asked = vault.call_with(token, minted, MountOf { path }).await;
            return Ok(asked.ok().and_then(|reply| type_of(&reply)));
        }
        KnownPath::Fixed(path) => path.as_str(),
    };
    let paths = [path.to_owned()];
    // The trial token cannot ask for itself: that takes Vault's default policy.
    let question = || CapabilitiesOf {
        accessor: &trial.accessor,
        paths: &paths,
    };
    match vault.call_after(minted, question).await {
        Ok(reply) if !allows(&reply, path, role.source.capabilities()) => {
            return Err(format!(
                "its policies ({}) do not allow {} on `{path}`, or do not exist; write them in Vault",
                role.policies.join(", "),
                role.source.capabilities().join(" or ")
            ));
        }
        Ok(_) => {}
        // The check of the broker's own token says that it must not ask.
        Err(fault) if fault.status() == Some(403) => {}
        Err(fault) => {
            let error = fault.while_doing("tell what a task may do");
            return Err(format!(
                "whether its credentials can be issued is unknown: {error}"
            ));
        }
    }
    match vault.call_with(token, minted, MountOf { path }).await {
        Err(fault) if matches!(fault.status(), Some(400..=404)) => Err(format!(
            "no secrets engine is mounted at `{path}`; mount one, or correct the role's `path`"
        )),
        asked => Ok(asked.ok().and_then(|reply| type_of(&reply))),
    }
}

/// Whether the answer grants one of the capabilities on the path.
fn allows(reply: &Reply, path: &str, needed: &[&str]) -> bool {
    let data = reply.data.as_ref();
    let granted = data.and_then(|data| data.get(path)?.as_array());
    let mut granted = granted.into_iter().flatten().filter_map(Value::as_str);
    granted.any(|one| needed.contains(&one))
}

fn type_of(reply: &Reply) -> Option<String> {
    reply.text("type").map(str::to_owned)
}

fn known_path(role: &Role) -> Option<KnownPath> {
    match &role.source {
        CredentialSource::Dynamic(dynamic) => Some(match dynamic.lease_path(&Scope::default()) {
            Ok(path) => KnownPath::Fixed(path),
            Err(_parameters) => KnownPath::Beginning(dynamic.fixed_beginning()),
        }),
        CredentialSource::Kv { path, .. } => {
            Some(KnownPath::Fixed(path.render(&Scope::default()).ok()?))
        }
        CredentialSource::Token => None,
    }
}

/// A token with the policies of the role. It lives no longer than an unrecorded token.
async fn trial_token(vault: &Vault, role: &Role) -> Result<Trial, ProviderError> {
    let seconds = format!("{}s", PROBATION.as_secs());
    let wanted = NewToken {
        display_name: "taskpass-check".to_owned(),
        meta: BTreeMap::new(),
        policies: role.policies.clone(),
        no_default_policy: true,
        ttl: seconds.clone(),
        explicit_max_ttl: seconds,
        renewable: true,
        token_type: "service",
    };
    let created = vault.create_token(&wanted).await;
    let (auth, minted) = created.map_err(|fault| {
        let is_refused = fault.status() == Some(400);
        let error = fault.while_doing("create a token with its policies");
        match &vault.token_role {
            Some(token_role) if is_refused => ProviderError::Misconfigured(format!(
                "{error}; let token role `{token_role}` allow {}",
                role.policies.join(", ")
            )),
            _ => error,
        }
    })?;
    if let Some(problem) = misfit(&auth, &wanted, vault.token_role.as_deref()) {
        vault.discard_token(&auth.accessor, minted.as_ref()).await;
        return Err(problem);
    }
    Ok(Trial {
        secret: Secret::new(auth.client_token),
        accessor: auth.accessor,
        minted,
    })
}
