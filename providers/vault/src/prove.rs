//! Looking up what is left: the difference between "revoked" and "told Vault to revoke".

use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::Value;
use taskpass_core::{RevocationClass, RoleName, Scope};
use taskpass_provider::{Liveness, ProviderError, RevokeItem, RevokeOrder, RevokeScope};
use tokio::time::Instant;

use crate::{
    api::{ListLeases, LookupLease, RevokeLease},
    fault::Fault,
    handle::{AnchorHandle, Handle},
    issue::lease_path,
    provider::VaultProvider,
};

/// Calls at once for one order. More would only queue inside Vault, before everybody else's.
pub(crate) const CALLS_AT_ONCE: usize = 16;
/// The pauses between looking a lease up: short at first, since Vault needs milliseconds for one.
const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// When no lease of the task has died for this long, Vault is not getting on by itself.
const STALL: Duration = Duration::from_secs(5);
/// More leases than this below one path are not looked through.
const OVERDUE_SEARCH_MAX: usize = 4096;

/// When a lease was last seen to be gone; shared by all lookups of one order.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Instant>);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn made(&self) {
        *self.0.lock() = Instant::now();
    }

    fn stalled(&self) -> bool {
        self.0.lock().elapsed() > STALL
    }
}

/// What is known of leases whose ids nobody learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Search {
    /// Nothing below the path is overdue.
    NothingLeft,
    /// Something is past its end and still there.
    Overdue,
    /// It cannot be looked at, for this reason.
    Impossible(String),
}

