//! The policies that decide, the record of a decision, and that every failure denies.

mod conditions;

use cedar_policy::Entities;
use proptest::prelude::*;
use taskpass_core::{Agent, Labels, ManualClock, Requester, Scope, Task, Text, Timestamp, Ttl};

use super::*;
use crate::{
    Action, CredentialRequest,
    schema::Language,
    testing::{NOW, World, credential, decide, policies, role, task_id},
};

const ISSUE: &str =
    r#"@id("issue") permit (principal, action == Taskpass::Action::"credential.issue", resource);"#;

#[test]
fn the_record_names_caller_action_reason_and_policy() {
    let (world, role) = (World::new(), role(1));
    let set = policies(
        r#"@id("b") permit (principal, action, resource is Taskpass::Role);
           @id("a") @reason("builders may") permit (principal, action, resource);
           permit (principal, action == Taskpass::Action::"task.end", resource);"#,
    );
    let mut facts = world.facts(Action::CredentialIssue, Resource::Role(&role));
    facts.principal = Principal::Agent {
        agent: &world.agent,
        bound_to: Some(world.task.id),
    };
    let decision = decide(&set, &facts);
    assert!(decision.is_allowed());
    let record = decision.into_record();
    assert_eq!(
        record.principal,
        "spiffe://acme.test/agent/builder/task/t0000000000000001"
    );
    assert_eq!(record.action, "credential.issue");
    assert_eq!(record.resource, "role vault-main/impact-1");
    assert_eq!(record.reason, "builders may");
    assert_eq!(record.policies, ["a", "b"]);
    assert_eq!(record.policy_set, set.hash());
    assert_eq!(record.errors, Vec::<String>::new());
    assert_eq!(record.input_sha256.len(), 64);
}

#[test]
fn a_policy_without_id_is_named_by_its_place() {
    let (world, role) = (World::new(), role(0));
    let set = policies(
        "permit (principal, action, resource is Taskpass::Task);\npermit (principal, action, resource);",
    );
    let decision = decide(
        &set,
        &world.facts(Action::CredentialIssue, Resource::Role(&role)),
    );
    assert_eq!(decision.record().policies, ["test.cedar:2"]);
    assert_eq!(decision.reason(), "permitted by policy `test.cedar:2`");
}

#[test]
fn default_deny_and_forbid_wins() {
    let (world, role) = (World::new(), role(0));
    let facts = world.facts(Action::CredentialIssue, Resource::Role(&role));
    let none = decide(&policies(""), &facts);
    assert!(!none.is_allowed());
    assert_eq!(none.reason(), "no policy permits it");
    // The forbid and the permit land in different parts of the index.
    for forbid in [
        r#"@id("stop") forbid (principal, action, resource);"#,
        r#"@id("stop") forbid (principal == Taskpass::Agent::"builder", action, resource);"#,
        r#"@id("stop") forbid (principal in Taskpass::Team::"build", action, resource);"#,
        r#"@id("stop") forbid (principal, action, resource == Taskpass::Role::"vault-main/impact-0");"#,
        r#"@id("stop") forbid (principal, action, resource in Taskpass::Provider::"vault-main");"#,
        r#"@id("stop") forbid (principal is Taskpass::Agent in Taskpass::AgentClass::"deployer",
             action in Taskpass::Action::"access", resource is Taskpass::Role in Taskpass::Provider::"vault-main");"#,
    ] {
        let decision = decide(&policies(&format!("{ISSUE}{forbid}")), &facts);
        assert!(!decision.is_allowed(), "{forbid}");
        assert_eq!(decision.record().policies, ["stop"]);
        assert_eq!(decision.reason(), "forbidden by policy `stop`");
    }
}

/// Cedar leaves out a policy that fails; a forbid that fails would then not forbid.
#[test]
fn a_policy_that_fails_denies() {
    let world = World::new();
    let (role, gone) = (role(0), credential(&world.task, &role(0)));
    let overflow = r#"@id("sum") @reason("never shown") forbid (principal, action in Taskpass::Action::"access", resource)
        when { context.ttlSeconds + 9223372036854775807 == 0 };"#;
    let set = policies(&format!("{ISSUE}{overflow}"));
    let decision = decide(
        &set,
        &world.facts(Action::CredentialIssue, Resource::Role(&role)),
    );
    assert!(!decision.is_allowed());
    assert_eq!(
        decision.reason(),
        "denied because policy `sum` cannot be evaluated"
    );
    assert_eq!(decision.record().policies, ["sum"]);
    let errors = &decision.record().errors;
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("policy `sum`: integer overflow"),
        "{}",
        errors[0]
    );

    // A permit that fails denies, too, beside a policy that permits. Here the credential's role has
    // left the configuration.
    let set = policies(
        r#"permit (principal, action, resource);
           @id("role") permit (principal, action, resource is Taskpass::Credential) when { resource.role.impact == 0 };"#,
    );
    let mut resource = Resource::Credential {
        credential: &gone,
        role: Some(&role),
    };
    assert!(decide(&set, &world.facts(Action::CredentialRead, resource)).is_allowed());
    resource = Resource::Credential {
        credential: &gone,
        role: None,
    };
    let decision = decide(&set, &world.facts(Action::CredentialRead, resource));
    assert!(!decision.is_allowed());
    assert_eq!(decision.record().policies, ["role"]);
}

