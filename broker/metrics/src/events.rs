//! The broker's decisions and acts, counted by the events that go into the ledger.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use taskpass_core::{Budget, DecisionRecord, EndCause, Event, Outcome, RevokeCause, SpiffeId};

use crate::OTHER;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDecision {
    action: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCause {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfHolder {
    holder: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfChange {
    change: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBudget {
    budget: &'static str,
}

metrics! {
    struct Counters {
        decisions: Family<OfDecision, Counter> = "Decisions on record, by action and outcome, those that one entry counts included";
        credential_issues: Family<OfOutcome, Counter> =
            "Credentials that a provider was asked for, by outcome";
        credential_renewals: Counter = "Credentials that were renewed";
        revocations: Family<OfOutcome, Counter> = "Attempts to revoke a credential, by outcome";
        credentials_expired: Counter = "Credentials that reached their own end";
        svids_issued: Family<OfHolder, Counter> = "X.509-SVIDs that were issued, by holder";
        agent_changes: Family<OfChange, Counter> =
            "Agents that were frozen, released, retired or got another owner, by change";
        join_tokens: Family<OfOutcome, Counter> = "Join tokens that were made or withdrawn";
        identity_conflicts: Family<OfHolder, Counter> =
            "Superseded certificates that were used, by holder";
        budget_refusals: Family<OfBudget, Counter> =
            "Calls that were refused because their agent had used up a budget, by budget";
        tasks_started: Counter = "Tasks that were started";
        tasks_ended: Family<OfCause, Counter> = "Tasks that began to end, by cause";
    }
}

/// The counters of events.
#[derive(Debug)]
pub struct Events {
    actions: Vec<String>,
    counters: Counters,
}

impl Events {
    pub(crate) fn new(actions: Vec<String>, registry: &mut Registry) -> Self {
        Self {
            actions,
            counters: Counters::new(registry),
        }
    }

    /// The counters that `events` add to, once they are on record.
    pub fn prepare(&self, events: &[Event]) -> Prepared {
        Prepared(events.iter().filter_map(|it| self.counter(it)).collect())
    }

    /// A decision that an entry on record stands for already.
    pub fn repeated(&self, decision: &DecisionRecord) {
        self.decision(decision).inc();
    }

    /// A call was refused, since its agent had used up a budget.
    pub fn over_budget(&self, budget: Budget) {
        let budget = budget.as_str();
        self.counters
            .budget_refusals
            .get_or_create_owned(&OfBudget { budget })
            .inc();
    }

    fn counter(&self, event: &Event) -> Option<Counter> {
        Some(match event {
            Event::Decided {
                decision,
                repeated: None,
            } => self.decision(decision),
            // Each repeat was counted when it happened.
            Event::Decided {
                repeated: Some(_), ..
            } => return None,
            Event::CredentialIssued { .. } => self.issue("issued"),
            Event::CredentialAbandoned { .. } => self.issue("abandoned"),
            Event::CredentialRevoking { cause, .. } => match cause {
                RevokeCause::OutcomeUnknown => self.issue("outcome_unknown"),
                RevokeCause::NotDelivered => self.issue("not_delivered"),
                RevokeCause::Requested | RevokeCause::TaskEnded(_) | RevokeCause::Expired => {
                    return None;
                }
            },
            Event::CredentialRenewed { .. } => self.counters.credential_renewals.clone(),
            Event::CredentialRevoked { verified: true, .. } => self.revocation("verified"),
            Event::CredentialRevoked { .. } => self.revocation("unverified"),
            Event::RevokeFailed { .. } => self.revocation("failed"),
            Event::CredentialExpired { .. } => self.counters.credentials_expired.clone(),
            Event::SvidIssued { .. } => self.svid("agent"),
            Event::OperatorSvidIssued { .. } => self.svid("operator"),
            Event::IdentityConflict { holder, .. } => self.conflict(holder),
            Event::AgentFrozen { .. } => self.agent_change("frozen"),
            Event::AgentReleased { .. } => self.agent_change("released"),
            Event::AgentRetired { .. } => self.agent_change("retired"),
            Event::AgentOwnerChanged { .. } => self.agent_change("owner_changed"),
            Event::AgentOwnerDeparted { .. } => self.agent_change("owner_departed"),
            Event::JoinTokenCreated { .. } => self.join_token("created"),
            Event::JoinTokenWithdrawn { .. } => self.join_token("withdrawn"),
            Event::TaskStarted { .. } => self.counters.tasks_started.clone(),
            Event::TaskEnding { cause, .. } => self.task_ending(*cause),
            Event::Initialized { .. }
            | Event::BrokerStarted { .. }
            | Event::ConfigurationReloaded { .. }
            | Event::BrokerStopped {}
            | Event::IndexRebuilt { .. }
            | Event::LedgerArchived { .. }
            | Event::ClockAccepted { .. }
            | Event::KeysSealed { .. }
            | Event::CaChanged { .. }
            | Event::RootChanged { .. }
            | Event::OperatorWithdrawn { .. }
            | Event::AgentRegistered { .. }
            | Event::BudgetExceeded { .. }
            | Event::SvidActivated { .. }
            | Event::TaskEnded { .. }
            | Event::AnchorRecorded { .. }
            | Event::AnchorGone { .. }
            | Event::CredentialIntended { .. }
            | Event::CredentialRenewIntended { .. } => return None,
        })
    }

    fn decision(&self, decision: &DecisionRecord) -> Counter {
        let known = self.actions.iter().find(|it| **it == decision.action);
        let action = known.map_or(OTHER, String::as_str).to_owned();
        let outcome = match decision.outcome {
            Outcome::Allow => "allow",
            Outcome::Deny => "deny",
        };
        self.counters
            .decisions
            .get_or_create_owned(&OfDecision { action, outcome })
    }

    fn issue(&self, outcome: &'static str) -> Counter {
        self.counters
            .credential_issues
            .get_or_create_owned(&OfOutcome { outcome })
    }

    fn revocation(&self, outcome: &'static str) -> Counter {
        self.counters
            .revocations
            .get_or_create_owned(&OfOutcome { outcome })
    }

    fn svid(&self, holder: &'static str) -> Counter {
        self.counters
            .svids_issued
            .get_or_create_owned(&OfHolder { holder })
    }

    fn agent_change(&self, change: &'static str) -> Counter {
        self.counters
            .agent_changes
            .get_or_create_owned(&OfChange { change })
    }

    fn join_token(&self, outcome: &'static str) -> Counter {
        self.counters
            .join_tokens
            .get_or_create_owned(&OfOutcome { outcome })
    }

    fn conflict(&self, holder: &SpiffeId) -> Counter {
        let holder = if holder.path().starts_with("/operator/") {
            "operator"
        } else {
            "agent"
        };
        self.counters
            .identity_conflicts
            .get_or_create_owned(&OfHolder { holder })
    }

    fn task_ending(&self, cause: EndCause) -> Counter {
        let cause = cause.as_str();
        self.counters
            .tasks_ended
            .get_or_create_owned(&OfCause { cause })
    }
}

/// Counters of events that are about to be committed. Dropped, it counts nothing.
#[derive(Debug)]
#[must_use = "the events are counted by `committed`"]
pub struct Prepared(Vec<Counter>);

impl Prepared {
    /// The events are on record.
    pub fn committed(self) {
        for counter in self.0 {
            counter.inc();
        }
    }
}
