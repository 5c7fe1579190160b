//! Measures decisions: how long one takes with 10, 100 and 1,000 policies, for a set whose policies name
//! classes, roles and agents in their scopes, and for one whose policies all have to be evaluated.
//!
//! `cargo run --profile bench -p taskpass-policy --example decide`

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement run by hand: it prints, and stops where something is wrong"
)]

use std::collections::BTreeMap;

use taskpass_core::{
    Agent, Clock, Impact, Labels, Requester, RevocationClass, RoleSpec, Scope, SystemClock, Task,
    TaskState, Timestamp, Ttl,
};
use taskpass_policy::{Action, Draw, Facts, PolicyFile, PolicySet, Principal, Resource};

const DECISIONS: usize = 10_000;

fn main() {
    let clock = SystemClock::new();
    println!("policies  scopes   load ms   p50 µs   p99 µs  max µs");
    for count in [10, 100, 1_000] {
        measure(&clock, count, "narrow", narrow);
        measure(&clock, count, "wide", wide);
    }
}

/// What a large installation writes: each policy is about one class, role, provider or agent.
fn narrow(number: usize) -> String {
    match number % 4 {
        0 => format!(
            "permit (principal in Taskpass::AgentClass::\"class-{number}\", \
             action == Taskpass::Action::\"credential.issue\", resource) \
             when {{ resource.impact <= 1 && context.ttlSeconds <= 900 }};"
        ),
        1 => format!(
            "permit (principal is Taskpass::Agent, \
             action == Taskpass::Action::\"credential.issue\", \
             resource == Taskpass::Role::\"vault-main/role-{number}\") \
             when {{ context.scope.contains(\"bucket=logs\") }};"
        ),
        2 => format!(
            "forbid (principal == Taskpass::Agent::\"agent-{number}\", action, \
             resource in Taskpass::Provider::\"aws-prod\");"
        ),
        _ => format!(
            "permit (principal in Taskpass::Team::\"team-{number}\", \
             action in Taskpass::Action::\"task\", resource);"
        ),
    }
}

/// The worst case: no scope says anything, every condition is evaluated to its end.
fn wide(number: usize) -> String {
    format!(
        "permit (principal is Taskpass::Agent, action == Taskpass::Action::\"credential.issue\", \
         resource is Taskpass::Role) when {{ resource.impact <= 1 && \
         context.scope.contains(\"bucket=logs-{number}\") }};"
    )
}

fn measure(clock: &SystemClock, count: usize, label: &str, policy: fn(usize) -> String) {
    let mut text: String = (1..count).map(policy).collect();
    text.push_str(
        "@id(\"issue\") permit (principal in Taskpass::AgentClass::\"deployer\", \
         action == Taskpass::Action::\"credential.issue\", resource) \
         when { context.task.roles.contains(resource) };",
    );
    let started = clock.monotonic();
    let policies = PolicySet::parse(&[PolicyFile {
        name: "all.cedar".to_owned(),
        text,
    }])
    .unwrap();
    let load = clock.monotonic() - started;

    let (agent, role) = (agent(), role());
    let task = task(&agent, &role);
    let scope = Scope::from_pairs([("bucket", "logs"), ("prefix", "2026/11")]).unwrap();
    let domain = "acme.test".parse().unwrap();
    let facts = Facts {
        trust_domain: &domain,
        principal: Principal::Agent {
            agent: &agent,
            bound_to: Some(task.id),
        },
        action: Action::CredentialIssue,
        resource: Resource::Role(&role),
        now: clock.now(),
        ip: Some([10, 0, 0, 1].into()),
        draw: Some(Draw {
            task: &task,
            ttl: Ttl::from_seconds(600).unwrap(),
            scope: &scope,
            live_in_task: 1,
            live_of_agent: 2,
        }),
    };
    let mut nanos: Vec<u128> = (0..DECISIONS)
        .map(|_| {
            let started = clock.monotonic();
            let decision = policies.decide(&facts, clock);
            let took = clock.monotonic() - started;
            assert!(decision.is_allowed(), "{decision:?}");
            took.as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    let at = |share: usize| {
        let nanos = nanos.get((DECISIONS - 1) * share / 1000).unwrap();
        format!("{}.{}", nanos / 1000, nanos % 1000 / 100)
    };
    println!(
        "{count:>8}  {label:<6} {:>9} {:>8} {:>8} {:>7}",
        load.as_millis(),
        at(500),
        at(990),
        at(1000)
    );
}

fn agent() -> Agent {
    Agent {
        name: "builder".parse().unwrap(),
        owner: "alice@acme.test".parse().unwrap(),
        team: Some("build".parse().unwrap()),
        class: Some("deployer".parse().unwrap()),
        labels: Labels::from_pairs([("tier", "batch"), ("region", "eu")]).unwrap(),
        registered_at: Timestamp::EPOCH,
        registered_by: "spiffe://acme.test/operator/admin".parse().unwrap(),
    }
}

fn role() -> RoleSpec {
    RoleSpec {
        name: "vault-main/ci-db".parse().unwrap(),
        kind: "dynamic".to_owned(),
        params: BTreeMap::new(),
        required: Vec::new(),
        max_ttl: Ttl::from_seconds(900).unwrap(),
        impact: Impact::ReversibleWrite,
        environment: "prod".to_owned(),
        data_classes: vec!["customer".to_owned()],
        revocation_class: RevocationClass::Immediate,
        renewable: true,
    }
}

fn task(agent: &Agent, role: &RoleSpec) -> Task {
    Task {
        id: "t0000000000000001".parse().unwrap(),
        agent: agent.name.clone(),
        purpose: "nightly build".parse().unwrap(),
        requester: Requester::SelfDeclared { name: None },
        roles: BTreeMap::from([(role.name.clone(), Scope::default())]),
        started_at: Timestamp::EPOCH,
        deadline: Timestamp::MAX,
        heartbeat: None,
        parent: None,
        depth: 0,
        max_credentials: 10,
        labels: Labels::default(),
        state: TaskState::Open,
        end_cause: None,
        ending_at: None,
        ended_at: None,
    }
}
