//! Events: everything that happens, in the words the ledger keeps for good.
//!
//! The serialised names of variants and fields are a public format: auditors read them years later.
//! Add names, never rename them. Code that handles events matches an event's [`Topic`].

mod topic;

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Agent, AgentName, Anchor, AnchorId, Budget, Credential, CredentialId, DecisionRecord, Digest,
    EndCause, EvidenceRecord, Handle, InvalidValue, JoinToken, JoinTokenId, OperatorName, Owner,
    ProviderName, Repeated, RevokeCause, RootCertificate, RootNumber, RootStage, SpiffeId, Svid,
    SvidOrigin, Task, TaskId, Text, Timestamp, TrustDomain, limits,
};

pub use self::topic::{
    AgentStep, AnchorStep, CredentialStep, InstallationStep, JoinTokenStep, OperatorOrigin,
    SvidStep, TaskStep, Topic,
};

/// The cause of an event: a caller, or the broker itself.
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
/// Two callers may use the same key, since a key belongs to its caller. `request_sha256` tells a
/// repeated request from a different request that reuses the key by mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The caller that uses the key.
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
    /// `taskpassd init` made the installation; always the first entry.
    Initialized {
        /// The installation's trust domain.
        trust_domain: TrustDomain,
        /// The version that made it.
        version: String,
        /// The certificate of the first root. Earlier versions left it out; the next start then
        /// records it as [`Self::RootChanged`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<RootCertificate>,
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
    /// A broker read its policy and configuration again. The entry comes before the first decision
    /// under them.
    ConfigurationReloaded {
        /// SHA-256 of the configuration until then.
        previous_config_sha256: String,
        /// SHA-256 of the configuration from then on.
        config_sha256: String,
        /// SHA-256 of the policy set until then.
        previous_policy_set: String,
        /// SHA-256 of the policy set from then on.
        policy_set: String,
        /// The keys of the configuration with other values, as `table.key`, without the providers'
        /// keys.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<String>,
        /// Providers that were not configured before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        providers_added: Vec<ProviderName>,
        /// Providers that are configured otherwise than before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        providers_changed: Vec<ProviderName>,
        /// Providers that are no longer configured, and only revoke.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        providers_removed: Vec<ProviderName>,
    },
    /// A broker process stopped in good order.
    BrokerStopped {},
    /// A broker moved the index aside and built it again from the ledger.
    IndexRebuilt {
        /// Why.
        reason: String,
    },
    /// Old segments of the ledger are in an archive, and each of their entries was compared there
    /// with the tree. The broker deletes its own segments after this entry.
    LedgerArchived {
        /// The first entry in them.
        first: u64,
        /// The first entry behind them, with which this machine's part of the ledger begins.
        next: u64,
        /// The root of the tree over all entries before `next`, in hex.
        root: String,
        /// The names of the segments' files.
        segments: Vec<String>,
        /// The archive's directory, as the broker's machine names it.
        archive: String,
        /// The user id of the person who ran the command on the broker's machine; none when the
        /// broker did it by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<u32>,
    },
    /// A person confirmed the time on the broker's machine. The ledger's time goes on from there,
    /// also where it was later before: entries above this one may carry later times.
    ClockAccepted {
        /// The time of the newest entry before.
        previous: Timestamp,
        /// The confirmed time, which is also the time of this entry.
        accepted: Timestamp,
    },
    /// A person began to move the private keys of the installation to another form, on the broker's
    /// machine. The entry comes before the first file is changed.
    KeysSealed {
        /// The seal until then, as `[keys]` names it; `plain` for none.
        previous: String,
        /// The seal from then on; `plain` for none.
        seal: String,
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
    /// A root of the trust bundle moved one step, by order of a person on the broker's machine.
    RootChanged {
        /// The root.
        root: RootNumber,
        /// How far it came.
        stage: RootStage,
        /// The certificate's serial number.
        serial: String,
        /// Until when it is valid.
        not_after: Timestamp,
        /// SHA-256 of its certificate.
        certificate_sha256: String,
        /// Whether it was retired although identities or join tokens hung on it: these ended with
        /// it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        forced: bool,
    },
    /// An agent was registered.
    AgentRegistered {
        /// The agent.
        agent: Agent,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// An agent was stopped: its tasks end, its SVIDs stop counting, its unused join tokens are
    /// withdrawn.
    AgentFrozen {
        /// The agent.
        agent: AgentName,
        /// Why.
        reason: Text,
        /// The actor that stopped it.
        by: Actor,
    },
    /// A frozen agent may attest and work again. Its earlier identities, tasks and credentials stay
    /// ended.
    AgentReleased {
        /// The agent.
        agent: AgentName,
        /// Why.
        reason: Text,
        /// The actor that released it.
        by: Actor,
    },
    /// An agent was stopped for good.
    AgentRetired {
        /// The agent.
        agent: AgentName,
        /// Why.
        reason: Text,
        /// The actor that stopped it.
        by: Actor,
    },
    /// Another person answers for an agent from now on.
    AgentOwnerChanged {
        /// The agent.
        agent: AgentName,
        /// The person from now on.
        owner: Owner,
        /// The person until then.
        previous: Owner,
        /// The actor that changed it.
        by: Actor,
    },
    /// The owner of an agent left. The agent is frozen, and is not released before another person
    /// answers for it.
    AgentOwnerDeparted {
        /// The agent.
        agent: AgentName,
        /// The person that left.
        owner: Owner,
        /// Why the agent is frozen.
        reason: Text,
        /// The actor that said so.
        by: Actor,
    },
    /// An operator made a join token.
    JoinTokenCreated {
        /// The token, without its secret.
        token: JoinToken,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// An unused join token was withdrawn, so that it gives no SVID.
    JoinTokenWithdrawn {
        /// The token.
        token: JoinTokenId,
        /// The actor that withdrew it.
        by: Actor,
    },
    /// An SVID was issued.
    SvidIssued {
        /// The SVID.
        svid: Svid,
        /// The join token that this SVID used up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        join_token: Option<JoinTokenId>,
        /// The evidence of the agent. Absent for renewals, for SVIDs of tasks, and in entries from
        /// before evidence was recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<EvidenceRecord>,
        /// The serial number of the SVID that asked for this renewal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        renews: Option<String>,
        /// How its holder came to it. Absent in entries from before the use of superseded SVIDs
        /// was recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<SvidOrigin>,
    },
    /// An operator got an SVID, signed by the root so that it outlives the issuing authorities.
    OperatorSvidIssued {
        /// The operator.
        operator: OperatorName,
        /// The certificate's serial number.
        serial: String,
        /// SHA-256 of the public key, in hex.
        key_sha256: String,
        /// Until when it is valid.
        not_after: Timestamp,
        /// The serial number of the SVID that asked for this renewal. Absent where `taskpassd init`
        /// or `taskpassd operator issue` made the SVID on the broker's own machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        renews: Option<String>,
        /// Whether `taskpassd operator issue` made it; then no other SVID of this operator counts
        /// from here on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        local: bool,
        /// How its holder came to it. Absent in entries from before the use of superseded SVIDs
        /// was recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<SvidOrigin>,
        /// The root that signed it.
        #[serde(default, skip_serializing_if = "RootNumber::is_first")]
        root: RootNumber,
    },
    /// A person on the broker's machine withdrew every SVID of an operator.
    OperatorWithdrawn {
        /// The operator.
        operator: OperatorName,
        /// Why.
        reason: Text,
    },
    /// A caller used an SVID for the first time; the others of its identity are superseded.
    SvidActivated {
        /// Its serial.
        serial: String,
    },
    /// A caller showed an SVID that is superseded. Two parties may hold the identity. Recorded once
    /// for each such SVID.
    IdentityConflict {
        /// The serial of the superseded SVID.
        serial: String,
        /// The identity in it.
        holder: SpiffeId,
        /// The address of the caller.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<IpAddr>,
    },
    /// The policy decided about a request.
    Decided {
        /// The decision and its provenance.
        decision: DecisionRecord,
        /// Present where the entry stands for repeats: the same decision was taken so many times
        /// more within a minute after an entry of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        repeated: Option<Repeated>,
    },
    /// An agent used up one of its budgets, and calls were refused for that. The first entry comes
    /// at once, and a second one at the end of the hour where more calls were refused.
    BudgetExceeded {
        /// The agent.
        agent: AgentName,
        /// The budget.
        budget: Budget,
        /// How much it is in an hour.
        per_hour: u64,
        /// The refused calls that no earlier entry counts.
        refused: Repeated,
    },
    /// A task began.
    TaskStarted {
        /// The task.
        task: Task,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// A task began to end: it gets no more credentials, its live ones are to be revoked, and all
    /// tasks below it end too.
    TaskEnding {
        /// The task.
        task: TaskId,
        /// Why.
        cause: EndCause,
        /// The actor that ended it.
        by: Actor,
    },
    /// Every credential of an ending task, and every task below it, reached its final state.
    TaskEnded {
        /// The task.
        task: TaskId,
    },
    /// A provider made an anchor for a task. The record comes before the anchor gets its full life.
    AnchorRecorded {
        /// The anchor.
        anchor: Anchor,
    },
    /// An anchor no longer exists at the back end.
    AnchorGone {
        /// The anchor.
        anchor: AnchorId,
    },
    /// The broker is about to ask a provider for a credential.
    CredentialIntended {
        /// The credential as it will be.
        credential: Box<Credential>,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// The provider minted the credential.
    CredentialIssued {
        /// The credential.
        credential: CredentialId,
        /// Until when it lives unless it is revoked.
        expires_at: Timestamp,
        /// How far revoking this credential truly goes; a provider may know better than the role.
        revocation_class: crate::RevocationClass,
        /// The anchor it was issued through.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor: Option<AnchorId>,
        /// How the provider finds it again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handle: Option<Handle>,
        /// How long the provider took.
        took_ms: u64,
    },
    /// The provider refused to mint the credential, and proved or promised that it does not exist.
    CredentialAbandoned {
        /// The credential.
        credential: CredentialId,
        /// Why, in words without secrets.
        reason: String,
    },
    /// The broker is about to ask a provider to renew a credential; from now on it may live until
    /// the later end.
    CredentialRenewIntended {
        /// The credential.
        credential: CredentialId,
        /// Until when.
        until: Timestamp,
        /// The caller's name for the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<IdempotencyKey>,
    },
    /// The provider renewed the credential.
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
        /// The actor that asked for it.
        by: Actor,
    },
    /// An attempt to revoke a credential failed.
    RevokeFailed {
        /// The credential.
        credential: CredentialId,
        /// Which attempt, from 1.
        attempt: u32,
        /// Why, in words without secrets.
        error: String,
        /// When the next attempt is due.
        retry_at: Timestamp,
        /// Whether people are told from now on.
        stuck: bool,
    },
    /// Revoking a credential is done.
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
        /// Until when the back end may still tell others who its holder is, although it denies
        /// access.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity_until: Option<Timestamp>,
    },
    /// A credential's own end came; the broker did not have to revoke it.
    CredentialExpired {
        /// The credential.
        credential: CredentialId,
    },
}