/// An agent cannot vouch for its own purpose by starting a child task.
#[test]
fn a_child_task_inherits_that_its_purpose_is_self_declared() {
    let set = policies(
        r#"permit (principal, action in Taskpass::Action::"access", resource) unless { context.task.selfDeclared };"#,
    );
    let (mut world, role) = (World::new(), role(0));
    world.task.requester = Requester::Delegated { parent: task_id(7) };
    world.task.parent = Some(task_id(7));
    let facts = world.facts(Action::CredentialIssue, Resource::Role(&role));
    assert!(!decide(&set, &facts).is_allowed());
}

#[test]
fn facts_that_do_not_fit_the_schema_are_denied() {
    let world = World::new();
    let role = role(0);
    let set = policies("permit (principal, action, resource);");
    let issue = world.facts(Action::CredentialIssue, Resource::Role(&role));
    let mut misfits = [issue; 5];
    misfits[0].request = None;
    misfits[1].action = Action::TaskEnd;
    misfits[2].principal = Principal::Operator(&world.admin);
    misfits[3].resource = Resource::Installation;
    misfits[4].action = Action::CredentialRead;
    assert!(decide(&set, &issue).is_allowed());
    for facts in misfits {
        let decision = decide(&set, &facts);
        assert!(!decision.is_allowed(), "{facts:?}");
        assert_eq!(
            decision.reason(),
            "denied because the request does not fit the policy schema"
        );
        assert_eq!(decision.record().errors.len(), 1, "{facts:?}");
    }
}

/// A policy sees each attribute as the schema describes it.
#[test]
fn policies_see_the_attributes_of_the_schema() {
    let mut world = World::new();
    world.task.depth = 2;
    let role = role(1);
    for condition in [
        "principal.name == \"builder\" && principal.owner like \"*@acme.test\"",
        "principal.labels.contains(\"tier=batch\")",
        "principal in Taskpass::AgentClass::\"deployer\" && principal in Taskpass::Team::\"build\"",
        "resource.name == \"vault-main/impact-1\" && resource.kind == \"dynamic\" && resource.impact == 1",
        "resource.environment == \"prod\" && resource.dataClasses.contains(\"customer\")",
        "resource.maxTtlSeconds == 900 && resource.revocationClass == \"immediate\"",
        "resource in Taskpass::Provider::\"vault-main\" && action in Taskpass::Action::\"credential\"",
        "context.task.agent == principal && context.task.purpose == \"nightly build\"",
        "context.task.selfDeclared && context.task.state == \"open\" && context.task.depth == 2",
        "context.task.roles.contains(resource) && context.task.deadline > context.now",
        "context.now == datetime(\"2026-11-22T10:00:00.000Z\") && context.ttlSeconds == 900",
        "context.scope == [\"bucket=logs\"] && context.scopeNames == [\"bucket\"]",
        "context.liveInTask == 1 && context.liveOfAgent == 2 && !context.taskBound",
        "context has ip && context.ip.isInRange(ip(\"10.0.0.0/8\"))",
    ] {
        let set = policies(&format!(
            "permit (principal is Taskpass::Agent, action == Taskpass::Action::\"credential.issue\", resource)
             when {{ {condition} }};"
        ));
        let decision = decide(
            &set,
            &world.facts(Action::CredentialIssue, Resource::Role(&role)),
        );
        assert!(decision.is_allowed(), "{condition}: {decision:?}");
    }
}

