//! The next revocations of one task at one provider, decided from the record alone: no store, no
//! clock, no provider.
//!
//! A credential that the provider answered for is revoked by itself. A credential in doubt is dead
//! for certain only when every anchor is gone that it may have been issued through, and an anchor
//! takes all with it that was issued through it. A credential is issued through an anchor with its
//! own key, so anchors with other keys stay. Three rules follow, and each is a row of the tests:
//!
//! 1. All credentials in doubt that may have been issued through the same anchors are revoked
//!    together, whenever each is due.
//! 2. The ledger marks everything that dies with an anchor before the anchor ends.
//! 3. No anchor ends while a call may still issue through it: a credential minted afterwards would
//!    hang on nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use taskpass_core::{
    Anchor, AnchorKey, Credential, CredentialId, CredentialState, Task, TaskState,
};
use taskpass_provider::RevokeScope;

/// The records of one task at one provider, and the calls that run there.
#[derive(Debug)]
pub(super) struct Situation {
    pub(super) task: Arc<Task>,
    /// The credentials of the task at this provider. The due ones are enough while the task is open
    /// and none of them is in doubt.
    pub(super) credentials: Vec<Arc<Credential>>,
    /// The live anchors of the task at this provider.
    pub(super) anchors: Vec<Arc<Anchor>>,
    /// The credentials for which a call to issue runs in this process.
    pub(super) in_flight: BTreeSet<CredentialId>,
    /// The keys of the calls among them that run ahead of an intent, and have none on record.
    pub(super) unrecorded: Vec<Option<AnchorKey>>,
}

/// The next step.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing can be revoked yet, because calls to issue still run.
    Wait,
    /// These die with an anchor that has to end, so the ledger marks them first. Then plan again.
    Mark(Vec<CredentialId>),
    /// One order to the provider.
    Revoke(Selection),
}

/// The content of one order.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) scope: RevokeScope,
    pub(super) credentials: Vec<Arc<Credential>>,
    /// The anchors that end.
    pub(super) anchors: Vec<Arc<Anchor>>,
}

/// Plans the next step for the credentials that are due; without any, for the anchors alone.
pub(super) fn plan_revocation(due: &BTreeSet<CredentialId>, situation: &Situation) -> Plan {
    let has_ended = situation.task.state != TaskState::Open;
    let mut chosen = situation.workable(due, has_ended);
    let doubted = situation.doubted_anchors(&chosen);
    if !has_ended && !doubted.is_empty() {
        let siblings = situation.issued_through(&doubted);
        if !siblings.is_empty() {
            return Plan::Mark(siblings);
        }
        chosen = situation.with_those_that_die(chosen, &doubted);
    }
    let ends_anchor = has_ended || !doubted.is_empty();
    let must_wait = ends_anchor && situation.may_still_mint(&chosen, has_ended, &doubted);
    if must_wait {
        // Nothing ends yet that would take a sibling along, so each keeps its own time: the plan is
        // made again every few milliseconds until the call is over.
        chosen.retain(|credential| credential.is_issued() && due.contains(&credential.id));
    }
    if chosen.is_empty() && (must_wait || !due.is_empty() || situation.anchors.is_empty()) {
        return Plan::Wait;
    }
    let (scope, anchors) = match (must_wait, has_ended) {
        (true, _) => (RevokeScope::Credentials, Vec::new()),
        (false, true) => (RevokeScope::Task, situation.anchors.clone()),
        (false, false) => (RevokeScope::Credentials, doubted),
    };
    Plan::Revoke(Selection {
        scope,
        credentials: chosen,
        anchors,
    })
}

impl Situation {
    /// The credentials that can be revoked now: the due ones, and all in doubt as soon as an anchor
    /// may have to end.
    fn workable(&self, due: &BTreeSet<CredentialId>, has_ended: bool) -> Vec<Arc<Credential>> {
        let revoking = || self.credentials.iter().filter(|c| self.can_be_revoked(c));
        let doubts = revoking().filter(|c| c.in_doubt() && due.contains(&c.id));
        let doubts: BTreeSet<Option<AnchorKey>> = doubts.map(|c| c.anchor_key).collect();
        let by_key = self.every_doubt_has_its_own_anchors();
        let joined = |c: &Credential| {
            let shares = doubts.contains(&c.anchor_key) || (!by_key && !doubts.is_empty());
            c.in_doubt() && (has_ended || shares)
        };
        let chosen = revoking().filter(|c| due.contains(&c.id) || joined(c));
        chosen.cloned().collect()
    }

