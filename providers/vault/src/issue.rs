//! Minting one credential.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use taskpass_core::{InvalidValue, RevocationClass, Scope, Secret, SecretFields, Timestamp, Ttl};
use taskpass_provider::{Anchors, IssueOrder, Issued, ProviderError};

use crate::{
    api::{self, RenewLease, Reply},
    fault::Fault,
    handle::Handle,
    path::PathTemplate,
    provider::VaultProvider,
    role::{Draw, Dynamic, KvVersion, Making, Role},
    session::Session,
};

/// A lease this much longer than asked is left alone: clocks differ by as much.
const LEASE_SLACK: Duration = Duration::from_secs(2);

impl VaultProvider {
    pub(crate) async fn mint(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        let role = self.role(&order.role).ok_or_else(|| {
            ProviderError::Misconfigured(format!("this provider has no role `{}`", order.role))
        })?;
        match &role.making {
            Making::Dynamic(dynamic) => self.mint_dynamic(order, role, dynamic, anchors).await,
            Making::Token => self.mint_token(order, role, anchors).await,
            Making::Kv { path, version } => self.read_kv(order, path, *version, anchors).await,
        }
    }

    async fn mint_dynamic(
        &self,
        order: &IssueOrder,
        role: &Role,
        dynamic: &Dynamic,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        // First, so that the life asked for is counted from the call that begins it.
        self.session(order, anchors).await?;
        let now = self.clock.now();
        let ttl = Ttl::from_seconds(order.expires_at.since(now).as_secs())
            .map_err(|e| ProviderError::Denied(e.to_string()))?;
        let draw = dynamic.draw(&order.scope, ttl).map_err(|e| hostile(&e))?;
        let (mut reply, session) = self.draw(order, &draw, anchors).await?;
        let data = reply.data.take();
        if reply.lease_id.is_empty() {
            self.unleased.lock().insert(order.role.clone());
            return unleased(order, dynamic, &session, data);
        }
        let fields = secret_fields(data)?;
        let mut lease_seconds = u64::from(reply.lease_seconds);
        let asked = Duration::from_secs(u64::from(ttl.seconds()));
        if reply.renewable && Duration::from_secs(lease_seconds) > asked + LEASE_SLACK {
            // Without this the engine would keep it for as long as it likes, should the broker be gone by then.
            // A failure costs nothing: the session ends it in any case.
            let shortened = self.renew_lease(&reply.lease_id, ttl.seconds()).await;
            lease_seconds = shortened.map_or(lease_seconds, |reply| u64::from(reply.lease_seconds));
        }
        // Counted from after the answers: what the record calls the end must not come before Vault's own.
        let lease_ends = self.clock.now().plus(Duration::from_secs(lease_seconds));
        let ends_by = lease_ends.min(session.ends_by);
        Ok(Issued {
            data: fields,
            expires_at: end_on_record(order.expires_at, ends_by),
            revocation_class: role.spec.revocation_class,
            handle: Some(Handle::LeaseId(reply.lease_id).to_json()),
            anchor: Some(session.anchor),
        })
    }

    async fn mint_token(
        &self,
        order: &IssueOrder,
        role: &Role,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        let policies = role.policies.clone();
        let Session {
            token,
            accessor,
            anchor,
            ends_by,
            ..
        } = self
            .bear_token(
                order,
                policies,
                order.expires_at,
                Some(order.credential),
                anchors,
            )
            .await?;
        let mut data = SecretFields::new();
        data.insert("token", token).map_err(|e| unusable(&e))?;
        Ok(Issued {
            data,
            expires_at: end_on_record(order.expires_at, ends_by),
            revocation_class: RevocationClass::Immediate,
            handle: Some(Handle::Accessor(accessor).to_json()),
            anchor: Some(anchor),
        })
    }

    async fn read_kv(
        &self,
        order: &IssueOrder,
        path: &PathTemplate,
        version: KvVersion,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        let path = path.render(&order.scope).map_err(|e| hostile(&e))?;
        let draw = Draw { path, body: None };
        let (mut reply, session) = self.draw(order, &draw, anchors).await?;
        let data = match (reply.data.take(), version) {
            (Some(Value::Object(mut outer)), KvVersion::Two) => outer.remove("data"),
            (data, _) => data,
        };
        Ok(Issued {
            data: secret_fields(data)?,
            expires_at: order.expires_at,
            revocation_class: RevocationClass::None,
            handle: Some(Handle::Static(draw.path).to_json()),
            anchor: Some(session.anchor),
        })
    }

