//! The suite that every provider runs in its own tests, against a real back end.
//!
//! A provider's tests implement [`Fixture`] and say
//! `taskpass_provider::conformance!(make_fixture())`; each promise of [`Provider`] becomes one
//! test. A check panics with a sentence when the promise is broken. Compiled only with the feature
//! `conformance`; nothing here runs in the broker.
//!
//! ```ignore
//! taskpass_provider::conformance!(VaultFixture::start());
//! ```

#![expect(
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a failed check is a failed test"
)]

mod checks;

pub use checks::*;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use taskpass_core::{AnchorId, ManualClock, SeededEntropy, TaskId, Timestamp};

use crate::{
    Anchors, IssueOrder, Issued, Provider, ProviderError, RevokeItem, RevokeOrder, RevokeScope,
};

/// A provider and its back end, as the suite sees them.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The provider under test.
    fn provider(&self) -> &dyn Provider;

    /// The provider's time.
    fn now(&self) -> Timestamp;

    /// A new task id, different at each call.
    fn new_task(&self) -> TaskId;

    /// An order of `task` that must succeed; each call has a new credential id.
    fn order(&self, task: TaskId) -> IssueOrder;

    /// Whether the back end accepts the credential now; uses it for real.
    async fn usable(&self, issued: &Issued) -> bool;

    /// An order that the back end refuses because a permission is missing.
    fn denied_order(&self) -> Option<IssueOrder> {
        None
    }

    /// Orders with scopes that would reach beyond the role: the provider must refuse them by
    /// itself.
    fn hostile_orders(&self) -> Vec<IssueOrder> {
        Vec::new()
    }

    /// The provider's own credentials, which must appear in no text.
    fn canaries(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether revoking really makes the credentials of [`Fixture::order`] unusable.
    fn revoking_kills(&self) -> bool {
        true
    }

    /// Makes the back end unreachable, if the fixture can.
    async fn break_back_end(&self) -> bool {
        false
    }

    /// Undoes [`Fixture::break_back_end`].
    async fn mend_back_end(&self) {}
}

/// Anchors that a test can inspect.
#[derive(Debug)]
pub struct RecordedAnchors {
    entropy: SeededEntropy,
    clock: ManualClock,
    records: Mutex<Vec<(AnchorId, Value, Timestamp)>>,
    refuses: bool,
    loses_intents: bool,
}

impl RecordedAnchors {
    /// Records every anchor.
    pub fn new() -> Self {
        Self::with(false, false)
    }

    /// Fails every record, as a full disk does.
    pub fn refusing() -> Self {
        Self::with(true, false)
    }

    /// Stands for a broker whose intents do not reach the disk.
    pub fn losing_intents() -> Self {
        Self::with(true, true)
    }

    fn with(refuses: bool, loses_intents: bool) -> Self {
        Self {
            entropy: SeededEntropy::new(1),
            clock: ManualClock::new(Timestamp::from_millis(1_700_000_000_000)),
            records: Mutex::new(Vec::new()),
            refuses,
            loses_intents,
        }
    }

    /// The anchors recorded so far, in the form of a revoke order.
    pub fn handles(&self) -> Vec<(AnchorId, Value)> {
        let records = self.records.lock();
        records
            .iter()
            .map(|(id, handle, _)| (*id, handle.clone()))
            .collect()
    }

    /// The handle of one anchor.
    pub fn handle(&self, id: AnchorId) -> Option<Value> {
        let records = self.records.lock();
        records
            .iter()
            .find(|(known, ..)| *known == id)
            .map(|(_, handle, _)| handle.clone())
    }

    /// The latest end of all recorded anchors.
    pub fn latest_expiry(&self) -> Option<Timestamp> {
        self.records
            .lock()
            .iter()
            .map(|(.., expires_at)| *expires_at)
            .max()
    }
}

impl Default for RecordedAnchors {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Anchors for RecordedAnchors {
    async fn intent_durable(&self) -> Result<(), ProviderError> {
        if self.loses_intents {
            return Err(ProviderError::Unsupported("the intent was lost".to_owned()));
        }
        Ok(())
    }

    async fn record(
        &self,
        handle: Value,
        expires_at: Timestamp,
    ) -> Result<AnchorId, ProviderError> {
        if self.refuses {
            return Err(ProviderError::retryable(
                "the anchor could not be recorded: disk full",
            ));
        }
        let id = AnchorId::generate(&self.clock, &self.entropy)
            .map_err(|e| ProviderError::retryable(e.to_string()))?;
        self.records.lock().push((id, handle, expires_at));
        Ok(id)
    }
}

/// The revoke item of a credential with a known outcome.
pub fn known_item(
    order: &IssueOrder,
    issued: &Issued,
    anchors: &RecordedAnchors,
    intended_at: Timestamp,
) -> RevokeItem {
    RevokeItem {
        credential: order.credential,
        role: order.role.clone(),
        scope: order.scope.clone(),
        intended_at,
        expires_at: issued.expires_at,
        lifetime: issued.expires_at.since(intended_at),
        revocation_class: issued.revocation_class,
        handle: issued.handle.clone(),
        anchor: issued.anchor.and_then(|id| anchors.handle(id)),
        outcome_known: true,
    }
}

/// The revoke item of an intent with an unknown outcome.
pub fn intent_item(
    provider: &dyn Provider,
    order: &IssueOrder,
    intended_at: Timestamp,
) -> RevokeItem {
    let Some(spec) = provider.roles().iter().find(|spec| spec.name == order.role) else {
        panic!(
            "the fixture's order names `{}`, which the provider does not have",
            order.role
        );
    };
    RevokeItem {
        credential: order.credential,
        role: order.role.clone(),
        scope: order.scope.clone(),
        intended_at,
        expires_at: order.expires_at,
        lifetime: order.expires_at.since(intended_at),
        revocation_class: spec.revocation_class,
        handle: provider.locator(&order.role, &order.scope),
        anchor: None,
        outcome_known: false,
    }
}

/// An order to revoke `items` of the task of `order`, with every anchor that was recorded.
pub fn revoke_order(
    order: &IssueOrder,
    scope: RevokeScope,
    anchors: &RecordedAnchors,
    items: Vec<RevokeItem>,
) -> RevokeOrder {
    RevokeOrder {
        task: order.task,
        agent: order.agent.clone(),
        task_deadline: order.task_deadline,
        scope,
        anchors: anchors.handles(),
        calls_may_run: false,
        items,
    }
}

/// Makes one test of each promise. Takes an expression for a future of a
/// [`Fixture`](crate::conformance::Fixture), which is evaluated once for each test.
#[macro_export]
macro_rules! conformance {
    ($setup:expr) => {
        $crate::conformance!(@tests $setup;
            roles_are_well_formed,
            check_and_maintain_succeed,
            issued_works_until_revoked,
            revoking_is_idempotent,
            intent_alone_is_enough_to_revoke,
            unknown_credentials_are_revoked_without_error,
            concurrent_issues_are_distinct,
            nothing_lives_longer_than_asked,
            secrets_stay_in_the_data,
            refusals_mint_nothing,
            hostile_scopes_are_refused,
            ending_the_task_covers_everything,
            revoking_one_leaves_the_others,
            renewing_stays_within_bounds,
            nothing_is_issued_unrecorded,
            a_broken_back_end_is_retryable,
        );
    };
    (@tests $setup:expr; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let fixture = $setup.await;
                $crate::conformance::$name(&fixture).await;
            }
        )+
    };
}
