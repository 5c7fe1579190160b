//! Issuing one credential.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use taskpass_core::{InvalidValue, RevocationClass, Secret, SecretFields, Timestamp, Ttl};
use taskpass_provider::{Anchors, IssueOrder, Issued, ProviderError};

use crate::{
    api::{EngineCall, Reply},
    engine::{EngineRevokes, engine_by_session},
    fault::Fault,
    handle::Handle,
    path::PathTemplate,
    role::{CredentialSource, Dynamic, KvVersion, Role},
    roles::Roles,
    session::{Policies, Sessions},
    token::{AnchoredToken, TokenSpec, mint_token},
    vault::Vault,
};

/// A lease this much longer than asked is left alone: clocks differ by as much.
const LEASE_SLACK: Duration = Duration::from_secs(2);

/// One order to issue, and all that it takes.
pub(crate) struct Issuing<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) roles: &'a Roles,
    pub(crate) sessions: &'a Sessions,
    pub(crate) order: &'a IssueOrder,
    pub(crate) anchors: &'a dyn Anchors,
}

impl Issuing<'_> {
    pub(crate) async fn issue(&self) -> Result<Issued, ProviderError> {
        let role = self.roles.get(&self.order.role)?;
        match &role.source {
            CredentialSource::Dynamic(dynamic) => {
                self.issue_dynamic(dynamic, &Policies::of(role)).await
            }
            CredentialSource::Token => self.issue_token(role).await,
            CredentialSource::Kv { path, version } => {
                self.issue_kv(path, *version, &Policies::of(role)).await
            }
        }
    }

    async fn issue_dynamic(
        &self,
        dynamic: &Dynamic,
        policies: &Policies,
    ) -> Result<Issued, ProviderError> {
        let order = self.order;
        let path = dynamic.lease_path(&order.scope).map_err(|e| hostile(&e))?;
        // Session and engine come first, so that the lifetime counts from the call to the engine.
        let session = self.session(policies).await?;
        let engine = engine_by_session(self.vault, &session, &path).await?;
        let now = self.vault.clock.now();
        let ttl = Ttl::from_seconds(order.expires_at.since(now).as_secs())
            .map_err(|e| ProviderError::Denied(e.to_string()))?;
        let call = dynamic
            .engine_call(&order.scope, ttl)
            .map_err(|e| hostile(&e))?;
        let (mut reply, session) = self.call_engine(&call, policies).await?;
        let data = reply.data.take();
        if reply.lease_id.is_empty() {
            self.roles.mark_unleased(&order.role);
            return unleased(order, dynamic, &session, data);
        }
        let revokes = dynamic.revokes(engine.as_deref(), data.as_ref());
        let fields = secret_fields(data)?;
        let mut lease_seconds = u64::from(reply.lease_seconds);
        let asked = Duration::from_secs(u64::from(ttl.seconds()));
        let ends_with_lease = revokes == EngineRevokes::Now;
        if ends_with_lease
            && reply.renewable
            && Duration::from_secs(lease_seconds) > asked + LEASE_SLACK
        {
            // Otherwise, should the broker be gone by then, the lease lives for as long as the
            // engine likes. A failure is ignored: the lease ends with its session in any case.
            let shortened = self
                .vault
                .renew_lease(&reply.lease_id, reply.index.as_ref(), ttl.seconds())
                .await;
            lease_seconds = shortened.map_or(lease_seconds, |reply| u64::from(reply.lease_seconds));
        }
        // Counted from after the answers: the end on record must not come before Vault's own.
        let lease_ends = self
            .vault
            .clock
            .now()
            .plus(Duration::from_secs(lease_seconds));
        let ends_by = match revokes {
            EngineRevokes::Now => lease_ends.min(session.dead_by),
            // Neither a shorter lease nor the end of the session ends it.
            EngineRevokes::AtExpiry => lease_ends,
            EngineRevokes::Never => order.expires_at,
        };
        let handle = Handle::LeaseId(reply.lease_id);
        Ok(Issued {
            data: fields,
            expires_at: end_on_record(order.expires_at, ends_by),
            // Where the engine ends nothing with the lease, the life of the lease proves no end.
            lives_for: matches!(revokes, EngineRevokes::Now)
                .then_some(Duration::from_secs(lease_seconds)),
            revocation_class: revokes.class(),
            handle: Some(handle.minted_by(engine.as_deref(), reply.index.as_ref())),
            anchor: Some(session.anchor),
        })
    }

    async fn issue_token(&self, role: &Role) -> Result<Issued, ProviderError> {
        let order = self.order;
        let spec = TokenSpec {
            policies: role.policies.clone(),
            until: order.expires_at,
            // Vault ends it for certain then, whatever its policies let its holder do.
            until_at_most: if role.spec.renewable {
                order.task_deadline
            } else {
                order.expires_at
            },
            credential: Some(order.credential),
        };
        let token = mint_token(self.vault, order, spec, self.anchors).await?;
        let mut data = SecretFields::new();
        data.insert("token", token.secret)
            .map_err(|e| unusable(&e))?;
        Ok(Issued {
            data,
            expires_at: end_on_record(order.expires_at, token.dead_by),
            // The holder of a renewable token may renew it behind the broker's back, so the broker
            // revokes it at its end. At a renewal Vault takes the longest life from the token role
            // and forgets the life that the broker asked for, so there each token is renewable.
            lives_for: (!role.spec.renewable && self.vault.token_role.is_none())
                .then_some(token.granted),
            revocation_class: RevocationClass::Inherits,
            handle: Some(Handle::of_token(
                token.accessor,
                token.minted.as_ref(),
                self.vault.token_role.as_deref(),
            )),
            anchor: Some(token.anchor),
        })
    }

    async fn issue_kv(
        &self,
        path: &PathTemplate,
        version: KvVersion,
        policies: &Policies,
    ) -> Result<Issued, ProviderError> {
        let path = path.render(&self.order.scope).map_err(|e| hostile(&e))?;
        let call = EngineCall { path, body: None };
        let (mut reply, session) = self.call_engine(&call, policies).await?;
        let data = match (reply.data.take(), version) {
            (Some(Value::Object(mut outer)), KvVersion::Two) => outer.remove("data"),
            (data, _) => data,
        };
        Ok(Issued {
            data: secret_fields(data)?,
            expires_at: self.order.expires_at,
            lives_for: None,
            revocation_class: RevocationClass::None,
            handle: Some(Handle::Static(call.path).to_json()),
            anchor: Some(session.anchor),
        })
    }

    /// Calls an engine with the task's session for these policies. If an operator has revoked the
    /// session, a new one is minted and the call is made once more.
    async fn call_engine(
        &self,
        call: &EngineCall,
        policies: &Policies,
    ) -> Result<(Reply, Arc<AnchoredToken>), ProviderError> {
        let doing = format!("issue `{}`", self.order.role);
        let session = self.session(policies).await?;
        let refused = match self.call_once(&session, call).await {
            Ok(reply) => return Ok((reply, session)),
            Err(fault) if fault.status() == Some(403) => fault,
            Err(fault) => return Err(fault.while_doing(&doing)),
        };
        let exists = self
            .vault
            .token_exists(&session.accessor, session.minted.as_ref())
            .await;
        if !matches!(exists, Ok(false)) {
            return Err(refused.while_doing(&doing));
        }
        let dead = [session.accessor.clone()].into();
        self.sessions.remove_any_of(self.order.task, &dead).await;
        let session = self.session(policies).await?;
        match self.call_once(&session, call).await {
            Ok(reply) => Ok((reply, session)),
            Err(fault) => Err(fault.while_doing(&doing)),
        }
    }

    async fn call_once(&self, session: &AnchoredToken, call: &EngineCall) -> Result<Reply, Fault> {
        let minted = session.minted.as_ref();
        self.vault
            .call_with(&session.secret, minted, call.clone())
            .await
    }

    async fn session(&self, policies: &Policies) -> Result<Arc<AnchoredToken>, ProviderError> {
        self.sessions
            .get_or_mint(self.vault, self.order, policies, self.anchors)
            .await
    }
}

