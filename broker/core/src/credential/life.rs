//! The life of a credential: the record of its minting, and its end.
//!
//! Two answers of a provider can get lost, and each leaves its own doubt. Without the answer to
//! *issue*, the credential may exist, and no caller has it: [`Credential::in_doubt`]. Without the
//! answer to *renew*, it exists and its end is uncertain: [`Credential::renewal_in_doubt`]. Three
//! fields of the record hold this, and only this file reads and writes them.

use super::{Credential, CredentialState, RevocationClass};
use crate::{
    AgentName, AnchorKey, CredentialId, Handle, RoleName, Scope, TaskId, Timestamp, limits,
};

/// The record of the provider's answer to the request for a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minting {
    /// The intent is on record, and the provider is being asked.
    Asked,
    /// The broker no longer waits for the answer: the credential may exist, and no caller has it.
    Unknown {
        /// When the broker stopped waiting; the provider may have been asked at any time until
        /// then.
        since: Timestamp,
    },
    /// The provider minted it.
    Answered {
        /// When its answer was recorded.
        at: Timestamp,
    },
    /// The provider's answer is on record: it minted nothing.
    Nothing,
}

/// A credential that the provider has not been asked for yet.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialIntent {
    /// Unique name.
    pub id: CredentialId,
    /// The task it hangs on.
    pub task: TaskId,
    /// The agent it is for.
    pub agent: AgentName,
    /// What kind of credential.
    pub role: RoleName,
    /// The scope.
    pub scope: Scope,
    /// What revoking can truly do.
    pub revocation_class: RevocationClass,
    /// When the intent was recorded.
    pub intended_at: Timestamp,
    /// The end that is asked for.
    pub expires_at: Timestamp,
    /// The key of its future anchor. `None`: the provider issues it without an anchor.
    pub anchor_key: Option<AnchorKey>,
    /// How the provider finds it, where that is known before it is minted; never a secret.
    pub handle: Option<Handle>,
}

impl From<CredentialIntent> for Credential {
    fn from(intent: CredentialIntent) -> Self {
        Self {
            id: intent.id,
            task: intent.task,
            agent: intent.agent,
            role: intent.role,
            scope: intent.scope,
            state: CredentialState::Intended,
            revocation_class: intent.revocation_class,
            intended_at: intent.intended_at,
            issued_at: None,
            expires_at: intent.expires_at,
            asked_until: None,
            renewals_unanswered: 0,
            anchor_key: intent.anchor_key,
            anchor: None,
            handle: intent.handle,
            revocation: None,
        }
    }
}

impl Credential {
    /// The record of its minting.
    pub fn minting(&self) -> Minting {
        match (self.issued_at, self.state) {
            (Some(at), _) => Minting::Answered { at },
            (None, CredentialState::Intended) => Minting::Asked,
            (None, CredentialState::Abandoned) => Minting::Nothing,
            (None, _) => Minting::Unknown {
                since: self.stopped_waiting_at(),
            },
        }
    }

    /// When the provider's answer was recorded; `None` while there is none.
    pub const fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// Whether the provider's answer is on record, and with it how to find the credential.
    pub const fn is_issued(&self) -> bool {
        self.issued_at.is_some()
    }

    /// Whether it may exist although no answer of the provider is on record, and is not settled
    /// yet. It is found only by the anchor it may have been issued through.
    pub fn in_doubt(&self) -> bool {
        matches!(self.minting(), Minting::Unknown { .. }) && !self.state.is_final()
    }

    /// Whether the provider may still mint it: it is being asked, or its answer is not known.
    pub fn may_yet_be_minted(&self) -> bool {
        matches!(self.minting(), Minting::Asked) || self.in_doubt()
    }

    /// Whether the request for it is over and gave the caller nothing.
    pub fn came_to_nothing(&self) -> bool {
        matches!(self.minting(), Minting::Unknown { .. } | Minting::Nothing)
    }

