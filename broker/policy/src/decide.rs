//! Deciding: [`Facts`] against a [`PolicySet`].

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use cedar_policy::{Effect, EntityUid, EvaluationError};
use cedar_policy_core::{evaluator::Evaluator, extensions::Extensions};
use taskpass_core::{Clock, DecisionRecord, Identity, Outcome, sha256_hex};

use crate::{
    Facts, PolicySet, Principal, Resource, conditions::Rule, limits, schema::one_line, view::View,
};

/// A decision and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision(DecisionRecord);

impl Decision {
    /// Whether the request is allowed.
    pub fn is_allowed(&self) -> bool {
        self.0.outcome == Outcome::Allow
    }

    /// The reason, in one sentence that may be shown to the caller.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The decision as the ledger keeps it.
    pub const fn record(&self) -> &DecisionRecord {
        &self.0
    }

    /// The record, without a copy.
    pub fn into_record(self) -> DecisionRecord {
        self.0
    }
}

/// Cedar's answers over all policies that can apply.
#[derive(Debug, Default)]
struct Verdict<'a> {
    permits: BTreeSet<&'a str>,
    forbids: BTreeSet<&'a str>,
    /// Each policy that could not be evaluated, with Cedar's message.
    failed: BTreeSet<(&'a str, String)>,
}

impl<'a> Verdict<'a> {
    fn add(&mut self, rule: &'a Rule, applies: Result<bool, Box<EvaluationError>>) {
        match applies {
            Ok(false) => {}
            Ok(true) => {
                let ids = match rule.effect {
                    Effect::Permit => &mut self.permits,
                    Effect::Forbid => &mut self.forbids,
                };
                ids.insert(&rule.id);
            }
            Err(error) => {
                self.failed.insert((&rule.id, one_line(error.as_ref())));
            }
        }
    }
}

impl PolicySet {
    /// Decides. A request is denied unless a policy permits it and none forbids it; a policy that
    /// cannot be evaluated and facts that do not fit the schema deny it, too. `clock` only measures
    /// how long deciding took; policies see the time in `facts`.
    pub fn decide(&self, facts: &Facts<'_>, clock: &dyn Clock) -> Decision {
        let started = clock.monotonic();
        let view = View::of(facts);
        let mut record = DecisionRecord {
            principal: principal_text(facts),
            action: facts.action.to_string(),
            resource: resource_text(&facts.resource),
            outcome: Outcome::Deny,
            reason: String::new(),
            policy_set: self.hash().to_owned(),
            policies: Vec::new(),
            errors: Vec::new(),
            input_sha256: String::new(),
            duration_us: 0,
        };
        match serde_json::to_vec(&view) {
            Ok(json) => {
                record.input_sha256 = sha256_hex(&json);
                match self.evaluate(facts, &view) {
                    Ok(verdict) => self.conclude(verdict, &mut record),
                    Err(message) => refuse(&message, &mut record),
                }
            }
            Err(e) => refuse(&one_line(&e), &mut record),
        }
        let took: Duration = clock.monotonic().saturating_sub(started);
        record.duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Decision(record)
    }

    fn evaluate(&self, facts: &Facts<'_>, view: &View) -> Result<Verdict<'_>, String> {
        let policies = self
            .index
            .get(facts.action)
            .ok_or_else(|| format!("the schema has no action `{}`", facts.action))?;
        let request = self.language.request(facts.action, view)?;
        let entities = self.language.entities(view, &policies.entity)?;
        let involved = view
            .lineage(&view.principal)
            .chain(view.lineage(&view.resource))
            .map(|uid| self.language.uid(uid))
            .collect::<Result<HashSet<EntityUid>, String>>()?;
        let evaluator = Evaluator::new(
            request.as_ref().clone(),
            entities.as_ref(),
            Extensions::all_available(),
        );
        let mut answers = self.rules.answers(&evaluator);
        let mut verdict = Verdict::default();
        for rule in policies.candidates(involved.iter()) {
            verdict.add(rule, answers.applies(rule));
        }
        Ok(verdict)
    }

    /// Concludes, in this order: a failure denies, a forbid denies, a permit allows.
    fn conclude(&self, verdict: Verdict<'_>, record: &mut DecisionRecord) {
        let Verdict {
            permits,
            forbids,
            failed,
        } = verdict;
        let deciding: BTreeSet<&str> = if !failed.is_empty() {
            let errors = failed.iter().take(limits::ERRORS_MAX);
            record.errors = errors
                .map(|(id, message)| excerpt(&format!("policy `{id}`: {message}")))
                .collect();
            failed.into_iter().map(|(id, _)| id).collect()
        } else if !forbids.is_empty() {
            forbids
        } else {
            if !permits.is_empty() {
                record.outcome = Outcome::Allow;
            }
            permits
        };
        record.reason = self.reason(&deciding, record);
        let named = deciding.into_iter().take(limits::DECIDING_POLICIES_MAX);
        record.policies = named.map(ToOwned::to_owned).collect();
    }

    /// The first `@reason` of a deciding policy, else the policy's name.
    fn reason(&self, deciding: &BTreeSet<&str>, record: &DecisionRecord) -> String {
        let Some(first) = deciding.first() else {
            return "no policy permits it".to_owned();
        };
        // A policy that failed decided nothing: its `@reason` would mislead.
        if !record.errors.is_empty() {
            return format!("denied because policy `{first}` cannot be evaluated");
        }
        let stated = deciding.iter().find_map(|id| self.reasons.get(*id));
        stated.cloned().unwrap_or_else(|| match record.outcome {
            Outcome::Allow => format!("permitted by policy `{first}`"),
            Outcome::Deny => format!("forbidden by policy `{first}`"),
        })
    }
}

/// The record of a request that no policy was evaluated for.
fn refuse(message: &str, record: &mut DecisionRecord) {
    record.reason = "denied because the request does not fit the policy schema".to_owned();
    record.errors = vec![excerpt(message)];
}

fn excerpt(message: &str) -> String {
    let kept = taskpass_core::limits::ERROR_TEXT_CHARS_MAX;
    message.chars().take(kept).collect()
}

/// The principal's SPIFFE ID.
fn principal_text(facts: &Facts<'_>) -> String {
    let identity = match facts.principal {
        Principal::Agent {
            agent,
            bound_to: Some(task),
        } => Identity::AgentTask(agent.name.clone(), task),
        Principal::Agent { agent, .. } => Identity::Agent(agent.name.clone()),
        Principal::Operator(name) => Identity::Operator(name.clone()),
    };
    // INVARIANT: names of agents, operators and tasks are valid segments of a SPIFFE ID.
    identity
        .spiffe_id(facts.trust_domain)
        .map_or_else(|e| e.to_string(), |id| id.to_string())
}

/// The resource in words.
fn resource_text(resource: &Resource<'_>) -> String {
    match resource {
        Resource::Role(role) => format!("role {}", role.name),
        Resource::Task(task) => format!("task {}", task.id),
        Resource::Agent(agent) => format!("agent {}", agent.name),
        Resource::Provider(name) => format!("provider {name}"),
        Resource::Credential { credential, .. } => {
            format!("credential {} of role {}", credential.id, credential.role)
        }
        Resource::Installation => "installation".to_owned(),
    }
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
