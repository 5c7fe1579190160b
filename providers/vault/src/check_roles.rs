//! Whether the roles work: asks with a token like a task's session, which is revoked at once.

use futures_util::{StreamExt, stream};
use serde_json::Value;
use taskpass_core::{Scope, Secret};
use taskpass_provider::ProviderError;
use vaultrs::api::token::requests::CreateOrphanTokenRequest;

use crate::{
    api::{CapabilitiesSelf, MountOf},
    consistency::Index,
    role::{CredentialSource, Role},
    roles::Roles,
    token::PROBATION,
    vault::{CONCURRENT_CALLS_MAX, Vault},
};

/// The mistakes in roles, a sentence for each. A `token` role has no path to ask about; a path with
/// parameters is known only when a credential is requested.
pub(crate) async fn check_roles(
    vault: &Vault,
    roles: &Roles,
) -> Result<Vec<String>, ProviderError> {
    let mut checking = Vec::new();
    for role in roles.iter() {
        if let Some(path) = fixed_path(role) {
            checking.push(check_role(vault, role, path));
        }
    }
    let problems = stream::iter(checking).buffered(CONCURRENT_CALLS_MAX);
    // All of them run to their end, also after a failure: each revokes its token.
    let problems: Vec<Result<_, _>> = problems.collect().await;
    problems.into_iter().filter_map(Result::transpose).collect()
}

async fn check_role(
    vault: &Vault,
    role: &Role,
    path: String,
) -> Result<Option<String>, ProviderError> {
    let doing = "create a token to try the roles with";
    let (auth, minted) = vault.create_token(|| trial_token(role), doing).await?;
    let token = Secret::new(auth.client_token);
    let found = try_role(vault, role, &path, (&token, minted.as_ref())).await;
    vault.discard_token(&auth.accessor, minted.as_ref()).await;
    Ok(found
        .err()
        .map(|problem| format!("role `{}`: {problem}", role.spec.name)))
}

async fn try_role(
    vault: &Vault,
    role: &Role,
    path: &str,
    (token, minted): (&Secret, Option<&Index>),
) -> Result<(), String> {
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
        _ => Ok(()),
    }
}

fn fixed_path(role: &Role) -> Option<String> {
    match &role.source {
        CredentialSource::Dynamic(dynamic) => dynamic.lease_path(&Scope::default()).ok(),
        CredentialSource::Kv { path, .. } => path.render(&Scope::default()).ok(),
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
