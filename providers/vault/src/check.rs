//! Whether the broker can do its job here: asks Vault for the rights of the broker's token, and
//! names the missing ones.

use std::collections::BTreeSet;

use serde_json::Value;
use taskpass_core::Scope;
use taskpass_provider::{Health, ProviderError};

use crate::{
    api::{CapabilitiesSelf, create_path},
    check_roles::{Found, check_roles},
    check_token_role::{TokenCreation, check_token_role},
    role::{CredentialSource, Role},
    roles::Roles,
    vault::Vault,
};

/// The Vault policy that the broker's own token needs, in HCL.
pub const BROKER_POLICY: &str = include_str!("../../../deploy/examples/vault-broker-policy.hcl");

/// The rights that the token needs beside the one to create tokens; the same as in
/// [`BROKER_POLICY`].
const NEEDED: [(&str, &[&str]); 6] = [
    ("auth/token/renew-accessor", &["update"]),
    ("auth/token/lookup-accessor", &["update"]),
    ("auth/token/revoke-accessor", &["update"]),
    ("sys/leases/lookup", &["update"]),
    ("sys/leases/renew", &["update"]),
    ("sys/leases/revoke", &["update"]),
];

/// The right to create tokens as orphans.
const CREATE_ORPHAN: &[&str] = &["update", "sudo"];
/// The right to create them through a token role.
const CREATE_BY_ROLE: &[&str] = &["update"];

/// Tells the broker's token whether a session could use the path of a role.
const CAPABILITIES: &str = "sys/capabilities-accessor";

/// Where orphans are created.
const ORPHAN: &str = "auth/token/create-orphan";

/// Tells the types of engines to the broker's token.
const MOUNTS: &str = "sys/mounts";

/// Below it are the leases of logins, of which no role has any: a token that may list them may list
/// all leases. The path above says nothing, since the rule to look up one lease answers for it.
const ALL_LEASES: &str = "sys/leases/lookup/auth/";

/// Without the index, no answer of such a server proves a death.
const NO_INDEX: &str = "standbys of this cluster may answer with what they knew some time ago, and the server does not tell how far they are, so no revocation is verified; set `disable_standby_reads = true` in OpenBao, upgrade it to 2.7, or let `address` lead to the active server only";

pub(crate) async fn check(vault: &Vault, roles: &Roles) -> Result<Health, ProviderError> {
    let mut health = check_server(vault).await?;
    let create = check_own_token(vault, roles, &mut health).await?;
    check_token_role(vault, create, &mut health).await?;
    let found = check_roles(vault, roles).await?;
    if !found.iter().any(|found| matches!(found, Found::Wrong(_))) {
        health
            .findings
            .push("credentials of the roles with a fixed path can be issued".to_owned());
    }
    for found in found {
        match found {
            Found::Fine(words) => health.findings.push(words),
            Found::Weak(words) | Found::Wrong(words) => health.warnings.push(words),
        }
    }
    Ok(health)
}

async fn check_server(vault: &Vault) -> Result<Health, ProviderError> {
    let report = vault.health().await?;
    let version = report.get("version").and_then(Value::as_str);
    let version = version.unwrap_or("of unknown version");
    let is_standby = report.get("standby").and_then(Value::as_bool) == Some(true);
    let standby =
        "this server is a standby; revoking is faster when `address` leads to the active one";
    Ok(Health {
        findings: vec![format!("the server ({version}) is unsealed and answers")],
        warnings: is_standby.then(|| standby.to_owned()).into_iter().collect(),
    })
}

