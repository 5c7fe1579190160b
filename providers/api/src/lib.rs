//! What a back end must do to be a Taskpass provider.
//!
//! A provider mints credentials of its roles, finds them again from what the ledger recorded, revokes them, and
//! proves that they are dead. It decides nothing: policy, quotas, scope rules and the task's life are settled
//! before it is called. It keeps nothing that must survive a restart, save through [`Anchors`].
//!
//! The broker promises a provider: the intent is durable before [`Provider::issue`] runs; calls carry a deadline;
//! calls for one task may run concurrently; `revoke` may come at any time, any number of times, also for an intent
//! whose outcome nobody knows.
//!
//! ```
//! use taskpass_provider::ProviderError;
//!
//! // A provider says what to do next, not just what went wrong.
//! let error = ProviderError::retryable("connection refused");
//! assert!(error.is_retryable());
//! ```

pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod order;

pub use error::ProviderError;
pub use order::{
    Anchors, Health, IssueOrder, Issued, Liveness, RenewOrder, Renewed, RevokeItem, RevokeOrder,
    RevokeScope, Revoked,
};

use async_trait::async_trait;
use serde_json::Value;
use taskpass_core::{ProviderName, RoleName, RoleSpec, Scope};

/// One configured back end that mints credentials.
#[async_trait]
pub trait Provider: std::fmt::Debug + Send + Sync {
    /// The name from the configuration.
    fn name(&self) -> &ProviderName;

    /// The kind, such as `vault` or `aws`.
    fn kind(&self) -> &'static str;

    /// The roles, with parameters, impact, longest lifetime and revocation class.
    fn roles(&self) -> &[RoleSpec];

    /// What the intent keeps, so that a credential whose minting is never answered can be looked for where it was asked
    /// for, whatever the configuration says by then. Never a secret; asks nobody. It is the [`RevokeItem::handle`]
    /// until [`Issued::handle`] takes its place.
    fn locator(&self, _role: &RoleName, _scope: &Scope) -> Option<Value> {
        None
    }

    /// Can this provider do its job now? Tries what issuing and revoking need, without minting anything that lasts.
    async fn check(&self) -> Result<Health, ProviderError>;

    /// Mints one credential.
    ///
    /// Whatever is minted must be revocable later from the order alone or from an anchor recorded through
    /// `anchors` before it could live long. An error of kind [`ProviderError::Denied`], `Misconfigured` or
    /// `Unsupported` promises that nothing was minted; any other error leaves that open and the broker revokes.
    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError>;

    /// Extends a credential, at most until `order.until`.
    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError>;

    /// Makes credentials unusable, and says for each how it was proved.
    ///
    /// Idempotent. Returns one result for each item of the order, in order. `Err` means nothing is known about any
    /// item; a failing item among others is an `Err` in its place. Where no other order would fare better, answer
    /// `Err`: after several of those in a row the broker tries one order at a time.
    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError>;

    /// Is the credential still usable? Never changes anything.
    async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError>;

    /// Work that keeps the provider's own house clean: renew its own token, prune its deny list. Idempotent; called
    /// on a timer and after revocations.
    async fn maintain(&self) -> Result<(), ProviderError>;
}