/// The entities are not checked against the schema on every request, so they are here, for every
/// action.
#[test]
fn entities_conform_to_the_schema() {
    let world = World::new();
    let language = Language::load().unwrap();
    let role = role(3);
    let credential = credential(&world.task, &role);
    let provider = "vault-main".parse().unwrap();
    let mut requests = 0;
    for resource in [
        Resource::Role(&role),
        Resource::Task(&world.task),
        Resource::Agent(&world.agent),
        Resource::Provider(&provider),
        Resource::Installation,
        Resource::Credential {
            credential: &credential,
            role: Some(&role),
        },
    ] {
        for action in Action::ALL {
            for principal in [
                world.facts(*action, resource).principal,
                Principal::Operator(&world.admin),
            ] {
                let facts = Facts {
                    principal,
                    ..world.facts(*action, resource)
                };
                let view = View::of(&facts);
                let entities = language
                    .action(*action)
                    .and_then(|action| language.entities(&view, &action));
                let entities = entities.unwrap();
                let completed = Entities::from_entities(entities.clone(), None).unwrap();
                assert!(completed.deep_eq(&entities), "{action}: not all ancestors");
                let entities = entities
                    .remove_entities([language.uid(&view.action).unwrap()])
                    .unwrap();
                let checked = Entities::from_entities(entities, Some(&language.schema));
                assert!(checked.is_ok(), "{action}: {checked:?}");
                requests += usize::from(language.request(*action, &view).is_ok());
            }
        }
    }
    // Every combination the schema allows, and no other.
    assert_eq!(requests, language.schema.request_envs().count());
}

/// A rule about a task, a role or a provider also holds for its credentials, whether or not the
/// role is still configured.
#[test]
fn credentials_are_in_their_task_role_and_provider() {
    let world = World::new();
    let credential = credential(&world.task, &role(1));
    let resource = Resource::Credential {
        credential: &credential,
        role: None,
    };
    for parent in [
        "Taskpass::Task::\"t0000000000000001\"",
        "Taskpass::Role::\"vault-main/impact-1\"",
        "Taskpass::Provider::\"vault-main\"",
    ] {
        let set = policies(&format!(
            "permit (principal, action, resource in {parent});"
        ));
        let decision = decide(&set, &world.facts(Action::CredentialRevoke, resource));
        assert!(decision.is_allowed(), "{parent}: {decision:?}");
    }
}

/// An IPv4 caller of a dual-stack listener must not slip past a rule about IPv4 ranges.
#[test]
fn mapped_addresses_are_ipv4() {
    let world = World::new();
    let set = policies(
        "permit (principal, action, resource) when { context has ip && context.ip.isInRange(ip(\"10.0.0.0/8\")) };",
    );
    let mut facts = world.facts(Action::TaskEnd, Resource::Task(&world.task));
    for (ip, allowed) in [
        ("::ffff:10.0.0.1", true),
        ("10.9.9.9", true),
        ("::1", false),
    ] {
        facts.ip = Some(ip.parse().unwrap());
        assert_eq!(decide(&set, &facts).is_allowed(), allowed, "{ip}");
    }
    facts.ip = None;
    assert!(!decide(&set, &facts).is_allowed());
}

#[test]
fn the_record_is_bounded() {
    let world = World::new();
    let mut text = String::new();
    for number in 0..100 {
        text.push_str(&format!(
            "@id(\"p{number:03}\") permit (principal, action == Taskpass::Action::\"credential.issue\", resource)
             when {{ context.ttlSeconds + 9223372036854775807 == 0 }};"
        ));
    }
    let role = role(0);
    let facts = world.facts(Action::CredentialIssue, Resource::Role(&role));
    let record = decide(&policies(&text), &facts).into_record();
    assert_eq!(record.policies.len(), limits::DECIDING_POLICIES_MAX);
    assert_eq!(record.errors.len(), limits::ERRORS_MAX);
    assert!(serde_json::to_vec(&record).unwrap().len() < 16 * 1024);
}

#[test]
fn the_digest_covers_every_fact_and_nothing_else() {
    let world = World::new();
    let (set, role, other_role) = (policies(ISSUE), role(0), role(1));
    let facts = world.facts(Action::CredentialIssue, Resource::Role(&role));
    let digest = |facts: &Facts<'_>| decide(&set, facts).into_record().input_sha256;
    let same = digest(&facts);
    assert_eq!(
        digest(&World::new().facts(facts.action, facts.resource)),
        same
    );
    // Pinned: records of different versions must be comparable.
    assert_eq!(
        same,
        "1bfa05b7b1adf4b1c132fd7f29359e1f2caea1afce3b7a1b4cd770298162d380"
    );

    let narrower = Scope::from_pairs([("bucket", "logs2")]).unwrap();
    let stranger = Agent {
        owner: "bob@acme.test".parse().unwrap(),
        ..world.agent.clone()
    };
    let later = Task {
        deadline: Timestamp::MAX,
        ..world.task.clone()
    };
    let draw = facts.request.unwrap();
    let agent = |agent, bound_to| Principal::Agent { agent, bound_to };
    let mut changed = [facts; 10];
    changed[0].principal = agent(&stranger, None);
    changed[1].principal = agent(&world.agent, Some(world.task.id));
    changed[2].resource = Resource::Role(&other_role);
    changed[3].now = NOW.plus(Duration::from_millis(1));
    changed[4].ip = None;
    changed[5].request = Some(CredentialRequest {
        task: &later,
        ..draw
    });
    changed[6].request = Some(CredentialRequest {
        scope: &narrower,
        ..draw
    });
    changed[7].request = Some(CredentialRequest {
        live_in_task: 9,
        ..draw
    });
    changed[8].request = Some(CredentialRequest {
        ttl: Ttl::from_seconds(901).unwrap(),
        ..draw
    });
    changed[9].action = Action::TaskStart;
    let mut digests: BTreeSet<String> = changed.iter().map(digest).collect();
    digests.insert(same);
    assert_eq!(digests.len(), changed.len() + 1);
}

