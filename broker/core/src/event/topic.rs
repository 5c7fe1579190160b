//! Events by topic: a view that borrows, so that code for one topic matches its steps and no
//! others.
//!
//! [`Event`] stays flat, since its JSON is the ledger's format. A match on a step names every
//! variant: the compiler then points at each place that a new event concerns. No such match has a
//! catch-all arm.

use crate::{
    Actor, Agent, AgentName, Anchor, AnchorId, Credential, CredentialId, DecisionRecord, EndCause,
    Event, Handle, IdempotencyKey, JoinToken, JoinTokenId, OperatorName, Owner, RevocationClass,
    RevokeCause, RootCertificate, RootNumber, RootStage, Svid, SvidOrigin, Task, TaskId, Text,
    Timestamp, TrustDomain,
};

/// The subject of an event, and the step that the event is in the subject's life.
#[derive(Debug, Clone, Copy)]
pub enum Topic<'a> {
    /// The installation as a whole.
    Installation(InstallationStep<'a>),
    /// A decision of the policy.
    Decision(&'a DecisionRecord),
    /// An agent.
    Agent(AgentStep<'a>),
    /// A join token.
    JoinToken(JoinTokenStep<'a>),
    /// An agent's or an operator's SVID.
    Svid(SvidStep<'a>),
    /// A task.
    Task(TaskId, TaskStep<'a>),
    /// An anchor.
    Anchor(AnchorId, AnchorStep<'a>),
    /// A credential.
    Credential(CredentialId, CredentialStep<'a>),
}

/// A step in the life of an installation.
#[derive(Debug, Clone, Copy)]
pub enum InstallationStep<'a> {
    /// [`Event::Initialized`].
    Initialized {
        /// The installation's trust domain.
        trust_domain: &'a TrustDomain,
        /// The certificate of the first root, where the entry has it.
        root: Option<&'a RootCertificate>,
    },
    /// [`Event::BrokerStarted`].
    BrokerStarted,
    /// [`Event::ConfigurationReloaded`].
    ConfigurationReloaded,
    /// [`Event::BrokerStopped`].
    BrokerStopped,
    /// [`Event::IndexRebuilt`].
    IndexRebuilt,
    /// [`Event::LedgerArchived`].
    LedgerArchived,
    /// [`Event::ClockAccepted`].
    ClockAccepted {
        /// The time of the newest entry before.
        previous: Timestamp,
        /// The time of this entry.
        accepted: Timestamp,
    },
    /// [`Event::KeysSealed`].
    KeysSealed,
    /// [`Event::CaChanged`].
    CaChanged,
    /// [`Event::RootChanged`].
    RootChanged {
        /// The root.
        root: RootNumber,
        /// How far it came.
        stage: RootStage,
        /// The certificate's serial number.
        serial: &'a str,
        /// SHA-256 of its certificate.
        certificate_sha256: &'a str,
        /// Whether it is retired although something hangs on it.
        forced: bool,
    },
}

/// A step in the life of an agent.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the events explain their fields")]
pub enum AgentStep<'a> {
    /// [`Event::AgentRegistered`].
    Registered {
        agent: &'a Agent,
        idempotency: Option<&'a IdempotencyKey>,
    },
    /// [`Event::AgentFrozen`].
    Frozen {
        agent: &'a AgentName,
        reason: &'a Text,
        by: &'a Actor,
    },
    /// [`Event::AgentReleased`].
    Released {
        agent: &'a AgentName,
        reason: &'a Text,
        by: &'a Actor,
    },
    /// [`Event::AgentRetired`].
    Retired {
        agent: &'a AgentName,
        reason: &'a Text,
        by: &'a Actor,
    },
    /// [`Event::AgentOwnerChanged`].
    OwnerChanged {
        agent: &'a AgentName,
        owner: &'a Owner,
        previous: &'a Owner,
    },
    /// [`Event::AgentOwnerDeparted`].
    OwnerDeparted {
        agent: &'a AgentName,
        owner: &'a Owner,
        reason: &'a Text,
        by: &'a Actor,
    },
    /// [`Event::BudgetExceeded`].
    BudgetExceeded { agent: &'a AgentName },
}

/// A step in the life of a join token. [`SvidStep::Issued`] uses one up.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the events explain their fields")]
pub enum JoinTokenStep<'a> {
    /// [`Event::JoinTokenCreated`].
    Created {
        token: &'a JoinToken,
        idempotency: Option<&'a IdempotencyKey>,
    },
    /// [`Event::JoinTokenWithdrawn`].
    Withdrawn { token: JoinTokenId },
}

/// A step in the life of an SVID.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the events explain their fields")]
pub enum SvidStep<'a> {
    /// [`Event::SvidIssued`].
    Issued {
        svid: &'a Svid,
        join_token: Option<JoinTokenId>,
        renews: Option<&'a str>,
        origin: Option<SvidOrigin>,
    },
    /// [`Event::OperatorSvidIssued`].
    OperatorIssued {
        operator: &'a OperatorName,
        serial: &'a str,
        key_sha256: &'a str,
        not_after: Timestamp,
        renews: Option<&'a str>,
        place: OperatorOrigin,
        origin: Option<SvidOrigin>,
        root: RootNumber,
    },
    /// [`Event::OperatorWithdrawn`].
    OperatorWithdrawn { operator: &'a OperatorName },
    /// [`Event::SvidActivated`].
    Activated { serial: &'a str },
    /// [`Event::IdentityConflict`].
    Conflict { serial: &'a str },
}

/// Where an operator's SVID was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorOrigin {
    /// By a broker that served, or by `taskpassd init`.
    Broker,
    /// By `taskpassd operator issue`, on the broker's own machine.
    Local,
}

/// A step in the life of a task.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the events explain their fields")]
pub enum TaskStep<'a> {
    /// [`Event::TaskStarted`].
    Started {
        task: &'a Task,
        idempotency: Option<&'a IdempotencyKey>,
    },
    /// [`Event::TaskEnding`].
    Ending { cause: EndCause, by: &'a Actor },
    /// [`Event::TaskEnded`].
    Ended,
}

/// A step in the life of an anchor.
#[derive(Debug, Clone, Copy)]
pub enum AnchorStep<'a> {
    /// [`Event::AnchorRecorded`].
    Recorded(&'a Anchor),
    /// [`Event::AnchorGone`].
    Gone,
}

/// A step in the life of a credential.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the events explain their fields")]
pub enum CredentialStep<'a> {
    /// [`Event::CredentialIntended`].
    Intended {
        credential: &'a Credential,
        idempotency: Option<&'a IdempotencyKey>,
    },
    /// [`Event::CredentialIssued`].
    Issued {
        expires_at: Timestamp,
        revocation_class: RevocationClass,
        anchor: Option<AnchorId>,
        handle: Option<&'a Handle>,
    },
    /// [`Event::CredentialAbandoned`].
    Abandoned { reason: &'a str },
    /// [`Event::CredentialRenewIntended`].
    RenewIntended {
        until: Timestamp,
        idempotency: Option<&'a IdempotencyKey>,
    },
    /// [`Event::CredentialRenewed`].
    Renewed {
        expires_at: Timestamp,
        idempotency: Option<&'a IdempotencyKey>,
    },
    /// [`Event::CredentialRevoking`].
    Revoking { cause: RevokeCause },
    /// [`Event::RevokeFailed`].
    RevokeFailed {
        attempt: u32,
        error: &'a str,
        retry_at: Timestamp,
        stuck: bool,
    },
    /// [`Event::CredentialRevoked`].
    Revoked {
        verified: bool,
        proof: &'a str,
        may_live_until: Option<Timestamp>,
        identity_until: Option<Timestamp>,
    },
    /// [`Event::CredentialExpired`].
    Expired,
}

impl Event {
    /// The topic of the event.
    #[expect(
        clippy::too_many_lines,
        reason = "the one place that takes events apart, an arm for each"
    )]
    pub fn topic(&self) -> Topic<'_> {
        match self {
            Self::Initialized {
                trust_domain, root, ..
            } => Topic::Installation(InstallationStep::Initialized {
                trust_domain,
                root: root.as_ref(),
            }),
            Self::BrokerStarted { .. } => Topic::Installation(InstallationStep::BrokerStarted),
            Self::ConfigurationReloaded { .. } => {
                Topic::Installation(InstallationStep::ConfigurationReloaded)
            }
            Self::BrokerStopped {} => Topic::Installation(InstallationStep::BrokerStopped),
            Self::IndexRebuilt { .. } => Topic::Installation(InstallationStep::IndexRebuilt),
            Self::LedgerArchived { .. } => Topic::Installation(InstallationStep::LedgerArchived),
            Self::ClockAccepted { previous, accepted } => {
                Topic::Installation(InstallationStep::ClockAccepted {
                    previous: *previous,
                    accepted: *accepted,
                })
            }
            Self::KeysSealed { .. } => Topic::Installation(InstallationStep::KeysSealed),
            Self::CaChanged { .. } => Topic::Installation(InstallationStep::CaChanged),
            Self::RootChanged {
                root,
                stage,
                serial,
                certificate_sha256,
                forced,
                not_after: _,
            } => Topic::Installation(InstallationStep::RootChanged {
                root: *root,
                stage: *stage,
                serial,
                certificate_sha256,
                forced: *forced,
            }),
            Self::Decided {
                decision,
                repeated: _,
            } => Topic::Decision(decision),
            Self::BudgetExceeded { agent, .. } => Topic::Agent(AgentStep::BudgetExceeded { agent }),
            Self::AgentRegistered { agent, idempotency } => Topic::Agent(AgentStep::Registered {
                agent,
                idempotency: idempotency.as_ref(),
            }),
            Self::AgentFrozen { agent, reason, by } => {
                Topic::Agent(AgentStep::Frozen { agent, reason, by })
            }
            Self::AgentReleased { agent, reason, by } => {
                Topic::Agent(AgentStep::Released { agent, reason, by })
            }
            Self::AgentRetired { agent, reason, by } => {
                Topic::Agent(AgentStep::Retired { agent, reason, by })
            }
            Self::AgentOwnerChanged {
                agent,
                owner,
                previous,
                by: _,
            } => Topic::Agent(AgentStep::OwnerChanged {
                agent,
                owner,
                previous,
            }),
            Self::AgentOwnerDeparted {
                agent,
                owner,
                reason,
                by,
            } => Topic::Agent(AgentStep::OwnerDeparted {
                agent,
                owner,
                reason,
                by,
            }),
            Self::JoinTokenCreated { token, idempotency } => {
                Topic::JoinToken(JoinTokenStep::Created {
                    token,
                    idempotency: idempotency.as_ref(),
                })
            }
            Self::JoinTokenWithdrawn { token, by: _ } => {
                Topic::JoinToken(JoinTokenStep::Withdrawn { token: *token })
            }
            Self::SvidIssued {
                svid,
                join_token,
                evidence: _,
                renews,
                origin,
            } => Topic::Svid(SvidStep::Issued {
                svid,
                join_token: *join_token,
                renews: renews.as_deref(),
                origin: *origin,
            }),
            Self::OperatorSvidIssued {
                operator,
                serial,
                key_sha256,
                not_after,
                renews,
                local,
                origin,
                root,
            } => Topic::Svid(SvidStep::OperatorIssued {
                operator,
                serial,
                key_sha256,
                not_after: *not_after,
                renews: renews.as_deref(),
                place: if *local {
                    OperatorOrigin::Local
                } else {
                    OperatorOrigin::Broker
                },
                origin: *origin,
                root: *root,
            }),
            Self::OperatorWithdrawn { operator, .. } => {
                Topic::Svid(SvidStep::OperatorWithdrawn { operator })
            }
            Self::SvidActivated { serial } => Topic::Svid(SvidStep::Activated { serial }),
            Self::IdentityConflict { serial, .. } => Topic::Svid(SvidStep::Conflict { serial }),
            Self::TaskStarted { task, idempotency } => Topic::Task(
                task.id,
                TaskStep::Started {
                    task,
                    idempotency: idempotency.as_ref(),
                },
            ),
            Self::TaskEnding { task, cause, by } => {
                Topic::Task(*task, TaskStep::Ending { cause: *cause, by })
            }
            Self::TaskEnded { task } => Topic::Task(*task, TaskStep::Ended),
            Self::AnchorRecorded { anchor } => {
                Topic::Anchor(anchor.id, AnchorStep::Recorded(anchor))
            }
            Self::AnchorGone { anchor } => Topic::Anchor(*anchor, AnchorStep::Gone),
            Self::CredentialIntended {
                credential,
                idempotency,
            } => Topic::Credential(
                credential.id,
                CredentialStep::Intended {
                    credential,
                    idempotency: idempotency.as_ref(),
                },
            ),
            Self::CredentialIssued {
                credential,
                expires_at,
                revocation_class,
                anchor,
                handle,
                took_ms: _,
            } => Topic::Credential(
                *credential,
                CredentialStep::Issued {
                    expires_at: *expires_at,
                    revocation_class: *revocation_class,
                    anchor: *anchor,
                    handle: handle.as_ref(),
                },
            ),
            Self::CredentialAbandoned { credential, reason } => {
                Topic::Credential(*credential, CredentialStep::Abandoned { reason })
            }
            Self::CredentialRenewIntended {
                credential,
                until,
                idempotency,
            } => Topic::Credential(
                *credential,
                CredentialStep::RenewIntended {
                    until: *until,
                    idempotency: idempotency.as_ref(),
                },
            ),
            Self::CredentialRenewed {
                credential,
                expires_at,
                idempotency,
            } => Topic::Credential(
                *credential,
                CredentialStep::Renewed {
                    expires_at: *expires_at,
                    idempotency: idempotency.as_ref(),
                },
            ),
            Self::CredentialRevoking {
                credential, cause, ..
            } => Topic::Credential(*credential, CredentialStep::Revoking { cause: *cause }),
            Self::RevokeFailed {
                credential,
                attempt,
                error,
                retry_at,
                stuck,
            } => Topic::Credential(
                *credential,
                CredentialStep::RevokeFailed {
                    attempt: *attempt,
                    error,
                    retry_at: *retry_at,
                    stuck: *stuck,
                },
            ),
            Self::CredentialRevoked {
                credential,
                verified,
                proof,
                may_live_until,
                identity_until,
                took_ms: _,
            } => Topic::Credential(
                *credential,
                CredentialStep::Revoked {
                    verified: *verified,
                    proof,
                    may_live_until: *may_live_until,
                    identity_until: *identity_until,
                },
            ),
            Self::CredentialExpired { credential } => {
                Topic::Credential(*credential, CredentialStep::Expired)
            }
        }
    }

    /// The event's type as the ledger spells it, which is how serde does.
    pub fn kind(&self) -> String {
        let json = serde_json::to_value(self).unwrap_or_default();
        let kind = json.get("type").and_then(serde_json::Value::as_str);
        kind.unwrap_or_default().to_owned()
    }

    /// The idempotency key that the event uses up. [`Event::CredentialRenewed`] answers a request
    /// whose key [`Event::CredentialRenewIntended`] has used up already.
    pub fn new_key(&self) -> Option<&IdempotencyKey> {
        match self.topic() {
            Topic::Agent(AgentStep::Registered { idempotency, .. })
            | Topic::JoinToken(JoinTokenStep::Created { idempotency, .. })
            | Topic::Task(_, TaskStep::Started { idempotency, .. })
            | Topic::Credential(
                _,
                CredentialStep::Intended { idempotency, .. }
                | CredentialStep::RenewIntended { idempotency, .. },
            ) => idempotency,
            Topic::Installation(_)
            | Topic::Decision(_)
            | Topic::Agent(
                AgentStep::Frozen { .. }
                | AgentStep::Released { .. }
                | AgentStep::Retired { .. }
                | AgentStep::OwnerChanged { .. }
                | AgentStep::OwnerDeparted { .. }
                | AgentStep::BudgetExceeded { .. },
            )
            | Topic::JoinToken(JoinTokenStep::Withdrawn { .. })
            | Topic::Svid(_)
            | Topic::Task(_, TaskStep::Ending { .. } | TaskStep::Ended)
            | Topic::Anchor(..)
            | Topic::Credential(
                _,
                CredentialStep::Issued { .. }
                | CredentialStep::Abandoned { .. }
                | CredentialStep::Renewed { .. }
                | CredentialStep::Revoking { .. }
                | CredentialStep::RevokeFailed { .. }
                | CredentialStep::Revoked { .. }
                | CredentialStep::Expired,
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_the_tag_in_the_ledger() {
        let task: TaskId = "t01hx3k9m2q7v4d8e".parse().unwrap();
        let ended = Event::TaskEnded { task };
        assert_eq!(ended.kind(), "task_ended");
        assert_eq!(Event::BrokerStopped {}.kind(), "broker_stopped");
        assert!(matches!(ended.topic(), Topic::Task(id, TaskStep::Ended) if id == task));
    }
}