async fn check_own_token(
    vault: &Vault,
    roles: &Roles,
    health: &mut Health,
) -> Result<TokenCreation, ProviderError> {
    let searched = searched_paths(roles);
    let create = create_path(vault.token_role.as_deref());
    let create_needs = match vault.token_role {
        Some(_) => CREATE_BY_ROLE,
        None => CREATE_ORPHAN,
    };
    let all_needed = || [(create.as_str(), create_needs)].into_iter().chain(NEEDED);
    let paths: Vec<String> = all_needed()
        .map(|(path, _)| path.to_owned())
        .chain([MOUNTS, CAPABILITIES, ORPHAN, ALL_LEASES].map(str::to_owned))
        .chain(searched.iter().cloned())
        .collect();
    let reply = vault.call(|| CapabilitiesSelf { paths: &paths }).await;
    let reply = reply.map_err(|e| e.while_doing("tell what the broker's token may do"))?;
    if reply.index.is_none() && vault.may_lag().await {
        return Err(ProviderError::Misconfigured(NO_INDEX.to_owned()));
    }
    let granted = reply.data.unwrap_or_default();
    let missing: Vec<String> = all_needed()
        .filter(|(path, needed)| !allows(&granted, path, needed))
        .map(|(path, needed)| format!("{} on `{path}`", needed.join("+")))
        .collect();
    if !missing.is_empty() {
        return Err(ProviderError::Denied(format!(
            "the broker's token lacks {}; give it the policy of `vault-broker-policy.hcl`",
            missing.join(", ")
        )));
    }
    health
        .findings
        .push("the broker's token may mint, renew and revoke tokens and leases".to_owned());
    let is_dynamic = |role: &Role| matches!(role.source, CredentialSource::Dynamic(_));
    if roles.iter().any(is_dynamic) && !allows(&granted, MOUNTS, &["read"]) {
        health.warnings.push(format!(
            "without read on `{MOUNTS}` the type of an engine may be unknown when a credential in doubt is revoked, and its revocation cannot be verified then"
        ));
    }
    health.warnings.extend(about_leases(&granted, &searched));
    if !allows(&granted, CAPABILITIES, &["update"]) {
        health.warnings.push(format!(
            "without update on `{CAPABILITIES}` a check cannot tell whether the credentials of a role can be issued"
        ));
    }
    let orphans = allows(&granted, ORPHAN, CREATE_ORPHAN);
    let sudo = allows(&granted, &create, &["sudo"]);
    Ok(match (orphans, sudo) {
        (true, _) => TokenCreation::AnyOrphan,
        (false, true) => TokenCreation::AnyOfRole,
        (false, false) => TokenCreation::AsTheRoleAllows,
    })
}

/// The warnings about the right to list leases: where it is missing, and where it is too wide.
fn about_leases(granted: &Value, searched: &[String]) -> Vec<String> {
    const LIST: &[&str] = &["list", "sudo"];
    let missing = searched.iter().filter(|path| !allows(granted, path, LIST));
    let mut warnings: Vec<String> = missing
        .map(|path| format!(
            "without list+sudo on `{path}` a credential in doubt can be revoked, but its revocation cannot be verified"
        ))
        .collect();
    if allows(granted, ALL_LEASES, LIST) {
        let paths: Vec<String> = searched.iter().map(|path| format!("`{path}`")).collect();
        let instead = if paths.is_empty() {
            "take it away".to_owned()
        } else {
            format!("allow {} instead", paths.join(", "))
        };
        warnings.push(format!(
            "the broker's token may list all leases of this Vault, and so revoke those of everybody else; {instead}"
        ));
    }
    warnings
}

/// The paths where overdue leases are searched: paths of dynamic roles without parameters.
fn searched_paths(roles: &Roles) -> Vec<String> {
    let lease_path = |source: &CredentialSource| match source {
        CredentialSource::Dynamic(dynamic) => dynamic.lease_path(&Scope::default()).ok(),
        CredentialSource::Token | CredentialSource::Kv { .. } => None,
    };
    let paths = roles.iter().filter_map(|role| lease_path(&role.source));
    let paths: BTreeSet<String> = paths
        .map(|path| format!("sys/leases/lookup/{path}/"))
        .collect();
    paths.into_iter().collect()
}

fn allows(granted: &Value, path: &str, needed: &[&str]) -> bool {
    let has = |capability: &str| {
        let granted = granted.get(path).and_then(Value::as_array);
        granted.is_some_and(|all| all.iter().any(|one| one == capability))
    };
    has("root") || needed.iter().all(|capability| has(capability))
}
