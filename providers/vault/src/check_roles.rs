//! Whether the roles work: asks with a token like a task's session, which is revoked at once.

use futures_util::{StreamExt, stream};
use serde_json::Value;
use taskpass_core::{Scope, Secret};
use taskpass_provider::ProviderError;
use vaultrs::api::token::requests::CreateOrphanTokenRequest;

use crate::{
    api::{CapabilitiesSelf, MountOf, Reply},
    consistency::Index,
    engine::{EngineRevokes, is_mixed},
    role::{CredentialSource, Dynamic, Role},
    roles::Roles,
    token::PROBATION,
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

/// The findings about roles. A `token` role has no path to ask about. Whether a path with
/// parameters can be used shows only when a credential is requested.
pub(crate) async fn check_roles(vault: &Vault, roles: &Roles) -> Result<Vec<Found>, ProviderError> {
    let mut checking = Vec::new();
    for role in roles.iter() {
        if let Some(path) = known_path(role) {
            checking.push(check_role(vault, role, path));
        }
    }
    let found = stream::iter(checking).buffered(CONCURRENT_CALLS_MAX);
    // All of them run to their end, also after a failure: each revokes its token.
    let found: Vec<Result<_, _>> = found.collect().await;
    found.into_iter().filter_map(Result::transpose).collect()
}

async fn check_role(
    vault: &Vault,
    role: &Role,
    path: KnownPath,
) -> Result<Option<Found>, ProviderError> {
    let doing = "create a token to try the roles with";
    let (auth, minted) = vault.create_token(|| trial_token(role), doing).await?;
    let token = Secret::new(auth.client_token);
    let found = try_role(vault, role, &path, (&token, minted.as_ref())).await;
    vault.discard_token(&auth.accessor, minted.as_ref()).await;
    let about = |words: String| format!("role `{}`: {words}", role.spec.name);
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
    (token, minted): (&Secret, Option<&Index>),
) -> Result<Option<String>, String> {
    let path = match path {
        KnownPath::Beginning(path) => {
            let asked = vault.call_with(token, minted, MountOf { path }).await;
            return Ok(asked.ok().and_then(|reply| type_of(&reply)));
        }
        KnownPath::Fixed(path) => path.as_str(),
    };
    let paths = [path.to_owned()];
    let asked = vault
        .call_with(token, minted, CapabilitiesSelf { paths: &paths })
        .await;
    let reply = asked.map_err(|e| {
        let error = e.while_doing("tell what a task may do");
        format!("whether its credentials can be issued is unknown: {error}")
    })?;
    let needed = role.source.capabilities();
    let granted = reply
        .data
        .as_ref()
        .and_then(|data| data.get(path)?.as_array());
    let mut granted = granted.into_iter().flatten().filter_map(Value::as_str);
    if !granted.any(|one| needed.contains(&one)) {
        return Err(format!(
            "its policies ({}) do not allow {} on `{path}`, or do not exist; write them in Vault",
            role.policies.join(", "),
            needed.join(" or ")
        ));
    }
    match vault.call_with(token, minted, MountOf { path }).await {
        Err(fault) if matches!(fault.status(), Some(400..=404)) => Err(format!(
            "no secrets engine is mounted at `{path}`; mount one, or correct the role's `path`"
        )),
        asked => Ok(asked.ok().and_then(|reply| type_of(&reply))),
    }
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

/// It has Vault's default policy, which lets a token ask for its own capabilities, and lives no
/// longer than an unrecorded token.
fn trial_token(role: &Role) -> CreateOrphanTokenRequest {
    CreateOrphanTokenRequest {
        display_name: Some("taskpass-check".to_owned()),
        ttl: Some(format!("{}s", PROBATION.as_secs())),
        explicit_max_ttl: Some(format!("{}s", PROBATION.as_secs())),
        policies: Some(role.policies.clone()),
        renewable: Some(false),
        token_type: Some("service".to_owned()),
        ..CreateOrphanTokenRequest::default()
    }
}
