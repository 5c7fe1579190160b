//! Events: everything that happens, in the words the ledger keeps for good.
//!
//! Names of variants and fields are a public format: auditors read them years later. Add, never rename.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Agent, Anchor, AnchorId, Credential, CredentialId, DecisionRecord, Digest, EndCause, Handle,
    InvalidValue, JoinToken, JoinTokenId, OperatorName, RevokeCause, SpiffeId, Svid, Task, TaskId,
    Timestamp, TrustDomain, limits,
};

/// Who caused an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// An agent or operator.
    Caller(SpiffeId),
    /// The broker on its own: a deadline, a lost heartbeat, a restart.
    Broker,
}

/// A caller's own name for one request, so that repeating the request does nothing twice.
///
/// Scoped to the caller: two callers may use the same key. `request` tells apart a repetition from a different
/// request that reuses the key by mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// Who uses the key.
    pub caller: SpiffeId,
    /// The key: 1 to 128 printable ASCII characters.
    pub key: String,
    /// SHA-256 of the request.
    pub request_sha256: String,
}

impl IdempotencyKey {
    /// Checks the key's form and binds it to the caller and the canonical bytes of the request.
    pub fn new(caller: SpiffeId, key: &str, request: &[u8]) -> Result<Self, InvalidValue> {
        let well_formed = !key.is_empty()
            && key.len() <= limits::IDEMPOTENCY_KEY_BYTES_MAX
            && key.bytes().all(|b| b.is_ascii_graphic());
        if !well_formed {
            return Err(InvalidValue::new(
                "an idempotency key is 1 to 128 printable ASCII characters without spaces",
            ));
        }
        Ok(Self {
            caller,
            key: key.to_owned(),
            request_sha256: Digest::of(request).to_string(),
        })
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller(id) => id.fmt(f),
            Self::Broker => f.write_str("broker"),
        }
    }
}

impl FromStr for Actor {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s == "broker" {
            Ok(Self::Broker)
        } else {
            s.parse().map(Self::Caller)
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The installation was made; always the first entry.
    Initialized {
        /// The installation's trust domain.
        trust_domain: TrustDomain,
        /// The version that made it.
        version: String,
    },
    /// A broker process began to serve.
    BrokerStarted {
        /// Its version.
        version: String,
        /// SHA-256 of its configuration.
        config_sha256: String,
        /// SHA-256 of its policy set.
        policy_set: String,
    },
    /// A broker process stopped in good order.
    BrokerStopped {},
    /// The index was moved aside and built again from the ledger.
    IndexRebuilt {
        /// Why.
        reason: String,
    },
    /// A certificate authority's key moved one step.
    CaChanged {
        /// The authority's serial number.
        serial: String,
        /// `prepared`, `published`, `active` or `retired`.
        stage: String,
        /// Until when the authority is valid.
        not_after: Timestamp,
        /// SHA-256 of its certificate.
        certificate_sha256: String,
    },
    /// An agent was registered.
    AgentRegistered {
        /// The agent.
        agent: Agent,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// A join token was made.
    JoinTokenCreated {
        /// The token, without its secret.
        token: JoinToken,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// An SVID was issued.
    SvidIssued {
        /// The SVID.
        svid: Svid,
        /// The join token that was used up for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        join_token: Option<JoinTokenId>,
        /// The serial of the SVID with which a renewal was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        renews: Option<String>,
    },
    /// An operator was given an identity, signed by the root so that it outlives the issuing authorities.
    OperatorSvidIssued {
        /// The operator.
        operator: OperatorName,
        /// The certificate's serial number.
        serial: String,
        /// SHA-256 of the public key, in hex.
        key_sha256: String,
        /// Until when it is valid.
        not_after: Timestamp,
        /// The serial of the one with which a renewal was asked for; absent for one that was made on the broker's own
        /// machine, where the installation was made or `taskpassd operator issue` was run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        renews: Option<String>,
        /// Whether `taskpassd operator issue` made it, so that no other one of this operator counts from here on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        local: bool,
    },
    /// An SVID was used for the first time; the others of its identity no longer count.
    SvidActivated {
        /// Its serial.
        serial: String,
    },
    /// Something was decided.
    Decided {
        /// The decision and its provenance.
        decision: DecisionRecord,
    },
    /// A task began.
    TaskStarted {
        /// The task.
        task: Task,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// A task stopped giving credentials; whatever it was given is to be revoked, and all tasks below it end too.
    TaskEnding {
        /// The task.
        task: TaskId,
        /// Why.
        cause: EndCause,
        /// Who ended it.
        by: Actor,
    },
    /// Every credential of an ending task, and every task below it, has reached its final state.
    TaskEnded {
        /// The task.
        task: TaskId,
    },
    /// A provider's session of a task was recorded, before it was extended.
    AnchorRecorded {
        /// The anchor.
        anchor: Anchor,
    },
    /// A provider's session is gone.
    AnchorGone {
        /// The anchor.
        anchor: AnchorId,
    },
    /// A provider is about to be asked for a credential.
    CredentialIntended {
        /// The credential as it will be.
        credential: Box<Credential>,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// The provider minted it.
    CredentialIssued {
        /// The credential.
        credential: CredentialId,
        /// Until when it lives if nobody revokes it.
        expires_at: Timestamp,
        /// What revoking this one can truly do; a provider may know better than the role.
        revocation_class: crate::RevocationClass,
        /// The anchor it was drawn with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor: Option<AnchorId>,
        /// How the provider finds it again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handle: Option<Handle>,
        /// How long the provider took.
        took_ms: u64,
    },
    /// The provider refused, and proved or promised that nothing was minted.
    CredentialAbandoned {
        /// The credential.
        credential: CredentialId,
        /// Why, in words without secrets.
        reason: String,
    },
    /// A provider is about to be asked to extend a credential; from now on it may live that long.
    CredentialRenewIntended {
        /// The credential.
        credential: CredentialId,
        /// Until when.
        until: Timestamp,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// The provider extended it.
    CredentialRenewed {
        /// The credential.
        credential: CredentialId,
        /// Until when it lives now.
        expires_at: Timestamp,
        /// The caller's name for the request that is answered with this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// A credential is to be revoked.
    CredentialRevoking {
        /// The credential.
        credential: CredentialId,
        /// Why.
        cause: RevokeCause,
        /// Who asked.
        by: Actor,
    },
    /// An attempt to revoke failed.
    RevokeFailed {
        /// The credential.
        credential: CredentialId,
        /// Which attempt, from 1.
        attempt: u32,
        /// Why, in words without secrets.
        error: String,
        /// When the next one is due.
        retry_at: Timestamp,
        /// Whether people are told from now on.
        stuck: bool,
    },
    /// Revoking is done.
    CredentialRevoked {
        /// The credential.
        credential: CredentialId,
        /// Whether the provider proved that it is dead.
        verified: bool,
        /// How it was proved, or why it could not be.
        proof: String,
        /// How long the provider took, over all calls of the last attempt.
        took_ms: u64,
        /// Until when it may still be usable; absent when it is proven dead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        may_live_until: Option<Timestamp>,
    },
    /// A credential's own end came.
    CredentialExpired {
        /// The credential.
        credential: CredentialId,
    },
}
