//! Can the broker do its job here? Asks Vault what the broker's token may do, and says what is missing.

use serde_json::Value;
use taskpass_provider::{Health, ProviderError};

use crate::{
    api::{self, CapabilitiesSelf},
    issue::lease_path,
    provider::VaultProvider,
};

/// The Vault policy that the broker's own token needs, in HCL.
pub const BROKER_POLICY: &str = include_str!("../../../deploy/examples/vault-broker-policy.hcl");

/// What the token must be able to do; the same as in [`BROKER_POLICY`].
const NEEDED: [(&str, &[&str]); 7] = [
    ("auth/token/create-orphan", &["update", "sudo"]),
    ("auth/token/renew-accessor", &["update"]),
    ("auth/token/lookup-accessor", &["update"]),
    ("auth/token/revoke-accessor", &["update"]),
    ("sys/leases/lookup", &["update"]),
    ("sys/leases/renew", &["update"]),
    ("sys/leases/revoke", &["update"]),
];

impl VaultProvider {
    pub(crate) async fn examine(&self) -> Result<Health, ProviderError> {
        let health = api::health(&self.transport)
            .await
            .map_err(|e| e.while_doing("tell its health"))?;
        let version = health
            .get("version")
            .and_then(Value::as_str)
            .unwrap_or("of unknown version");
        let mut findings = vec![format!("the server ({version}) is unsealed and answers")];
        let mut warnings = Vec::new();
        if health.get("standby").and_then(Value::as_bool) == Some(true) {
            warnings.push("this server is a standby; every request takes a detour".to_owned());
        }
        let searched = self.search_paths();
        let paths: Vec<String> = NEEDED
            .iter()
            .map(|(path, _)| (*path).to_owned())
            .chain(searched.iter().cloned())
            .collect();
        let reply = self
            .broker_call(|| CapabilitiesSelf { paths: &paths })
            .await;
        let reply = reply.map_err(|e| e.while_doing("tell what the broker's token may do"))?;
        let data = reply.data.unwrap_or_default();
        let missing: Vec<String> = NEEDED
            .iter()
            .filter(|(path, needed)| !may(&data, path, needed))
            .map(|(path, needed)| format!("{} on `{path}`", needed.join("+")))
            .collect();
        if !missing.is_empty() {
            return Err(ProviderError::Denied(format!(
                "the broker's token lacks {}; give it the policy of `vault-broker-policy.hcl`",
                missing.join(", ")
            )));
        }
        findings
            .push("the broker's token may make, extend and revoke tokens and leases".to_owned());
        for path in searched
            .iter()
            .filter(|path| !may(&data, path, &["list", "sudo"]))
        {
            warnings.push(format!(
                "without list+sudo on `{path}` an interrupted issue can be revoked, but not proven to be"
            ));
        }
        let wrong_roles = self.examine_roles().await?;
        if wrong_roles.is_empty() {
            findings.push("the roles whose path is fixed can be drawn".to_owned());
        }
        warnings.extend(wrong_roles);
        Ok(Health { findings, warnings })
    }

    /// Where overdue leases are searched: the paths of the dynamic roles, as far as they are fixed.
    fn search_paths(&self) -> Vec<String> {
        let paths = self
            .roles
            .iter()
            .filter_map(|role| lease_path(role, &taskpass_core::Scope::default()));
        paths
            .map(|path| format!("sys/leases/lookup/{path}/"))
            .collect()
    }
}

fn may(data: &Value, path: &str, needed: &[&str]) -> bool {
    let has = |capability: &str| {
        let granted = data.get(path).and_then(Value::as_array);
        granted.is_some_and(|all| {
            all.iter()
                .filter_map(Value::as_str)
                .any(|one| one == capability)
        })
    };
    has("root") || needed.iter().all(|capability| has(capability))
}