impl VaultProvider {
    /// Whether the lease exists, be it only as one that could not be revoked yet.
    pub(crate) async fn lease_is_there(&self, lease_id: &str) -> Result<bool, Fault> {
        match self.broker_call(|| LookupLease { lease_id }).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.says_gone() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Waits for a lease whose token was revoked, and revokes it by itself when Vault does not get on.
    pub(crate) async fn await_lease_end(
        &self,
        lease_id: &str,
        progress: &Progress,
    ) -> Result<(), ProviderError> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.lease_is_there(lease_id).await {
                Ok(false) => {
                    progress.made();
                    return Ok(());
                }
                Ok(true) if progress.stalled() => return self.end_lease(lease_id).await,
                Ok(true) => {}
                Err(fault) => return Err(fault.while_doing("look up a revoked lease")),
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// Revokes one lease and proves by a lookup that it is gone.
    pub(crate) async fn end_lease(&self, lease_id: &str) -> Result<(), ProviderError> {
        match self
            .broker_call(|| RevokeLease {
                lease_id,
                sync: true,
            })
            .await
        {
            Ok(_) => {}
            Err(fault) if fault.says_gone() => {}
            // The engine's failure comes with a 400 too; it is the target that must come back, not the order.
            Err(fault @ Fault::Refused { status: 400, .. }) => {
                return Err(ProviderError::retryable(
                    fault.while_doing("revoke a lease").to_string(),
                ));
            }
            Err(fault) => return Err(fault.while_doing("revoke a lease")),
        }
        match self.lease_is_there(lease_id).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(ProviderError::retryable(
                "Vault revoked a lease, but still finds it",
            )),
            Err(fault) => Err(fault.while_doing("look up a revoked lease")),
        }
    }

    /// Looks for leases that should have ended with a session and did not.
    ///
    /// Ending a token moves the end of its leases to that moment, so what is left of them is overdue; leases of other
    /// tasks below the same path have time left and do not matter.
    pub(crate) async fn search_overdue(&self, role: &RoleName, scope: &Scope) -> Search {
        let Some(path) = self.role(role).and_then(|role| lease_path(role, scope)) else {
            return Search::Impossible("its role is not configured any more".to_owned());
        };
        let listed = match self.broker_call(|| ListLeases { path: &path }).await {
            Ok(reply) => reply,
            Err(fault) if fault.status() == Some(404) => return Search::NothingLeft,
            Err(fault) => return Search::Impossible(fault.while_doing("list leases").to_string()),
        };
        let keys = listed
            .data
            .as_ref()
            .and_then(|data| data.get("keys"))
            .and_then(Value::as_array);
        let ids: Vec<String> = keys
            .into_iter()
            .flatten()
            .filter_map(|key| key.as_str().map(|key| format!("{path}/{key}")))
            .collect();
        if ids.len() > OVERDUE_SEARCH_MAX {
            return Search::Impossible(format!(
                "more than {OVERDUE_SEARCH_MAX} leases share its path"
            ));
        }
        let found: Vec<Result<bool, Fault>> = stream::iter(ids)
            .map(|id| async move { self.lease_is_overdue(&id).await })
            .buffer_unordered(CALLS_AT_ONCE)
            .collect()
            .await;
        let mut verdict = Search::NothingLeft;
        for overdue in found {
            match overdue {
                Ok(true) => return Search::Overdue,
                Ok(false) => {}
                Err(fault) => {
                    verdict = Search::Impossible(fault.while_doing("look up a lease").to_string())
                }
            }
        }
        verdict
    }

    async fn lease_is_overdue(&self, lease_id: &str) -> Result<bool, Fault> {
        match self.broker_call(|| LookupLease { lease_id }).await {
            Ok(reply) => Ok(reply.number("ttl").unwrap_or(0) <= 0),
            Err(fault) if fault.says_gone() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Says what is alive of an order; lookups only.
    pub(crate) async fn look_at(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        let unsure = order.items.iter().any(|item| !item.outcome_known);
        if order.scope == RevokeScope::Task || unsure {
            for (_, handle) in &order.anchors {
                let accessor = AnchorHandle::parse(handle)?.accessor;
                let alive = self.token_is_alive(&accessor).await;
                if alive.map_err(|e| e.while_doing("look up a session"))? {
                    return Ok(Liveness::Alive(
                        "a session of the task can still be used".to_owned(),
                    ));
                }
            }
        }
        let mut looking = Vec::with_capacity(order.items.len());
        for item in &order.items {
            looking.push(self.look_at_item(item));
        }
        let looks: Vec<Result<Liveness, ProviderError>> = stream::iter(looking)
            .buffer_unordered(CALLS_AT_ONCE)
            .collect()
            .await;
        let mut verdict =
            Liveness::Dead("Vault knows none of the tokens and leases any more".to_owned());
        for look in looks {
            match look? {
                alive @ Liveness::Alive(_) => return Ok(alive),
                unknown @ Liveness::Unknown(_) => verdict = unknown,
                Liveness::Dead(_) => {}
            }
        }
        Ok(verdict)
    }

    async fn look_at_item(&self, item: &RevokeItem) -> Result<Liveness, ProviderError> {
        let handle = item.handle.as_ref().map(Handle::parse).transpose()?;
        let is_there = match &handle {
            Some(Handle::LeaseId(lease_id)) => self.lease_is_there(lease_id).await,
            Some(Handle::Accessor(accessor)) => self.token_is_alive(accessor).await,
            Some(Handle::Unleased(_)) => {
                return Ok(Liveness::Unknown(
                    "it has no lease that could be looked up".to_owned(),
                ));
            }
            Some(Handle::Static(_)) => {
                return Ok(Liveness::Unknown(
                    "a static secret works until somebody changes it".to_owned(),
                ));
            }
            None if item.revocation_class == RevocationClass::Immediate => {
                return Ok(Liveness::Dead("no session of the task is alive".to_owned()));
            }
            None => return Ok(Liveness::Unknown("its lease was never learned".to_owned())),
        };
        let is_there = is_there.map_err(|e| e.while_doing("look up a credential"))?;
        Ok(if is_there {
            Liveness::Alive(format!("Vault still knows credential {}", item.credential))
        } else {
            Liveness::Dead("Vault does not know it any more".to_owned())
        })
    }
}
