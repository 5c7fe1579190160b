//! The states, classes and causes that the broker names. Each list has room for a value that a
//! newer broker adds: an old client shows its number instead of failing.

use std::fmt;

use taskpass_proto::v1;

/// Declares an enum beside the one of the same name on the wire; both must have the same values.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
            /// A value that this version of the library does not know, by its number on the wire.
            Unknown(i32),
        }

        impl From<i32> for $name {
            /// Reads the number on the wire.
            fn from(number: i32) -> Self {
                match v1::$name::try_from(number) {
                    $(Ok(v1::$name::$value) => Self::$value,)+
                    Ok(v1::$name::Unspecified) | Err(_) => Self::Unknown(number),
                }
            }
        }

        impl From<$name> for i32 {
            /// Writes the number on the wire.
            fn from(value: $name) -> Self {
                match value {
                    $($name::$value => v1::$name::$value.into(),)+
                    $name::Unknown(number) => number,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$value => f.write_str($word),)+
                    Self::Unknown(number) => write!(f, "unknown({number})"),
                }
            }
        }

        #[cfg(test)]
        impl $name {
            const ALL: &'static [(Self, v1::$name)] = &[$((Self::$value, v1::$name::$value)),+];
        }
    };
}

words! {
    /// Where a task stands.
    TaskState {
        /// Credentials can be issued.
        Open = "open",
        /// The broker issues no more credentials, and revokes the issued ones.
        Ending = "ending",
        /// Every credential has reached its final state.
        Ended = "ended",
    }
}

words! {
    /// Why a task ended.
    EndCause {
        /// The work is done.
        Completed = "completed",
        /// The work was stopped before its end.
        Cancelled = "cancelled",
        /// The deadline passed.
        Deadline = "deadline",
        /// No heartbeat came in time.
        HeartbeatLost = "heartbeat_lost",
        /// The delegating task ended.
        ParentEnded = "parent_ended",
        /// The agent was frozen or retired.
        Frozen = "frozen",
        /// The agent logged in anew, which ends everything of its earlier identity.
        IdentityReplaced = "identity_replaced",
    }
}

words! {
    /// Where an agent stands.
    AgentState {
        /// It may attest and work.
        Active = "active",
        /// It is stopped until a person releases it.
        Frozen = "frozen",
        /// It is stopped for good.
        Retired = "retired",
    }
}

words! {
    /// Where a join token stands.
    JoinTokenState {
        /// It can be used.
        Unused = "unused",
        /// An agent attested with it.
        Used = "used",
        /// An operator withdrew it, or its agent was stopped.
        Withdrawn = "withdrawn",
        /// It was not used until its end.
        Expired = "expired",
    }
}

words! {
    /// Where a credential stands.
    CredentialState {
        /// The broker has recorded that it asks the provider; no answer is on record yet.
        Intended = "intended",
        /// The provider has minted it, and the caller was sent the secret.
        Active = "active",
        /// The broker is revoking it, and tries again until that succeeds.
        Revoking = "revoking",
        /// The same after many failures: a person must look.
        Stuck = "stuck",
        /// Final: revoked, and the provider proved it.
        RevokedVerified = "revoked_verified",
        /// Final: revoked as far as its class allows, without proof.
        RevokedUnverified = "revoked_unverified",
        /// Final: its own end came.
        Expired = "expired",
        /// Final: the provider minted nothing.
        Abandoned = "abandoned",
    }
}

words! {
    /// How far revoking a credential goes.
    RevocationClass {
        /// The provider ends it at once and proves it.
        Immediate = "immediate",
        /// A policy at the provider refuses it within seconds.
        Denylist = "denylist",
        /// The provider passes the revocation on to another system, which decides.
        Inherits = "inherits",
        /// Nothing ends it before its expiry.
        ExpiryOnly = "expiry_only",
        /// A stored secret: Taskpass cannot revoke it.
        None = "none",
    }
}

words! {
    /// Why the broker revokes a credential.
    RevokeCause {
        /// A caller asked for it.
        Requested = "requested",
        /// Its task ended.
        TaskEnded = "task_ended",
        /// The provider was called and its answer is not on record, so it may exist.
        OutcomeUnknown = "outcome_unknown",
        /// The secret did not reach the caller.
        NotDelivered = "not_delivered",
        /// The end that the request asked for came before the provider's own.
        Expired = "expired",
    }
}

words! {
    /// The kind of caller that a certificate is for.
    CallerKind {
        /// A registered agent.
        Agent = "agent",
        /// An agent with an SVID that is bound to one task.
        AgentTask = "agent_task",
        /// A person.
        Operator = "operator",
    }
}

words! {
    /// Whether the broker calls a provider.
    CircuitState {
        /// Calls go through.
        Closed = "closed",
        /// The provider failed so often that calls are refused for a while.
        Open = "open",
    }
}

words! {
    /// Whether a provider is in the broker's configuration.
    ProviderState {
        /// It is.
        Configured = "configured",
        /// A reload took it out. It issues nothing, and revokes what it minted.
        Retired = "retired",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of the wire comes back as itself, under the name that the wire has for it.
    macro_rules! check {
        ($($name:ident $prefix:literal),+) => {$(
            for (value, wire) in $name::ALL {
                assert_eq!($name::from(*wire as i32), *value);
                assert_eq!(i32::from(*value), *wire as i32);
                let name = wire.as_str_name().strip_prefix($prefix).unwrap().to_lowercase();
                assert_eq!(value.to_string(), name);
            }
            assert_eq!($name::from(77), $name::Unknown(77));
            assert_eq!($name::from(0).to_string(), "unknown(0)");
        )+};
    }

    #[test]
    fn every_value_of_the_wire_has_a_word_and_a_newer_one_its_number() {
        check!(
            TaskState "TASK_STATE_",
            AgentState "AGENT_STATE_",
            JoinTokenState "JOIN_TOKEN_STATE_",
            EndCause "END_CAUSE_",
            CredentialState "CREDENTIAL_STATE_",
            RevocationClass "REVOCATION_CLASS_",
            RevokeCause "REVOKE_CAUSE_",
            CallerKind "CALLER_KIND_",
            CircuitState "CIRCUIT_STATE_",
            ProviderState "PROVIDER_STATE_"
        );
        assert_eq!(TaskState::from(7).to_string(), "unknown(7)");
    }
}
