//! Can the roles do theirs? Asks with a token like the one that a task would get, which is ended at once.

use futures_util::{StreamExt, stream};
use serde_json::Value;
use taskpass_core::{Scope, Secret};
use taskpass_provider::ProviderError;
use vaultrs::api::token::requests::CreateOrphanTokenRequest;

use crate::{
    api::{self, CapabilitiesSelf, MountOf},
    fault::Fault,
    prove::CALLS_AT_ONCE,
    provider::VaultProvider,
    role::{Making, Role},
    session::PROBATION,
};

impl VaultProvider {
    /// What is wrong with roles, a sentence for each. A role of type `token` has no path to ask about, and one with
    /// parameters in its path none that is known before somebody draws.
    pub(crate) async fn examine_roles(&self) -> Result<Vec<String>, ProviderError> {
        let mut asking = Vec::new();
        for role in &self.roles {
            if let Some(path) = fixed_path(role) {
                asking.push(self.examine_role(role, path));
            }
        }
        let answers = stream::iter(asking).buffered(CALLS_AT_ONCE);
        // All to their end, also after a failure: each lets go of its token.
        let answers: Vec<Result<_, _>> = answers.collect().await;
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    async fn examine_role(
        &self,
        role: &Role,
        path: String,
    ) -> Result<Option<String>, ProviderError> {
        let doing = |fault: Fault| fault.while_doing("make a token to try the roles with");
        let auth = self
            .broker_call(|| trial_token(role))
            .await
            .map_err(doing)?;
        let auth = auth.auth.ok_or_else(|| {
            ProviderError::retryable("Vault created a token without telling it".to_owned())
        })?;
        let token = Secret::new(auth.client_token);
        let wrong = self.wrong_with(role, &path, &token).await;
        self.let_go(&auth.accessor).await;
        Ok(wrong
            .err()
            .map(|why| format!("role `{}`: {why}", role.spec.name)))
    }

    async fn wrong_with(&self, role: &Role, path: &str, token: &Secret) -> Result<(), String> {
        let paths = [path.to_owned()];
        let may = CapabilitiesSelf { paths: &paths };
        let may = api::call(&self.transport, may, Some(token)).await;
        let may = may.map_err(|e| {
            let error = e.while_doing("tell what a task may do");
            format!("whether it can be drawn is not known: {error}")
        })?;
        let needed = role.making.capabilities();
        let granted = may
            .data
            .as_ref()
            .and_then(|data| data.get(path)?.as_array());
        let mut granted = granted.into_iter().flatten().filter_map(Value::as_str);
        if !granted.any(|one| needed.contains(&one)) {
            return Err(format!(
                "its policies ({}) do not allow {} on `{path}`, or are not there",
                role.policies.join(", "),
                needed.join(" or ")
            ));
        }
        let mount = api::call(&self.transport, MountOf { path }, Some(token)).await;
        match mount {
            Err(fault) if matches!(fault.status(), Some(400..=404)) => {
                Err(format!("no secrets engine is mounted at `{path}`"))
            }
            _ => Ok(()),
        }
    }
}

fn fixed_path(role: &Role) -> Option<String> {
    match &role.making {
        Making::Dynamic(dynamic) => dynamic.lease_path(&Scope::default()).ok(),
        Making::Kv { path, .. } => path.render(&Scope::default()).ok(),
        Making::Token => None,
    }
}

/// With Vault's default policy, which lets a token ask what it may do, and no longer alive than one that was lost.
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
