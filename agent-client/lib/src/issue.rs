//! The calls that issue, renew and revoke one credential. [`crate::Credential`] keeps one fresh.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use taskpass_core::{
    CredentialId, EnvName, RoleName, Scope, Secret, SecretFields, TaskId, Timestamp, Ttl,
};
use taskpass_proto::v1::{
    IssueCredentialRequest, IssueCredentialResponse, RenewCredentialRequest,
    RevokeCredentialRequest, credential_service_client::CredentialServiceClient,
};
use tonic::Status;

use crate::{Client, Error, RPC_TIMEOUT, Receipt, Refusal, RevocationClass, wire};

/// The broker's reason when it has answered the same request before: it sent the secret once and
/// does not keep it.
const ALREADY_ISSUED: &str = "ALREADY_ISSUED";
/// The broker's reason when the provider did not answer as it should.
const PROVIDER_UNAVAILABLE: &str = "PROVIDER_UNAVAILABLE";
/// How many requests may follow lost answers.
const REISSUES_MAX: u32 = 3;

/// A credential as the broker issued it. It does not change; [`crate::Credential`] replaces it in
/// time.
#[derive(Debug)]
pub struct IssuedCredential {
    /// Its name, by which it can be revoked.
    pub id: CredentialId,
    /// Its role.
    pub role: RoleName,
    /// When this program received or last renewed it.
    pub received_at: Timestamp,
    /// When it expires unless it is renewed.
    pub expires_at: Timestamp,
    /// Its revocation class: how far revoking it goes.
    pub revocation_class: RevocationClass,
    /// Whether the same secret can be renewed.
    pub renewable: bool,
    data: Arc<SecretFields>,
    env: Arc<BTreeMap<String, EnvName>>,
}

impl IssuedCredential {
    /// One part of the secret, such as `password`.
    pub fn field(&self, name: &str) -> Option<&Secret> {
        self.data.field(name)
    }

    /// All parts by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.data.iter()
    }

    /// The environment variable that a part of the secret sets for a command, as its role declares.
    /// `None` when the role declares none.
    pub fn variable(&self, name: &str) -> Option<&EnvName> {
        self.env.get(name)
    }

    /// The same secret with a later end.
    pub(crate) fn renewed(&self, received_at: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            id: self.id,
            role: self.role.clone(),
            received_at,
            expires_at,
            revocation_class: self.revocation_class,
            renewable: self.renewable,
            data: Arc::clone(&self.data),
            env: Arc::clone(&self.env),
        }
    }

    fn from_wire(reply: IssueCredentialResponse, now: Timestamp) -> Result<Self, Error> {
        // The secrets are read first, so that they are wiped if anything else in the reply is
        // wrong.
        let mut data = SecretFields::new();
        for (name, value) in reply.data {
            data.insert(&name, Secret::new(value))
                .map_err(|e| Error::Reply(e.to_string()))?;
        }
        let mut env = BTreeMap::new();
        for (field, name) in reply.env {
            env.insert(field, wire::parsed(&name)?);
        }
        Ok(Self {
            id: wire::parsed(&reply.credential_id)?,
            role: wire::parsed(&reply.role)?,
            received_at: now,
            expires_at: wire::required_timestamp(reply.expires_at.as_ref(), "expires_at")?,
            revocation_class: reply.revocation_class.into(),
            renewable: reply.renewable,
            data: Arc::new(data),
            env: Arc::new(env),
        })
    }
}

impl Client {
    /// Asks for a credential for an open task. Without a `ttl` it lives as long as the role and the
    /// task allow.
    ///
    /// The broker keeps no secret that it could send again. If an answer is lost on the way, this
    /// method revokes the credential in it and asks for another one.
    pub async fn issue_credential(
        &self,
        task: TaskId,
        role: &RoleName,
        scope: &Scope,
        ttl: Option<Ttl>,
    ) -> Result<IssuedCredential, Error> {
        let request = IssueCredentialRequest {
            idempotency_key: String::new(),
            task_id: task.to_string(),
            role: role.to_string(),
            scope: wire::pairs(scope),
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
                Ok(reply) => return IssuedCredential::from_wire(reply, self.config().clock.now()),
                Err(error) => error,
            };
            let Some(undelivered) = undelivered_credential(&error).filter(|_| lost < REISSUES_MAX)
            else {
                return Err(error);
            };
            lost += 1;
            tracing::info!(credential = %undelivered, "the answer with this credential was lost; revoking it and asking again");
            self.revoke_credential(undelivered, None).await?;
        }
    }

    /// The broker answers a key with the first outcome again. After a failure of the provider only
    /// another key can succeed.
    fn replace_if_spent<T>(&self, key: &ArcSwap<String>, answer: &Result<T, Status>) {
        if answer.as_ref().is_err_and(provider_failed)
            && let Ok(fresh) = self.new_idempotency_key()
        {
            key.store(Arc::new(fresh));
        }
    }

    /// Renews a renewable credential and returns its new end.
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

    /// Revokes one credential and waits for it: for `wait`, or as long as the broker is configured
    /// to.
    pub async fn revoke_credential(
        &self,
        id: CredentialId,
        wait: Option<Duration>,
    ) -> Result<Receipt, Error> {
        let request = RevokeCredentialRequest {
            credential_id: id.to_string(),
            wait_ms: wire::wait_ms(wait),
        };
        let reply = self
            .send(
                wire::wait_limit(wait),
                request,
                |channel, request| async move {
                    CredentialServiceClient::new(channel)
                        .revoke_credential(request)
                        .await
                },
            )
            .await?;
        Receipt::from_wire(&wire::required(reply.receipt, "receipt")?)
    }
}

/// Whether the broker called the provider without success.
fn provider_failed(status: &Status) -> bool {
    Refusal::from(status.clone()).reason == PROVIDER_UNAVAILABLE
}

/// The credential of an answer that was lost.
fn undelivered_credential(error: &Error) -> Option<CredentialId> {
    let refusal = error.refusal().filter(|r| r.reason == ALREADY_ISSUED)?;
    refusal.metadata.get("credential_id")?.parse().ok()
}