    /// Calls an engine with the task's token; a token that somebody else revoked is replaced once.
    async fn draw(
        &self,
        order: &IssueOrder,
        draw: &Draw,
        anchors: &dyn Anchors,
    ) -> Result<(Reply, Arc<Session>), ProviderError> {
        let session = self.session(order, anchors).await?;
        let refused = match api::call(&self.transport, draw.clone(), Some(&session.token)).await {
            Ok(reply) => return Ok((reply, session)),
            Err(fault) if fault.status() == Some(403) => fault,
            Err(fault) => return Err(draw_error(order, fault)),
        };
        if !matches!(self.token_is_alive(&session.accessor).await, Ok(false)) {
            return Err(draw_error(order, refused));
        }
        self.sessions.forget(order.task, &session).await;
        let session = self.session(order, anchors).await?;
        match api::call(&self.transport, draw.clone(), Some(&session.token)).await {
            Ok(reply) => Ok((reply, session)),
            Err(fault) => Err(draw_error(order, fault)),
        }
    }

    /// Renews with the broker's token: that of a task has the role's policies and nothing else.
    pub(crate) async fn renew_lease(&self, lease_id: &str, seconds: u32) -> Result<Reply, Fault> {
        self.broker_call(|| RenewLease {
            lease_id,
            increment: seconds,
        })
        .await
    }
}

/// The end of a life as the record has it, from the one asked for and the latest it can have at Vault. What goes on after
/// the time asked for is on record as it is: it must not be called expired while it lives.
pub(crate) fn end_on_record(asked: Timestamp, ends_by: Timestamp) -> Timestamp {
    if ends_by > asked.plus(LEASE_SLACK) {
        ends_by
    } else {
        asked.min(ends_by)
    }
}

/// A credential without a lease: nothing ends it before its own time, and the record must not say otherwise.
fn unleased(
    order: &IssueOrder,
    dynamic: &Dynamic,
    session: &Session,
    data: Option<Value>,
) -> Result<Issued, ProviderError> {
    let told = data
        .as_ref()
        .and_then(|data| data.get("expiration"))
        .and_then(Value::as_i64);
    let ends_at = told.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    let (revocation_class, expires_at) = match ends_at {
        Some(ends_at) => (RevocationClass::ExpiryOnly, ends_at),
        None if dynamic.tells_ttl() => (RevocationClass::ExpiryOnly, order.expires_at),
        None => (RevocationClass::None, order.expires_at),
    };
    Ok(Issued {
        data: secret_fields(data)?,
        expires_at,
        revocation_class,
        handle: Some(Handle::Unleased(told).to_json()),
        anchor: Some(session.anchor),
    })
}

/// The engine's own fields: texts as they are, anything else as JSON.
pub(crate) fn secret_fields(data: Option<Value>) -> Result<SecretFields, ProviderError> {
    let Some(Value::Object(fields)) = data else {
        // Something may have been minted all the same; the broker revokes to be sure.
        return Err(ProviderError::retryable(
            "Vault's answer has no data; is `path` one that yields credentials?",
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

fn draw_error(order: &IssueOrder, fault: Fault) -> ProviderError {
    fault.while_doing(&format!("issue `{}`", order.role))
}

fn hostile(error: &InvalidValue) -> ProviderError {
    ProviderError::Denied(error.to_string())
}

fn unusable(error: &InvalidValue) -> ProviderError {
    ProviderError::retryable(error.to_string())
}

/// How a lease of `scope` is found whose answer was lost.
pub(crate) fn lost_lease(role: &Role, scope: &Scope) -> Option<Handle> {
    let path = lease_path(role, scope)?;
    let is_timed = matches!(&role.making, Making::Dynamic(dynamic) if dynamic.tells_ttl());
    Some(if is_timed {
        Handle::TimedLeasePath(path)
    } else {
        Handle::LeasePath(path)
    })
}

/// The path a lease of `scope` is filed under.
pub(crate) fn lease_path(role: &Role, scope: &Scope) -> Option<String> {
    match &role.making {
        Making::Dynamic(dynamic) => dynamic.lease_path(scope).ok(),
        Making::Token | Making::Kv { .. } => None,
    }
}
