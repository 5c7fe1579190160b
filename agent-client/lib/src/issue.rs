//! Getting credentials issued, renewed and revoked, one call each. What keeps them fresh is [`crate::Credential`].

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use taskpass_core::{CredentialId, RoleName, Scope, Secret, SecretFields, TaskId, Timestamp, Ttl};
use taskpass_proto::v1::{
    IssueCredentialRequest, IssueCredentialResponse, RenewCredentialRequest,
    RevokeCredentialRequest, credential_service_client::CredentialServiceClient,
};
use tonic::Status;

use crate::{Client, Error, RPC_TIMEOUT, Receipt, Refusal, WAIT_TIMEOUT, wire};

/// The broker's reason when a repeated request was answered before: the secret was sent once and is not kept.
const ALREADY_ISSUED: &str = "ALREADY_ISSUED";
/// The broker's reason when the provider did not answer as it should.
const PROVIDER_UNAVAILABLE: &str = "PROVIDER_UNAVAILABLE";
/// Fresh requests after lost answers.
const REISSUES_MAX: u32 = 3;

/// A credential as it was issued: a snapshot, which [`crate::Credential`] replaces in time.
#[derive(Debug)]
pub struct Issued {
    /// Its name, by which it can be revoked.
    pub id: CredentialId,
    /// What it gives.
    pub role: RoleName,
    /// When this program received it, or last prolonged it.
    pub received_at: Timestamp,
    /// When it ends, if it is not prolonged.
    pub expires_at: Timestamp,
    /// What revoking can do to it: `immediate`, `denylist`, `inherits`, `expiry_only`, `none`.
    pub revocation_class: String,
    /// Whether the same secret can be prolonged.
    pub renewable: bool,
    data: Arc<SecretFields>,
}

impl Issued {
    /// One part of the secret, such as `password`.
    pub fn field(&self, name: &str) -> Option<&Secret> {
        self.data.field(name)
    }

    /// All parts by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.data.iter()
    }

    /// The same secret with a later end.
    pub(crate) fn prolonged(&self, received_at: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            id: self.id,
            role: self.role.clone(),
            received_at,
            expires_at,
            revocation_class: self.revocation_class.clone(),
            renewable: self.renewable,
            data: Arc::clone(&self.data),
        }
    }

    fn from_wire(reply: IssueCredentialResponse, now: Timestamp) -> Result<Self, Error> {
        // The secrets first, so that they are wiped whatever else is wrong.
        let mut data = SecretFields::new();
        for (name, value) in reply.data {
            data.insert(&name, Secret::new(value))
                .map_err(|e| Error::Reply(e.to_string()))?;
        }
        Ok(Self {
            id: wire::parsed(&reply.credential_id)?,
            role: wire::parsed(&reply.role)?,
            received_at: now,
            expires_at: wire::required_timestamp(reply.expires_at.as_ref(), "expires_at")?,
            revocation_class: reply.revocation_class,
            renewable: reply.renewable,
            data: Arc::new(data),
        })
    }
}

impl Client {
    /// Has a credential issued for an open task; as long as the role and the task allow when `ttl` is `None`.
    ///
    /// If an answer is lost on the way, the credential in it is revoked and another one is issued: the broker keeps
    /// no secret that it could send again.
    pub async fn issue_credential(
        &self,
        task: TaskId,
        role: &RoleName,
        scope: &Scope,
        ttl: Option<Ttl>,
    ) -> Result<Issued, Error> {
        let request = IssueCredentialRequest {
            idempotency_key: String::new(),
            task_id: task.to_string(),
            role: role.to_string(),
            scope: scope
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_owned()))
                .collect(),
            ttl_seconds: ttl.map_or(0, Ttl::seconds),
        };
        let mut lost = 0;
        loop {
            let key = ArcSwap::from_pointee(self.new_idempotency_key()?);
            let outcome = self
                .call(RPC_TIMEOUT, |channel| {
                    let mut request = request.clone();
                    request.idempotency_key.clone_from(&key.load());
                    let (client, key) = (self, &key);
                    async move {
                        let answer = CredentialServiceClient::new(channel)
                            .issue_credential(request)
                            .await;
                        client.replace_if_spent(key, &answer);
                        answer
                    }
                })
                .await;
            let error = match outcome {
                Ok(reply) => return Issued::from_wire(reply, self.config().clock.now()),
                Err(error) => error,
            };
            let Some(unseen) = unseen_credential(&error).filter(|_| lost < REISSUES_MAX) else {
                return Err(error);
            };
            lost += 1;
            tracing::info!(credential = %unseen, "the answer with this credential was lost; revoking it and asking again");
            self.revoke_credential(unseen, None).await?;
        }
    }

    /// A key is spent on a provider's failure; only another one can succeed.
    fn replace_if_spent<T>(&self, key: &ArcSwap<String>, answer: &Result<T, Status>) {
        if answer.as_ref().is_err_and(provider_failed)
            && let Ok(fresh) = self.new_idempotency_key()
        {
            key.store(Arc::new(fresh));
        }
    }

    /// Prolongs a renewable credential and returns its new end.
    pub async fn renew_credential(
        &self,
        id: CredentialId,
        ttl: Option<Ttl>,
    ) -> Result<Timestamp, Error> {
        let key = ArcSwap::from_pointee(self.new_idempotency_key()?);
        let reply = self
            .call(RPC_TIMEOUT, |channel| {
                let request = RenewCredentialRequest {
                    idempotency_key: key.load().to_string(),
                    credential_id: id.to_string(),
                    ttl_seconds: ttl.map_or(0, Ttl::seconds),
                };
                let (client, key) = (self, &key);
                async move {
                    let answer = CredentialServiceClient::new(channel)
                        .renew_credential(request)
                        .await;
                    client.replace_if_spent(key, &answer);
                    answer
                }
            })
            .await?;
        wire::required_timestamp(reply.expires_at.as_ref(), "expires_at")
    }

    /// Revokes one credential and waits: `wait`, or as long as the broker's configuration says.
    pub async fn revoke_credential(
        &self,
        id: CredentialId,
        wait: Option<Duration>,
    ) -> Result<Receipt, Error> {
        let request = RevokeCredentialRequest {
            credential_id: id.to_string(),
            wait_ms: wait.map_or(0, |w| {
                u32::try_from(w.as_millis()).unwrap_or(u32::MAX).max(1)
            }),
        };
        let limit = wait.map_or(WAIT_TIMEOUT, |w| w + RPC_TIMEOUT);
        let reply = self
            .call(limit, |channel| {
                let request = request.clone();
                async move {
                    CredentialServiceClient::new(channel)
                        .revoke_credential(request)
                        .await
                }
            })
            .await?;
        Receipt::from_wire(&wire::required(reply.receipt, "receipt")?)
    }
}

/// Whether the broker did ask the provider, and got nothing.
fn provider_failed(status: &Status) -> bool {
    Refusal::from(status.clone()).reason == PROVIDER_UNAVAILABLE
}

/// The credential that an earlier attempt was answered with, unheard.
fn unseen_credential(error: &Error) -> Option<CredentialId> {
    let refusal = error.refusal().filter(|r| r.reason == ALREADY_ISSUED)?;
    refusal.metadata.get("credential_id")?.parse().ok()
}
