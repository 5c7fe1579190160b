//! Evaluating conditions in parts must tell what Cedar tells of whole policies. The policies here
//! are not checked against the schema: their parts fail, are no booleans, and name attributes and
//! entities that do not exist.

use cedar_policy::{
    AuthorizationError, Authorizer, Decision as Answer, Policy, PolicyId, PolicySet as Plain,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    Action,
    decide::{
        differential::{ACTIONS, PRINCIPALS, RESOURCES},
        *,
    },
    schema::Language,
    testing::{World, credential, decide, role},
};

const PARTS: &[&str] = &[
    "true",
    "false",
    "context.taskBound",
    "context.ttlSeconds <= 900",
    "context.liveOfAgent > 2",
    "context.missing",
    "context has ip",
    "context has task.purpose",
    r#"context.ip.isInRange(ip("10.0.0.0/8"))"#,
    r#"ip("nonsense").isIpv4()"#,
    r#"context.now < datetime("2020-01-01")"#,
    r#"context.scope.contains("bucket=logs")"#,
    r#"context.scope.contains("bucket=other")"#,
    r#"context.task.purpose like "nightly*""#,
    "context.task.roles.contains(resource)",
    r#"principal.labels.contains("tier=batch")"#,
    r#"principal.name == "builder""#,
    "principal.owner == resource.owner",
    "principal == resource",
    r#"principal in [Taskpass::Team::"build", Taskpass::Team::"other"]"#,
    r#"principal in Taskpass::AgentClass::"deployer""#,
    r#"resource in Taskpass::Provider::"vault-main""#,
    "resource is Taskpass::Role",
    "resource is Taskpass::Credential && resource.role.impact == 1",
    "resource.impact <= 1",
    "resource.role.impact == 1",
    r#"Taskpass::Agent::"ghost".name == "ghost""#,
    "9223372036854775807 + context.ttlSeconds > 0",
    r#"action in Taskpass::Action::"read""#,
    // No booleans.
    r#""text""#,
    "principal",
    "[1, 2]",
    "{ a: true }.a",
    "context.ttlSeconds",
    "principal.labels",
];

/// A boolean expression, as far as its parts are booleans.
fn expression() -> impl Strategy<Value = String> {
    select(PARTS)
        .prop_map(str::to_owned)
        .prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                4 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
                1 => vec(inner.clone(), 3).prop_map(|all| format!("({})", all.join(") && ("))),
                2 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
                1 => inner.clone().prop_map(|a| format!("!({a})")),
                1 => (inner.clone(), inner.clone(), inner)
                    .prop_map(|(a, b, c)| format!("if ({a}) then ({b}) else ({c})")),
            ]
        })
}

fn policy() -> impl Strategy<Value = String> {
    let effect = select(&["permit", "permit", "permit", "forbid"][..]);
    // Mostly wide, so that conditions are reached.
    let scope = (
        option::weighted(0.3, select(PRINCIPALS)),
        option::weighted(0.3, select(ACTIONS)),
        option::weighted(0.3, select(RESOURCES)),
    );
    let clause = (select(&["when", "unless"][..]), expression());
    let clauses = vec(
        clause.prop_map(|(word, e)| format!("{word} {{ {e} }}")),
        0..4,
    );
    (effect, scope, clauses).prop_map(|(effect, (p, a, r), clauses)| {
        let [p, a, r] = [(p, "principal"), (a, "action"), (r, "resource")]
            .map(|(drawn, any)| drawn.unwrap_or(any));
        format!("{effect} ({p}, {a}, {r}) {};", clauses.join(" "))
    })
}

/// What a record keeps of Cedar's own answer over `policies`.
fn plainly(set: &PolicySet, policies: &Plain, facts: &Facts<'_>) -> DecisionRecord {
    let view = View::of(facts);
    let request = set.language.request(facts.action, &view).unwrap();
    let action = set.language.action(facts.action).unwrap();
    let entities = set.language.entities(&view, &action).unwrap();
    let response = Authorizer::new().is_authorized(&request, policies, &entities);
    let mut verdict = Verdict::default();
    let named = response.diagnostics().reason();
    let named: Vec<String> = named.map(ToString::to_string).collect();
    let ids = named.iter().map(String::as_str).collect();
    match response.decision() {
        Answer::Allow => verdict.permits = ids,
        Answer::Deny => verdict.forbids = ids,
    }
    let failed: Vec<(String, String)> = response
        .diagnostics()
        .errors()
        .map(|AuthorizationError::PolicyEvaluationError(error)| {
            (error.policy_id().to_string(), one_line(error.inner()))
        })
        .collect();
    let failed = failed.iter().map(|(id, told)| (id.as_str(), told.clone()));
    verdict.failed = failed.collect();
    let mut record = decide(set, facts).into_record();
    record.outcome = Outcome::Deny;
    record.errors = Vec::new();
    set.conclude(verdict, &mut record);
    record
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn conditions_in_parts_decide_as_whole_policies_do(
        texts in vec(policy(), 1..12),
        (ip, team, role_known, bound, live) in any::<(bool, bool, bool, bool, bool)>(),
    ) {
        let parsed: Vec<Policy> = texts
            .iter()
            .enumerate()
            .map(|(n, text)| Policy::parse(Some(PolicyId::new(format!("p{n}"))), text).unwrap())
            .collect();
        let set = PolicySet::of(Language::load().unwrap(), &parsed, &[]).unwrap();
        let all = Plain::from_policies(parsed).unwrap();
        let mut world = World::new();
        if !team {
            world.agent.team = None;
        }
        world.live = if live { 3 } else { 1 };
        let role = role(1);
        let credential = credential(&world.task, &role);
        let resources = [
            Resource::Role(&role),
            Resource::Agent(&world.agent),
            Resource::Credential { credential: &credential, role: role_known.then_some(&role) },
            Resource::Installation,
        ];
        let principals = [
            Principal::Agent { agent: &world.agent, bound_to: bound.then_some(world.task.id) },
            Principal::Operator(&world.admin),
        ];
        let mut requests = 0;
        for (action, resource) in Action::ALL
            .iter()
            .flat_map(|action| resources.map(|resource| (*action, resource)))
        {
            for principal in principals {
                let mut facts = Facts { principal, ..world.facts(action, resource) };
                if !ip {
                    facts.ip = None;
                }
                if set.language.request(action, &View::of(&facts)).is_err() {
                    continue;
                }
                requests += 1;
                let mut record = decide(&set, &facts).into_record();
                let plain = plainly(&set, &all, &facts);
                record.duration_us = plain.duration_us;
                prop_assert_eq!(record, plain, "{:?}", facts);
            }
        }
        prop_assert!(requests > 0);
    }
}