/// Canonical JSON: keys are sorted, for any order in which they were added.
#[test]
fn the_canonical_form_has_sorted_keys() {
    let (world, role) = (World::new(), role(0));
    let facts = world.facts(Action::CredentialIssue, Resource::Role(&role));
    let json = serde_json::to_string(&View::of(&facts)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(sorted(&value), json);
    assert!(json.starts_with(
        r#"{"action":{"id":"credential.issue","type":"Taskpass::Action"},"context":{"ip":{"__extn":"#
    ));
}

fn sorted(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}:{}", serde_json::json!(key), sorted(value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        serde_json::Value::Array(values) => {
            let values: Vec<String> = values.iter().map(sorted).collect();
            format!("[{}]", values.join(","))
        }
        other => other.to_string(),
    }
}

/// The texts that [`Text`] allows: one line, so without the separators U+2028 and U+2029.
fn any_text() -> impl Strategy<Value = String> {
    "[ -~\u{a0}-\u{2027}\u{202a}-\u{2fff}]{1,100}"
        .prop_filter("blank", |text| text.parse::<Text>().is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A caller's text stays text: it neither fails nor changes the meaning of a policy.
    #[test]
    fn hostile_text_stays_text(purpose in any_text(), value in any_text()) {
        check_text(&purpose, &value);
    }
}

#[test]
fn known_tricks_stay_text() {
    for trick in [
        "\"",
        "\\",
        "\\\"",
        "\"); permit(principal, action, resource); //",
        "*",
        "like \"*\"",
        "\u{202e}gnp",
        "\u{1f980}",
        "a=b=c",
        "Taskpass::Agent::\"builder\"",
        "${x}",
        "{admin}",
        "\\u{0}",
    ] {
        check_text(trick, trick);
    }
}

/// `purpose` and `value` are seen by a policy that names exactly them, and by no other.
fn check_text(purpose: &str, value: &str) {
    let mut world = World::new();
    world.task.purpose = purpose.parse().unwrap();
    world.agent.labels = Labels::from_pairs([("k", value)]).unwrap();
    world.scope = Scope::from_pairs([("bucket", value)]).unwrap();
    let role = role(0);
    let facts = world.facts(Action::CredentialIssue, Resource::Role(&role));
    let literal = |text: &str| -> String {
        let escaped = text.chars().map(|c| format!("\\u{{{:x}}}", u32::from(c)));
        escaped.collect()
    };
    let set = policies(&format!(
        "permit (principal is Taskpass::Agent, action == Taskpass::Action::\"credential.issue\", resource)
         when {{ context.task.purpose == \"{}\" && context.scope.contains(\"bucket={}\")
                && principal.labels.contains(\"k={}\") }};",
        literal(purpose),
        literal(value),
        literal(value)
    ));
    assert!(decide(&set, &facts).is_allowed(), "{purpose:?} {value:?}");
    let other = World::new();
    let facts = other.facts(Action::CredentialIssue, Resource::Role(&role));
    assert!(!decide(&set, &facts).is_allowed());
}

#[test]
fn the_time_it_took_is_measured_with_the_clock() {
    #[derive(Debug)]
    struct Ticking(ManualClock);
    impl Clock for Ticking {
        fn now(&self) -> Timestamp {
            self.0.now()
        }
        fn monotonic(&self) -> Duration {
            self.0.advance(Duration::from_millis(3));
            self.0.monotonic()
        }
    }
    let world = World::new();
    let facts = world.facts(Action::TaskEnd, Resource::Task(&world.task));
    let decision = policies("").decide(&facts, &Ticking(ManualClock::new(NOW)));
    assert_eq!(decision.record().duration_us, 3000);
}