    /// Whether credentials in doubt with different keys have no anchor in common. A record of an
    /// earlier release has no key, and may have been used with any other.
    fn every_doubt_has_its_own_anchors(&self) -> bool {
        let mut in_doubt = self.credentials.iter().filter(|c| c.in_doubt());
        in_doubt.all(|c| c.anchor_key.is_some()) && self.anchors.iter().all(|a| a.key.is_some())
    }

    /// A credential waits until its running call is cancelled.
    fn can_be_revoked(&self, credential: &Credential) -> bool {
        credential.state == CredentialState::Revoking && !self.in_flight.contains(&credential.id)
    }

    /// The anchors through which a credential in doubt may have been issued: no anchor made after
    /// the broker had stopped waiting for it. Nothing new is issued through them
    /// ([`Guard::NothingInDoubt`](taskpass_store::Guard::NothingInDoubt)), and a call whose
    /// credential is being revoked records no further anchor.
    fn doubted_anchors(&self, chosen: &[Arc<Credential>]) -> Vec<Arc<Anchor>> {
        // Many credentials in doubt have few different keys, and of each the latest counts.
        let mut doubts = BTreeMap::new();
        for credential in chosen.iter().filter(|c| c.in_doubt()) {
            let asked = credential.asked_at_latest();
            let until = doubts.entry(credential.anchor_key).or_insert(asked);
            *until = asked.max(*until);
        }
        let is_doubted = |anchor: &&Arc<Anchor>| {
            doubts.iter().any(|(key, until)| {
                AnchorKey::may_match(*key, anchor.key) && anchor.recorded_at <= *until
            })
        };
        self.anchors.iter().filter(is_doubted).cloned().collect()
    }

    /// The credentials that die with these anchors and are not marked. A credential that is just
    /// being issued is one: it must not be delivered any more.
    fn issued_through(&self, anchors: &[Arc<Anchor>]) -> Vec<CredentialId> {
        let dies = |c: &&Arc<Credential>| match c.state {
            CredentialState::Intended => may_hang_on(c.anchor_key, anchors),
            CredentialState::Active => hangs_on(c, anchors),
            _ => false,
        };
        self.credentials.iter().filter(dies).map(|c| c.id).collect()
    }

    /// With the credentials that are marked and die with these anchors: the order has to name all
    /// that it revokes.
    fn with_those_that_die(
        &self,
        chosen: Vec<Arc<Credential>>,
        anchors: &[Arc<Anchor>],
    ) -> Vec<Arc<Credential>> {
        let ids: BTreeSet<_> = chosen.iter().map(|c| c.id).collect();
        let dying = self
            .credentials
            .iter()
            .filter(|c| self.can_be_revoked(c) && hangs_on(c, anchors) && !ids.contains(&c.id));
        chosen.into_iter().chain(dying.cloned()).collect()
    }

    /// Whether the provider may still be minting through an anchor that ends: through any of the
    /// task once it has ended, else through a doubted one. No new such call begins meanwhile, since
    /// the task has ended or the anchor is in doubt.
    fn may_still_mint(
        &self,
        chosen: &[Arc<Credential>],
        has_ended: bool,
        doubted: &[Arc<Anchor>],
    ) -> bool {
        let ids: BTreeSet<_> = chosen.iter().map(|c| c.id).collect();
        let mut others = self.credentials.iter().filter(|c| !ids.contains(&c.id));
        // A call whose intent was lost hangs on an anchor all the same, and is recorded once it is
        // over.
        let mut unrecorded = self.unrecorded.iter();
        others.any(|c| c.may_yet_be_minted() && (has_ended || may_hang_on(c.anchor_key, doubted)))
            || unrecorded.any(|key| has_ended || may_hang_on(*key, doubted))
    }
}

fn hangs_on(credential: &Credential, anchors: &[Arc<Anchor>]) -> bool {
    credential
        .anchor
        .is_some_and(|id| anchors.iter().any(|anchor| anchor.id == id))
}

/// Whether a credential with this key, which the provider has not answered for, may be issued
/// through one of these anchors.
fn may_hang_on(key: Option<AnchorKey>, anchors: &[Arc<Anchor>]) -> bool {
    let mut keys = anchors.iter().map(|anchor| anchor.key);
    keys.any(|of_anchor| AnchorKey::may_match(key, of_anchor))
}

#[cfg(test)]
mod tests;