/// The end for the record, from the end that was asked for and the latest end at Vault. If Vault
/// lets it live on, the record has Vault's end: a credential must not be called expired while it
/// lives.
pub(crate) fn end_on_record(asked: Timestamp, ends_by: Timestamp) -> Timestamp {
    if ends_by > asked.plus(LEASE_SLACK) {
        ends_by
    } else {
        asked.min(ends_by)
    }
}

/// A credential without a lease: it cannot be revoked before its own end, and the record must say
/// so.
fn unleased(
    order: &IssueOrder,
    dynamic: &Dynamic,
    session: &AnchoredToken,
    data: Option<Value>,
) -> Result<Issued, ProviderError> {
    let told = data
        .as_ref()
        .and_then(|data| data.get("expiration"))
        .and_then(Value::as_i64);
    let ends_at = told.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    let (revocation_class, expires_at) = match ends_at {
        _ if dynamic.claimed() == EngineRevokes::Never => (RevocationClass::None, order.expires_at),
        Some(ends_at) => (RevocationClass::ExpiryOnly, ends_at),
        None if dynamic.tells_ttl() => (RevocationClass::ExpiryOnly, order.expires_at),
        None => (RevocationClass::None, order.expires_at),
    };
    Ok(Issued {
        data: secret_fields(data)?,
        expires_at,
        // Only Vault's clock knows the end that the engine told.
        lives_for: None,
        revocation_class,
        handle: Some(Handle::Unleased(told).to_json()),
        anchor: Some(session.anchor),
    })
}

/// The engine's own fields: texts as they are, other values as JSON.
pub(crate) fn secret_fields(data: Option<Value>) -> Result<SecretFields, ProviderError> {
    let Some(Value::Object(fields)) = data else {
        // The engine may have minted a credential all the same; the retryable error makes the
        // broker revoke it.
        return Err(ProviderError::retryable(
            "Vault's answer has no data; is the role's `path` one that yields credentials?",
        ));
    };
    let mut secret = SecretFields::new();
    for (name, value) in fields {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            other => other.to_string(),
        };
        secret
            .insert(&name, Secret::new(text))
            .map_err(|e| unusable(&e))?;
    }
    Ok(secret)
}

fn hostile(error: &InvalidValue) -> ProviderError {
    ProviderError::Denied(error.to_string())
}

fn unusable(error: &InvalidValue) -> ProviderError {
    ProviderError::retryable(error.to_string())
}
