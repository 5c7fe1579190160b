//! The provider: turns the broker's orders into calls to the directory.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskpass_core::{
    Clock, CredentialId, InvalidValue, ProviderName, RevocationClass, RoleName, RoleSpec, Scope,
    Secret, SecretFields,
};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Parts, Provider, ProviderError, RenewOrder,
    Renewed, RevokeItem, RevokeOrder, Revoked,
};

use crate::{
    config::{TEAM, TemplateConfig},
    directory::{CallError, Directory},
};

/// The longest that one call may take. A call without an answer is over after this time.
const CALL_MAX: Duration = Duration::from_secs(1);

/// One directory.
#[derive(Debug)]
pub struct TemplateProvider {
    name: ProviderName,
    specs: Vec<RoleSpec>,
    /// The group of each role, in the order of `specs`.
    groups: Vec<String>,
    address: String,
    password_file: PathBuf,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
}

impl TemplateProvider {
    /// Prepares the provider; makes no call and reads no secret.
    pub fn new(config: &TemplateConfig, parts: &Parts) -> Result<Self, InvalidValue> {
        let specs = config.roles.iter().map(|role| role.spec(&config.name));
        Ok(Self {
            name: config.name.clone(),
            specs: specs.collect::<Result<_, _>>()?,
            groups: config.roles.iter().map(|role| role.group.clone()).collect(),
            address: config.address.clone(),
            password_file: parts.base_dir.join(&config.password_file),
            directory: Arc::new(Directory::new(Arc::clone(&parts.clock))),
            clock: Arc::clone(&parts.clock),
        })
    }

    /// The back end, for tests that log in with a credential.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The broker's own password. It is read at every call: an operator may change it at any time.
    async fn password(&self) -> Result<Secret, ProviderError> {
        let text = tokio::fs::read_to_string(&self.password_file).await;
        let text = text.map_err(|e| {
            let file = self.password_file.display();
            ProviderError::Misconfigured(format!("`password_file` (`{file}`) cannot be read: {e}"))
        })?;
        Ok(Secret::new(text.trim_end().to_owned()))
    }

    /// The group of an account. The broker has checked the scope against the role's parameters.
    /// Only the provider knows where a value goes, so it checks here that no value leaves its place
    /// in the path.
    fn group(&self, role: &RoleName, scope: &Scope) -> Result<String, ProviderError> {
        let mut roles = self.specs.iter().zip(&self.groups);
        let Some((_, group)) = roles.find(|(spec, _)| spec.name == *role) else {
            let message = format!("there is no role `{role}` any more");
            return Err(ProviderError::Misconfigured(message));
        };
        match scope.value(TEAM) {
            None => Ok(group.clone()),
            Some(team) if team.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                Ok(format!("{group}/{team}"))
            }
            Some(_) => Err(ProviderError::Denied(format!(
                "`{TEAM}` may have letters, digits and `-`"
            ))),
        }
    }

    /// Refuses to work on an account of another directory: if this directory does not know the
    /// account, that proves nothing about the other one.
    fn check_origin(&self, handle: Option<&Value>) -> Result<(), ProviderError> {
        let address = handle.and_then(|handle| handle.get("address")?.as_str());
        match address {
            Some(address) if address != self.address => Err(ProviderError::Misconfigured(format!(
                "the credential was minted at `{address}`, and `address` is `{}` now",
                self.address
            ))),
            _ => Ok(()),
        }
    }

    /// Deletes one account and proves it.
    async fn revoke_one(&self, item: &RevokeItem) -> Result<Revoked, ProviderError> {
        self.check_origin(item.handle.as_ref())?;
        let (broker, name) = (self.password().await?, account(item.credential));
        within(self.directory.delete(&broker, &name)).await?;
        // If the answer was lost, the call may still be on its way and make the account after this
        // deletion. It is over `CALL_MAX` after the broker stopped waiting; the broker asks again.
        let now = self.clock.now();
        let over = item.intended_at.plus(CALL_MAX);
        if !item.outcome_known && now < over {
            return Err(ProviderError::Retryable {
                message: "the call that may have made the account is not over yet".to_owned(),
                after: Some(over.since(now)),
            });
        }
        if within(self.directory.exists(&broker, &name)).await? {
            return Err(ProviderError::retryable(
                "the account exists although it was deleted",
            ));
        }
        Ok(Revoked {
            verified: true,
            proof: format!("`{}` has no account of this credential", self.address),
            may_live_until: None,
            identity_until: None,
        })
    }
}

