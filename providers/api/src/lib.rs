//! The duties of a back end as a Taskpass provider.
//!
//! A provider mints credentials of its roles, finds them by their recorded handles, revokes them,
//! and proves that they are dead. It decides nothing: policy, quotas, scope rules and the task's
//! life are checked before it is called. It keeps nothing that must survive a restart, except
//! through [`Anchors`].
//!
//! The broker promises a provider: the intent is durable before [`Provider::issue`] runs, unless
//! the provider said that the credential hangs on an anchor ([`Provider::held_anchor`]); calls
//! carry a deadline; calls for one task may run concurrently; `revoke` may come at any time and any
//! number of times, also for an intent with an unknown outcome.
//!
//! ```
//! use taskpass_provider::ProviderError;
//!
//! // A provider's error tells the broker how to go on, and not only the failure.
//! let error = ProviderError::retryable("connection refused");
//! assert!(error.is_retryable());
//! ```

pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod factory;
mod order;
mod seal;

pub use error::ProviderError;
pub use factory::{
    BuildError, Configuration, Finding, Parts, ProviderFactory, ProviderKinds, factory,
};
pub use order::{
    Anchors, Health, IssueOrder, Issued, Liveness, RenewOrder, Renewed, RevokeItem, RevokeOrder,
    RevokeScope, Revoked,
};
pub use seal::{Seal, SealConfiguration, SealFactory, SealParts, seal_factory};

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use taskpass_core::{
    AnchorId, AnchorKey, CredentialId, ProviderName, RoleName, RoleSpec, Scope, TaskId,
};

/// One configured back end that mints credentials.
#[async_trait]
pub trait Provider: std::fmt::Debug + Send + Sync {
    /// The name from the configuration.
    fn name(&self) -> &ProviderName;

    /// The kind, such as `vault` or `aws`.
    fn kind(&self) -> &'static str;

    /// The roles, with parameters, impact, longest lifetime and revocation class.
    fn roles(&self) -> &[RoleSpec];

    /// Where to search for a credential if the answer is lost. The intent keeps it, because the
    /// configuration may have changed by then. It is never a secret, and takes no call to the back
    /// end. It is the [`RevokeItem::handle`] until [`Issued::handle`] replaces it.
    fn locator(&self, _role: &RoleName, _scope: &Scope) -> Option<Value> {
        None
    }

    /// What the anchor of a credential has in common with the credential: `issue` must use anchors
    /// that were recorded for the same key, and no others. While a credential is in doubt, the
    /// broker revokes the task's anchors with its key and leaves the others alone. `None` where any
    /// anchor of the task may be used, or where there are none. Makes no call to the back end.
    fn anchor_key(
        &self,
        _role: &RoleName,
        _scope: &Scope,
        _credential: CredentialId,
    ) -> Option<AnchorKey> {
        None
    }

    /// The anchor through which `issue` would issue a credential right now, if the provider holds
    /// it ready. Whatever `issue` mints through it must be found and ended with the anchor alone:
    /// the broker may then call `issue` before the intent is durable, and a power cut may leave no
    /// other trace of the call. `issue` waits with [`Anchors::intent_durable`] before it mints
    /// anything outside that anchor. The anchor must outlive the call. `None` where credentials do
    /// not hang on anchors, or none is ready. Makes no call to the back end.
    fn held_anchor(&self, _task: TaskId, _role: &RoleName, _scope: &Scope) -> Option<AnchorId> {
        None
    }

    /// Whether each call to `issue` that was sent before `sent_before`, on the monotonic clock,
    /// must be over at the back end. The broker asks when it may have lost such a call through a
    /// [held anchor](Provider::held_anchor), and ends none of the task's anchors before the answer
    /// is `Ok`. A retryable error says how long a call may still run. Changes nothing.
    async fn calls_are_over(&self, _sent_before: Duration) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Whether another instance for the same place at the back end may work at the same time, as
    /// happens while a reload replaces one by the other. False for a provider that reads, changes
    /// and writes a document there: two writers would lose each other's entries.
    fn may_overlap(&self) -> bool {
        true
    }

    /// Whether this provider can do its job now. Tries the steps of issuing and revoking, without
    /// minting anything that lasts.
    async fn check(&self) -> Result<Health, ProviderError>;

    /// Mints one credential.
    ///
    /// A minted credential must be revocable later from the order alone, or from an anchor that was
    /// recorded through `anchors` before the credential could live long. An error of kind
    /// [`ProviderError::Denied`], `Misconfigured`, `Unsupported` or `Exhausted` promises that
    /// nothing was minted. After any other error the outcome is unknown, and the broker revokes.
    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError>;

    /// Gives a credential a later end, at most `order.until`.
    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError>;

    /// Makes credentials unusable, and tells for each how that was proved.
    ///
    /// Idempotent. Returns one result for each item of the order, in order. A single item that
    /// fails is an `Err` in its place. `Err` as a whole means that nothing is known about any item
    /// and that no other order would succeed either: after several such errors in a row the broker
    /// tries one order at a time.
    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError>;

    /// Whether the credentials are usable. Changes nothing.
    async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError>;

    /// Maintains the provider itself: renews its own token, prunes its deny list. Idempotent;
    /// called on a timer and after revocations.
    async fn maintain(&self) -> Result<(), ProviderError>;
}
