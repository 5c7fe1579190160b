//! The reasons of errors: a part of the API, each with its code, meaning and remedy.
//!
//! `docs/errors.md` is made from this table; a test says when it is stale.

use std::fmt::Write as _;

use tonic::Code;

macro_rules! reasons {
    ($($variant:ident = $name:literal, $code:ident, $meaning:literal, $advice:literal;)*) => {
        /// Why a request failed, in the `ErrorInfo` of its status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Reason {
            $(#[doc = $meaning] $variant,)*
        }

        impl Reason {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable word on the wire.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The gRPC code that goes with it.
            pub(crate) const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated,
        "The caller shows no client certificate, or one that no longer counts.",
        "Log in, or renew the SVID.";
    Denied = "DENIED", PermissionDenied,
        "Policy, ownership or delegation rules refuse it; the metadata `policies` names the policies. The start of a task does not tell an agent why a role is refused, since an unknown role must look the same.",
        "Read the broker's log, or `taskpass ledger export`, outcome `deny`.";
    AgentFrozen = "AGENT_FROZEN", PermissionDenied,
        "The calling agent is frozen: its identity, tasks and credentials have ended.",
        "An operator looks into it and releases the agent; then it logs in with a new join token.";
    AgentRetired = "AGENT_RETIRED", PermissionDenied,
        "The calling agent is retired for good.",
        "An operator registers another agent.";
    NotFound = "NOT_FOUND", NotFound,
        "The broker knows no such thing.",
        "Check the name.";
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument,
        "A field is wrong; `BadRequest` names it.",
        "Correct the field.";
    AlreadyExists = "ALREADY_EXISTS", AlreadyExists,
        "The name is taken, or this idempotency key made a join token before. The token was in that reply only.",
        "Take another name or key.";
    AlreadyIssued = "ALREADY_ISSUED", AlreadyExists,
        "This idempotency key issued the credential `credential_id` before. The secret was in that reply only.",
        "Revoke it, and ask with a new key.";
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", InvalidArgument,
        "The key belongs to a different request.",
        "Use a new key for each request.";
    TaskEnded = "TASK_ENDED", FailedPrecondition,
        "The task has ended.",
        "Start a new task.";
    FailedPrecondition = "FAILED_PRECONDITION", FailedPrecondition,
        "The thing is not in the state that the request needs.",
        "Look at it, and ask again.";
    LimitExceeded = "LIMIT_EXCEEDED", ResourceExhausted,
        "A quota, rate or queue is used up; `RetryInfo` says when to try again.",
        "Wait as `RetryInfo` says.";
    BudgetExceeded = "BUDGET_EXCEEDED", ResourceExhausted,
        "The agent has used up one of its budgets for an hour; the metadata `budget` names it, `key` is its key in the configuration, and `RetryInfo` says when there is room. Ending tasks and revoking go on.",
        "Wait as `RetryInfo` says, and look for a loop in the agent; an operator raises the key if the work needs it.";
    ProviderUnavailable = "PROVIDER_UNAVAILABLE", Unavailable,
        "The provider is down or slow.",
        "Wait as `RetryInfo` says.";
    ProviderDenied = "PROVIDER_DENIED", FailedPrecondition,
        "The back end refuses the broker.",
        "An operator mends the permissions there.";
    ProviderMisconfigured = "PROVIDER_MISCONFIGURED", FailedPrecondition,
        "The provider's configuration cannot work.",
        "An operator mends the configuration.";
    ProviderUnsupported = "PROVIDER_UNSUPPORTED", FailedPrecondition,
        "The provider cannot do this.",
        "Ask for something else.";
    ProviderGone = "PROVIDER_GONE", NotFound,
        "The provider no longer knows it.",
        "Issue a new one.";
    ClockInDoubt = "CLOCK_IN_DOUBT", Unavailable,
        "The broker's clock is far from the time that has passed. It issues nothing; it goes on revoking.",
        "An operator sets the clock, or runs `taskpassd clock accept`.";
    ClockWentBack = "CLOCK_WENT_BACK", Unavailable,
        "The broker's clock is behind its ledger. It issues nothing; it goes on revoking.",
        "An operator sets the clock, or runs `taskpassd clock accept`.";
    DiskFull = "DISK_FULL", Unavailable,
        "The broker's disk is full. It issues nothing; it goes on revoking.",
        "An operator makes room.";
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable,
        "The store cannot be read or written.",
        "Try again; an operator reads the broker's log.";
    LedgerDamaged = "LEDGER_DAMAGED", Unavailable,
        "An entry of the broker's ledger is not the one that was signed. It issues nothing; it goes on revoking.",
        "An operator runs `taskpassd doctor`, keeps a copy of the data directory, and restores a backup.";
    LedgerUnreadable = "LEDGER_UNREADABLE", Internal,
        "The ledger cannot be read.",
        "An operator reads the broker's log.";
    AuthorityFailed = "AUTHORITY_FAILED", Internal,
        "The certificate authority failed.",
        "An operator reads the broker's log.";
    NoRandomness = "NO_RANDOMNESS", Internal,
        "The system gives no randomness.",
        "An operator reads the broker's log.";
}

/// `docs/errors.md`, as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Errors of the API\n\n\
         <!-- Made by `cargo run -p taskpass-broker --example errors_reference`; do not edit. -->\n\n\
         Every error is a `google.rpc.Status` with an `ErrorInfo` of domain `taskpass` and one of these reasons.\n\
         Requests that the transport refuses because of its own limits carry a code and `RetryInfo` only.\n\n\
         | Reason | Code | Meaning | What to do |\n| --- | --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        // Writing to a string does not fail.
        let _written = writeln!(
            text,
            "| `{}` | {:?} | {} | {} |",
            reason.as_str(),
            reason.code(),
            reason.meaning(),
            reason.advice()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_matches_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        let document = std::fs::read_to_string(path).unwrap();
        assert!(
            document == reference(),
            "docs/errors.md is stale; run `cargo run -p taskpass-broker --example errors_reference > docs/errors.md`"
        );
    }
}