#[async_trait]
impl Provider for TemplateProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "template"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.specs
    }

    // Where to search if the answer is lost. The account's name follows from the credential's id.
    fn locator(&self, _role: &RoleName, _scope: &Scope) -> Option<Value> {
        Some(json!({ "address": self.address }))
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        let broker = self.password().await?;
        within(self.directory.exists(&broker, "no-such-account")).await?;
        Ok(Health {
            findings: vec![format!("`{}` accepts the broker's password", self.address)],
            warnings: Vec::new(),
        })
    }

    // No anchor is needed: the intent is enough to find the account. Where a back end chooses the
    // names, record an anchor before the thing may live long; see `Anchors`.
    async fn issue(
        &self,
        order: &IssueOrder,
        _anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        let group = self.group(&order.role, &order.scope)?;
        let (broker, name) = (self.password().await?, account(order.credential));
        let minting = self
            .directory
            .create(&broker, &name, &group, order.expires_at);
        let password = within(minting).await?;
        let mut data = SecretFields::new();
        for (field, secret) in [("username", Secret::new(name)), ("password", password)] {
            // INVARIANT: the two names differ.
            data.insert(field, secret)
                .map_err(|e| ProviderError::retryable(e.to_string()))?;
        }
        Ok(Issued {
            data,
            expires_at: order.expires_at,
            // The directory is told an end and no lifetime, so only its own clock knows it.
            lives_for: None,
            revocation_class: RevocationClass::Immediate,
            // Handles, proofs and errors are public. No field of `data` may be in them, not even
            // the account's name.
            handle: Some(json!({
                "address": self.address,
                "credential": order.credential.to_string(),
            })),
            anchor: None,
        })
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        self.check_origin(order.handle.as_ref())?;
        let (broker, name) = (self.password().await?, account(order.credential));
        if !within(self.directory.extend(&broker, &name, order.until)).await? {
            return Err(ProviderError::Gone("the account does not exist".to_owned()));
        }
        Ok(Renewed {
            expires_at: order.until,
            lives_for: None,
        })
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        let mut results = Vec::with_capacity(order.items.len());
        for item in &order.items {
            results.push(self.revoke_one(item).await);
        }
        Ok(results)
    }

    async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        let broker = self.password().await?;
        for item in &order.items {
            self.check_origin(item.handle.as_ref())?;
            let name = account(item.credential);
            if within(self.directory.exists(&broker, &name)).await? {
                return Ok(Liveness::Alive("an account exists".to_owned()));
            }
        }
        Ok(Liveness::Dead(
            "the directory has none of the accounts".to_owned(),
        ))
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        // Nothing to do: accounts that were revoked are gone, and the password does not expire.
        Ok(())
    }
}

/// The name of a credential's account.
fn account(credential: CredentialId) -> String {
    format!("tp-{credential}")
}

/// One call with its deadline.
async fn within<T>(
    call: impl Future<Output = Result<T, CallError>> + Send,
) -> Result<T, ProviderError> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.into()),
        Err(_elapsed) => Err(CallError::Unreachable.into()),
    }
}

// The kind of an error decides how the broker goes on. `Denied`, `Misconfigured` and `Unsupported`
// promise that nothing was minted. An error that leaves it open must be `Retryable`.
impl From<CallError> for ProviderError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable => Self::retryable(error.to_string()),
            CallError::Refused(_) => Self::Denied(error.to_string()),
        }
    }
}
