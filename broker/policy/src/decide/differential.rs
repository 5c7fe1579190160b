//! What the index leaves out, and how requests are handed over, must change no decision: random policies and facts, decided
//! here and by Cedar alone, over all policies at once and with a hierarchy that Cedar completes itself.

use std::collections::BTreeSet;

use cedar_policy::{
    AuthorizationError, Authorizer, Decision as Answer, Entities, Policy, PolicyId,
    PolicySet as Plain,
};
use proptest::{collection::vec, prelude::*, sample::select};
use taskpass_core::Outcome;

use super::*;
use crate::{
    Action,
    testing::{World, credential, decide, policies, role},
};

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal is Taskpass::Agent",
    "principal is Taskpass::Operator",
    r#"principal == Taskpass::Agent::"builder""#,
    r#"principal == Taskpass::Agent::"stranger""#,
    r#"principal in Taskpass::AgentClass::"deployer""#,
    r#"principal in Taskpass::AgentClass::"other""#,
    r#"principal in Taskpass::Team::"build""#,
    r#"principal is Taskpass::Agent in Taskpass::Team::"build""#,
    r#"principal == Taskpass::Operator::"admin""#,
];
const ACTIONS: &[&str] = &[
    "action",
    r#"action == Taskpass::Action::"credential.issue""#,
    r#"action == Taskpass::Action::"task.read""#,
    r#"action in Taskpass::Action::"read""#,
    r#"action in Taskpass::Action::"credential""#,
    r#"action in [Taskpass::Action::"draw", Taskpass::Action::"svid.renew"]"#,
];
const RESOURCES: &[&str] = &[
    "resource",
    "resource is Taskpass::Role",
    "resource is Taskpass::Credential",
    r#"resource == Taskpass::Role::"vault-main/impact-1""#,
    r#"resource == Taskpass::Role::"vault-main/impact-2""#,
    r#"resource in Taskpass::Provider::"vault-main""#,
    r#"resource in Taskpass::Provider::"aws-prod""#,
    r#"resource is Taskpass::Role in Taskpass::Provider::"vault-main""#,
    r#"resource in Taskpass::Task::"t0000000000000001""#,
    r#"resource == Taskpass::Agent::"builder""#,
    r#"resource == Taskpass::Installation::"this""#,
];
const CONDITIONS: &[&str] = &[
    "",
    "when { context.taskBound }",
    "unless { context.taskBound }",
    r#"when { context has ip && context.ip.isInRange(ip("10.0.0.0/8")) }"#,
    r#"when { context.now < datetime("2020-01-01") }"#,
    r#"when { principal in Taskpass::Team::"build" }"#,
    r#"when { resource in Taskpass::Provider::"vault-main" }"#,
    // Overflows when it is reached.
    "when { context.taskBound && 9223372036854775807 + 1 == 0 }",
];

/// Effect, scope and condition of a policy.
fn policy() -> impl Strategy<Value = String> {
    let effect = select(&["permit", "permit", "permit", "forbid"][..]);
    let scope = (select(PRINCIPALS), select(ACTIONS), select(RESOURCES));
    (effect, scope, select(CONDITIONS))
        .prop_map(|(effect, (p, a, r), condition)| format!("{effect} ({p}, {a}, {r}) {condition};"))
}

/// Cedar's own answer; `None` when the request does not fit the schema.
fn plainly(set: &PolicySet, texts: &[String], facts: &Facts<'_>) -> Option<Verdict> {
    let mut plain = Plain::new();
    for (number, text) in texts.iter().enumerate() {
        let id = PolicyId::new(format!("p{number}"));
        plain.add(Policy::parse(Some(id), text).unwrap()).unwrap();
    }
    let view = View::of(facts);
    let request = set.language.request(&view).ok()?;
    let action = set.language.action(facts.action).unwrap();
    let entities = set.language.entities(&view, &action).unwrap();
    let entities = Entities::from_entities(entities, None).unwrap();
    let response = Authorizer::new().is_authorized(&request, &plain, &entities);
    let ids = response.diagnostics().reason().map(ToString::to_string);
    let mut verdict = Verdict::default();
    match response.decision() {
        Answer::Allow => verdict.permits.extend(ids),
        Answer::Deny => verdict.forbids.extend(ids),
    }
    for error in response.diagnostics().errors() {
        let AuthorizationError::PolicyEvaluationError(error) = error;
        let (id, message) = (error.policy_id().to_string(), one_line(error.inner()));
        verdict.failed.insert((id, message));
    }
    Some(verdict)
}

proptest! {
    #[test]
    fn the_index_changes_no_decision(
        texts in vec(policy(), 0..limits::DECIDING_POLICIES_MAX),
        bound in any::<bool>(),
        operator in any::<bool>(),
        action in select(Action::ALL),
        which in 0..6,
    ) {
        let named: String = texts
            .iter()
            .enumerate()
            .map(|(number, text)| format!("@id(\"p{number}\") {text}\n"))
            .collect();
        let set = policies(&named);
        let (world, role) = (World::new(), role(1));
        let credential = credential(&world.task, &role);
        let provider = "vault-main".parse().unwrap();
        let resource = match which {
            0 => Resource::Role(&role),
            1 => Resource::Task(&world.task),
            2 => Resource::Agent(&world.agent),
            3 => Resource::Provider(&provider),
            4 => Resource::Credential { credential: &credential, role: Some(&role) },
            _ => Resource::Installation,
        };
        let mut facts = world.facts(action, resource);
        facts.principal = if operator {
            Principal::Operator(&world.admin)
        } else {
            let bound_to = bound.then_some(world.task.id);
            Principal::Agent { agent: &world.agent, bound_to }
        };
        let decision = decide(&set, &facts);
        let record = decision.record();
        let Some(plain) = plainly(&set, &texts, &facts) else {
            prop_assert_eq!(record.outcome, Outcome::Deny);
            prop_assert_eq!(record.errors.len(), 1);
            return Ok(());
        };
        let failed: BTreeSet<String> = plain.failed.iter().map(|(id, _)| id.clone()).collect();
        let (outcome, deciding) = if !failed.is_empty() {
            (Outcome::Deny, failed)
        } else if plain.permits.is_empty() {
            (Outcome::Deny, plain.forbids)
        } else {
            (Outcome::Allow, plain.permits)
        };
        prop_assert_eq!(record.outcome, outcome);
        prop_assert_eq!(&record.policies, &deciding.into_iter().collect::<Vec<_>>());
    }
}