    /// The last time at which the provider may have been asked to mint it: the intent's, or when
    /// the broker stopped waiting, since calls may be configured to take long.
    pub fn asked_at_latest(&self) -> Timestamp {
        match self.minting() {
            Minting::Unknown { since } => since,
            Minting::Asked | Minting::Answered { .. } | Minting::Nothing => self.intended_at,
        }
    }

    /// Whether a renewal was asked for and its answer is not on record: it runs, failed or was
    /// lost. The provider may carry it out at any time, so the recorded end is not the last word.
    pub const fn renewal_in_doubt(&self) -> bool {
        self.renewals_unanswered > 0
    }

    /// When its life is over. A class that can be revoked is revoked at the end that was asked for,
    /// even if the provider gave more; every other credential lives until the provider ends it.
    pub fn ends_at(&self) -> Timestamp {
        match (self.revocation_class, self.asked_until) {
            (
                RevocationClass::Immediate | RevocationClass::Denylist | RevocationClass::Inherits,
                Some(asked),
            ) => asked.min(self.expires_at),
            _ => self.expires_at,
        }
    }

    /// The end that was asked for, where the provider gave a later one.
    pub const fn asked_until(&self) -> Option<Timestamp> {
        self.asked_until
    }

    /// Whether the provider may let it live beyond `time`.
    pub fn may_outlive(&self, time: Timestamp) -> bool {
        self.expires_at > time || self.renewal_in_doubt()
    }

    /// Whether it lives beyond `time` for certain, unless it is revoked.
    pub fn surely_outlives(&self, time: Timestamp) -> bool {
        self.expires_at > time && !self.renewal_in_doubt()
    }

    /// Whether it is an intent and nothing more.
    pub const fn is_intent(&self) -> bool {
        matches!(self.state, CredentialState::Intended)
            && self.issued_at.is_none()
            && self.revocation.is_none()
            && !self.renewal_in_doubt()
    }

    /// The provider minted it, to live until `end`. Its task may have ended while the provider
    /// worked: then its revocation goes on, and can now find it.
    pub fn record_issued(&mut self, at: Timestamp, end: Timestamp) {
        if self.state == CredentialState::Intended {
            self.state = CredentialState::Active;
        }
        self.issued_at = Some(at);
        self.lives_until(end);
    }

    /// The provider is about to be asked to let it live until `until`. It may do so at any time
    /// from now on, even when its answer is lost.
    pub fn record_renewal_asked(&mut self, until: Timestamp) {
        let asked = self.asked_until.unwrap_or(self.expires_at).max(until);
        self.expires_at = self.expires_at.max(asked);
        self.asked_until = (self.expires_at > asked).then_some(asked);
        self.renewals_unanswered = self.renewals_unanswered.saturating_add(1);
    }

    /// The provider renewed it, to live until `end`.
    pub fn record_renewed(&mut self, end: Timestamp) {
        self.lives_until(end);
        self.renewals_unanswered = self.renewals_unanswered.saturating_sub(1);
    }

    /// A person set the ledger's time back to `accepted`. An intent of a later time had a wrong
    /// one, and so have the ends that were counted from it.
    pub fn record_time_accepted(&mut self, accepted: Timestamp) {
        let intended = self.intended_at;
        if intended <= accepted {
            return;
        }
        let counted_anew = |end: Timestamp| {
            if end > intended {
                end.min(accepted.plus(end.since(intended)))
            } else {
                end
            }
        };
        self.intended_at = accepted;
        self.expires_at = counted_anew(self.expires_at);
        self.asked_until = self.asked_until.map(counted_anew);
    }

    /// Takes over the provider's end, and keeps the end that was asked for if it is earlier.
    fn lives_until(&mut self, end: Timestamp) {
        let asked = self.asked_until.unwrap_or(self.expires_at);
        self.expires_at = end;
        self.asked_until = (end > asked.plus(limits::EXPIRY_SLACK)).then_some(asked);
    }

    fn stopped_waiting_at(&self) -> Timestamp {
        let revocation = self.revocation.as_ref();
        revocation.map_or(self.intended_at, |r| r.since.max(self.intended_at))
    }
}

#[cfg(test)]
mod tests;
