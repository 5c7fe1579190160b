//! The index and the way requests reach Cedar must change no decision. Random policies and facts
//! are decided here and by Cedar alone, over all policies at once and with a hierarchy that Cedar
//! completes itself.

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

pub(super) const PRINCIPALS: &[&str] = &[
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
pub(super) const ACTIONS: &[&str] = &[
    "action",
    r#"action == Taskpass::Action::"credential.issue""#,
    r#"action == Taskpass::Action::"task.read""#,
    r#"action in Taskpass::Action::"read""#,
    r#"action in Taskpass::Action::"credential""#,
    r#"action in [Taskpass::Action::"access", Taskpass::Action::"svid.renew"]"#,
];
pub(super) const RESOURCES: &[&str] = &[
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

/// The same policies as one plain set.
fn plain(texts: &[String]) -> Plain {
    let mut all = Plain::new();
    for (number, text) in texts.iter().enumerate() {
        let id = PolicyId::new(format!("p{number}"));
        all.add(Policy::parse(Some(id), text).unwrap()).unwrap();
    }
    all
}

/// Cedar's own answer and the policies that made it; `None` when the request does not fit the
/// schema.
fn plainly(set: &PolicySet, all: &Plain, facts: &Facts<'_>) -> Option<(Outcome, Vec<String>)> {
    let view = View::of(facts);
    let language = &set.language;
    let request = language.any_request(&view, Some(&language.schema));
    let fits = language.request(facts.action, &view).is_ok();
    assert_eq!(fits, request.is_ok(), "{facts:?}");
    let request = request.ok()?;
    let action = set.language.action(facts.action).unwrap();
    let entities = set.language.entities(&view, &action).unwrap();
    let entities = Entities::from_entities(entities, None).unwrap();
    let response = Authorizer::new().is_authorized(&request, all, &entities);
    let failed = response.diagnostics().errors().map(|error| {
        let AuthorizationError::PolicyEvaluationError(error) = error;
        error.policy_id().to_string()
    });
    let failed: BTreeSet<String> = failed.collect();
    let deciding = response.diagnostics().reason().map(ToString::to_string);
    let (outcome, deciding) = match response.decision() {
        _ if !failed.is_empty() => (Outcome::Deny, failed),
        Answer::Allow => (Outcome::Allow, deciding.collect()),
        Answer::Deny => (Outcome::Deny, deciding.collect()),
    };
    Some((outcome, deciding.into_iter().collect()))
}

proptest! {
    // Each case makes every request that is possible.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_index_changes_no_decision(texts in vec(policy(), 0..limits::DECIDING_POLICIES_MAX)) {
        let named = texts.iter().enumerate();
        let named: String = named.map(|(n, text)| format!("@id(\"p{n}\") {text}\n")).collect();
        let (set, all) = (policies(&named), plain(&texts));
        let (world, role) = (World::new(), role(1));
        let credential = credential(&world.task, &role);
        let provider = "vault-main".parse().unwrap();
        let resources = [
            Resource::Role(&role),
            Resource::Task(&world.task),
            Resource::Agent(&world.agent),
            Resource::Provider(&provider),
            Resource::Credential { credential: &credential, role: Some(&role) },
            Resource::Installation,
        ];
        let (agent, bound) = (&world.agent, Some(world.task.id));
        let principals = [
            Principal::Agent { agent, bound_to: None },
            Principal::Agent { agent, bound_to: bound },
            Principal::Operator(&world.admin),
        ];
        for ((action, resource), principal) in Action::ALL
            .iter()
            .flat_map(|action| resources.map(|resource| (*action, resource)))
            .flat_map(|pair| principals.map(|principal| (pair, principal)))
        {
            let drawn = world.facts(Action::CredentialIssue, resource).request;
            for draw in [drawn, None] {
                let facts = Facts { principal, request: draw, ..world.facts(action, resource) };
                let Some(answer) = plainly(&set, &all, &facts) else { continue };
                let record = decide(&set, &facts).into_record();
                prop_assert_eq!((record.outcome, record.policies), answer, "{:?}", facts);
            }
        }
    }
}
