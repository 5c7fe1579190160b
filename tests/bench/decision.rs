//! Decisions: policy alone with 10, 100 and 1,000 policies, in this process; and decisions of the
//! broker, as its ledger times them.
//!
//! `narrow` policies are the policies of a large installation: each names a class, role, provider
//! or agent in its scope. `wide` policies are the worst case: no scope restricts anything, so every
//! condition is evaluated to its end.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_json::Value;
use taskpass_core::{
    Agent, Clock, Impact, Labels, Requester, RevocationClass, RoleSpec, Scope, SystemClock, Task,
    TaskState, Timestamp, Ttl,
};
use taskpass_policy::{
    Action, CredentialRequest, Facts, PolicyFile, PolicySet, Principal, Resource,
};
use taskpass_proto::v1::{RenewSvidRequest, RenewSvidResponse};
use taskpass_tests::wire::KeyAndCsr;

use crate::{
    Effort, broker,
    load::{self, Samples, ms},
    report::{Figure, Limit, Report, Rounds},
};

const AREA: &str = "Decision";
const COUNTS: [usize; 3] = [10, 100, 1000];

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    alone(effort, "narrow", narrow, 100.0, report);
    // Policy alone has the budget of the whole decision here, because Cedar evaluates every
    // condition.
    alone(effort, "wide", wide, 1000.0, report);
    in_the_broker(effort, report);
    report.add(Figure::open(
        AREA,
        "authorize with approvals, p99",
        "µs",
        Limit::AtMost(1000.0),
        "approvals are not built yet",
    ));
}

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

fn wide(number: usize) -> String {
    format!(
        "permit (principal is Taskpass::Agent, action == Taskpass::Action::\"credential.issue\", \
         resource is Taskpass::Role) when {{ resource.impact <= 1 && \
         context.scope.contains(\"bucket=logs-{number}\") }};"
    )
}

/// `p99_max` is for the largest set, in microseconds.
fn alone(
    effort: &Effort,
    label: &str,
    policy: fn(usize) -> String,
    p99_max: f64,
    report: &mut Report,
) {
    let sets = COUNTS.map(|count| {
        let mut text: String = (1..count).map(policy).collect();
        text.push_str(
            "@id(\"issue\") permit (principal in Taskpass::AgentClass::\"deployer\", \
             action == Taskpass::Action::\"credential.issue\", resource) \
             when { context.task.roles.contains(resource) };",
        );
        let name = "all.cedar".to_owned();
        PolicySet::parse(&[PolicyFile { name, text }]).expect("policies")
    });
    let mut samples = [const { Samples::new() }; COUNTS.len()];
    for _ in 0..effort.rounds {
        for (set, samples) in sets.iter().zip(&mut samples) {
            samples.push(load::of(decide(set, effort.decisions)));
        }
    }
    let [few, _, _] = &samples;
    let micros = |rounds: Rounds| rounds.times(1000.0);
    for (count, samples) in COUNTS.iter().zip(&samples) {
        let what = format!("policy alone, {count} {label} policies");
        for (which, ours, few) in [
            ("p50", samples.p50(), few.p50()),
            ("p99", samples.p99(), few.p99()),
        ] {
            let (ours, few) = (micros(ours), micros(few));
            let figure = Figure::low(AREA, format!("{what}, {which}"), "µs", &ours);
            let figure = figure.beside("10 policies", &ours, &few);
            report.add(if (*count, which) == (1000, "p99") {
                figure.budget(Limit::AtMost(p99_max))
            } else {
                figure
            });
        }
    }
}

fn decide(policies: &PolicySet, times: usize) -> Vec<Duration> {
    let clock = SystemClock::new();
    let (agent, role) = (agent(), role());
    let task = task(&agent, &role);
    let scope = Scope::from_pairs([("bucket", "logs"), ("prefix", "2026/11")]).expect("a scope");
    let domain = "acme.test".parse().expect("a trust domain");
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
        request: Some(CredentialRequest {
            task: &task,
            ttl: Ttl::from_seconds(600).expect("a lifetime"),
            scope: &scope,
            live_in_task: 1,
            live_of_agent: 2,
        }),
    };
    let once = || {
        let began = clock.monotonic();
        let decision = policies.decide(&facts, &clock);
        let took = clock.monotonic().saturating_sub(began);
        assert!(decision.is_allowed(), "{decision:?}");
        took
    };
    (0..times).map(|_| once()).collect()
}

/// Renewals with a thousand policies in force, one at a time, so that caches are as cold as in a
/// quiet broker.
fn in_the_broker(effort: &Effort, report: &mut Report) {
    let installation = broker::installation();
    let text: String = (1..1000).map(narrow).collect();
    installation.policy("many.cedar", &text);
    let running = broker::start(&installation);
    let agent = broker::agent(&running, "builder");
    let csr = KeyAndCsr::new().csr;
    for _ in 0..effort.renewals {
        let request = RenewSvidRequest {
            csr: csr.clone(),
            consistent_with: 0,
        };
        let renewed: Result<RenewSvidResponse, _> =
            agent.ask("/taskpass.v1.IdentityService/RenewSvid", &request);
        renewed.expect("an SVID");
    }
    let path = installation.scratch().join("bench.jsonl");
    let to = path.to_str().expect("a path in UTF-8");
    let done = running.operator().run(&["ledger", "export", "--to", to]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let text = fs::read_to_string(path).expect("an export");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let renewals: Vec<Value> = lines
        .map(|line| line["entry"]["event"]["decision"].clone())
        .filter(|decision| decision["action"] == "svid.renew")
        .collect();
    let spans = renewals.iter().filter_map(|d| d["duration_us"].as_u64());
    let sample = load::of(spans.map(Duration::from_micros).collect());
    let [p50, p99] = [sample.p50, sample.p99].map(|span| Rounds::from(ms(span) * 1000.0));
    let what = "authorize in the broker, 1,000 narrow policies";
    report.add(Figure::low(AREA, format!("{what}, p50"), "µs", &p50));
    let figure = Figure::low(AREA, format!("{what}, p99"), "µs", &p99);
    report.add(figure.budget(Limit::AtMost(1000.0)));
}

fn agent() -> Agent {
    Agent {
        name: "builder".parse().expect("a name"),
        owner: "alice@acme.test".parse().expect("an owner"),
        team: Some("build".parse().expect("a name")),
        class: Some("deployer".parse().expect("a name")),
        labels: Labels::from_pairs([("tier", "batch"), ("region", "eu")]).expect("labels"),
        registered_at: Timestamp::EPOCH,
        registered_by: "spiffe://acme.test/operator/admin"
            .parse()
            .expect("a SPIFFE ID"),
        state: taskpass_core::AgentState::Active,
        changed: None,
        owner_departed: false,
    }
}

fn role() -> RoleSpec {
    RoleSpec {
        name: "vault-main/ci-db".parse().expect("a role"),
        kind: "dynamic".to_owned(),
        params: BTreeMap::new(),
        required: Vec::new(),
        max_ttl: Ttl::from_seconds(900).expect("a lifetime"),
        max_total_ttl: None,
        impact: Impact::ReversibleWrite,
        environment: "prod".to_owned(),
        data_classes: vec!["customer".to_owned()],
        revocation_class: RevocationClass::Immediate,
        renewable: true,
        env: BTreeMap::new(),
    }
}

fn task(agent: &Agent, role: &RoleSpec) -> Task {
    Task {
        id: "t0000000000000001".parse().expect("an id"),
        agent: agent.name.clone(),
        purpose: "nightly build".parse().expect("a text"),
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
