//! The whole truth table of the starter policy.

use std::collections::BTreeMap;

use taskpass_core::{
    CredentialState, OperatorName, ProviderName, RoleSpec, Scope, Task, TaskState, Timestamp,
};

use super::*;
use crate::{
    Action, Facts, PolicySet, Principal, Resource, Severity, check_files,
    testing::{World, agent, credential, decide, role, task, task_id},
};

/// All roles for all agents.
const GRANT_ALL: &str = r#"
permit (principal is Taskpass::Agent, action in Taskpass::Action::"access", resource);"#;

/// All roles of the provider for the agent.
const GRANT: &str = r#"
permit (
  principal == Taskpass::Agent::"builder",
  action in Taskpass::Action::"access",
  resource in Taskpass::Provider::"vault-main"
);"#;

#[test]
fn it_passes_its_own_check() {
    let admin: OperatorName = "platform-1".parse().unwrap();
    let file = starter_policy(&StarterOptions { admin: &admin });
    let report = check_files(std::slice::from_ref(&file), None).unwrap();
    assert_eq!(report.to_string(), "");
    assert_eq!(report.policies, 15);
    assert!(file.text.contains("Operator::\"platform-1\"") && !file.text.contains("{admin}"));
}

/// The commented examples, by id.
fn examples() -> BTreeMap<String, String> {
    let text = World::new().starter_file().text;
    let mut examples = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        let code = line.strip_prefix("// ").unwrap_or_default();
        if let Some(id) = code
            .strip_prefix("@id(\"")
            .and_then(|c| c.strip_suffix("\")"))
        {
            open = Some((id.to_owned(), String::new()));
        }
        if let Some((_, text)) = &mut open {
            text.push_str(code);
            text.push('\n');
        }
        if code.ends_with(';')
            && let Some((id, text)) = open.take()
        {
            examples.insert(id, text);
        }
    }
    examples
}

/// People copy the commented examples: each must be right once uncommented, and warn about nothing.
#[test]
fn the_commented_examples_pass_too() {
    let mut file = World::new().starter_file();
    for text in examples().values() {
        file.text.push_str(text);
    }
    let report = check_files(&[file], None).unwrap();
    assert_eq!(report.to_string(), "");
    assert_eq!(report.policies, 15 + 9);
    assert!(
        !report
            .findings
            .iter()
            .any(|f| f.severity == Severity::Warning)
    );
}

/// Each example covers the start of a task, issuing and renewing alike: where it lets an agent in,
/// all three are allowed, and where it does not, none is.
#[test]
fn the_examples_cover_start_issue_and_renewal() {
    type Change = fn(&mut World, &mut RoleSpec);
    let open = |_: &mut World, _: &mut RoleSpec| {};
    let cases: [(&str, Change, Change); 7] = [
        ("grant.deployers", open, |w, _| w.agent.class = None),
        (
            "grant.build",
            |w, _| w.scope = Scope::from_pairs([("bucket", "artifacts")]).unwrap(),
            open,
        ),
        ("grant.builder", open, |w, _| {
            w.agent.name = "other".parse().unwrap();
            w.task.agent = w.agent.name.clone();
        }),
        ("deployers-only", open, |w, _| w.agent.class = None),
        ("office-hours", open, |w, _| w.now = at_night()),
        ("own-network", open, |w, _| w.ip = [192, 0, 2, 1].into()),
        ("not-too-many", open, |w, _| w.live = 10),
    ];
    let examples = examples();
    let tried: Vec<&str> = cases.iter().map(|(id, ..)| *id).collect();
    let of_operators = ["auditor.read", "on-call.stop"];
    let agents = examples
        .keys()
        .filter(|id| !of_operators.contains(&id.as_str()));
    let mut agents: Vec<&str> = agents.map(String::as_str).collect();
    agents.sort_unstable();
    let mut sorted = tried.clone();
    sorted.sort_unstable();
    assert_eq!(agents, sorted, "every example is tried");
    for (id, lets_in, keeps_out) in cases {
        for (change, wanted) in [(lets_in, true), (keeps_out, false)] {
            let (mut world, mut role) = (World::new(), role(1));
            role.name = match id {
                "grant.deployers" => "vault-main/ci-db",
                "grant.builder" => "vault-main/any",
                _ => "aws-prod/artifact-reader",
            }
            .parse()
            .unwrap();
            change(&mut world, &mut role);
            world.task.roles = BTreeMap::from([(role.name.clone(), Scope::default())]);
            let grants = if id.starts_with("grant.") {
                ""
            } else {
                GRANT_ALL
            };
            let set = world.starter_with(&format!("{}{grants}", examples[id]));
            let credential = credential(&world.task, &role);
            let resources = [
                (Action::TaskStart, Resource::Role(&role)),
                (Action::CredentialIssue, Resource::Role(&role)),
                (
                    Action::CredentialRenew,
                    Resource::Credential {
                        credential: &credential,
                        role: Some(&role),
                    },
                ),
            ];
            for (action, resource) in resources {
                let decision = decide(&set, &world.facts(action, resource));
                assert_eq!(
                    decision.is_allowed(),
                    wanted,
                    "{id} {action}: {}",
                    decision.reason()
                );
            }
        }
    }
}

fn at_night() -> Timestamp {
    crate::testing::NOW.plus(std::time::Duration::from_secs(12 * 3600))
}

/// Every caller, action and resource: the policy allows exactly the listed requests.
#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn truth_table() {
    let allowed = [
        "admin agent.freeze agent",
        "admin agent.freeze other agent",
        "admin agent.owner agent",
        "admin agent.owner other agent",
        "admin agent.read agent",
        "admin agent.read installation",
        "admin agent.read other agent",
        "admin agent.register agent",
        "admin agent.register other agent",
        "admin agent.release agent",
        "admin agent.release other agent",
        "admin agent.retire agent",
        "admin agent.retire other agent",
        "admin agent.token agent",
        "admin agent.token other agent",
        "admin agent.withdraw-token agent",
        "admin agent.withdraw-token other agent",
        "admin credential.read agent",
        "admin credential.read credential-0",
        "admin credential.read credential-1",
        "admin credential.read credential-2",
        "admin credential.read credential-3",
        "admin credential.read foreign credential",
        "admin credential.read foreign task",
        "admin credential.read installation",
        "admin credential.read orphan credential",
        "admin credential.read other agent",
        "admin credential.read task",
        "admin credential.revoke credential-0",
        "admin credential.revoke credential-1",
        "admin credential.revoke credential-2",
        "admin credential.revoke credential-3",
        "admin credential.revoke foreign credential",
        "admin credential.revoke orphan credential",
        "admin ledger.read installation",
        "admin policy.read installation",
        "admin provider.check provider",
        "admin provider.read installation",
        "admin provider.read provider",
        "admin svid.renew installation",
        "admin task.end foreign task",
        "admin task.end task",
        "admin task.read agent",
        "admin task.read foreign task",
        "admin task.read installation",
        "admin task.read other agent",
        "admin task.read task",
        "agent credential.issue role-0",
        "agent credential.issue role-1",
        "agent credential.read agent",
        "agent credential.read credential-0",
        "agent credential.read credential-1",
        "agent credential.read credential-2",
        "agent credential.read credential-3",
        "agent credential.read orphan credential",
        "agent credential.read task",
        "agent credential.renew credential-0",
        "agent credential.renew credential-1",
        "agent credential.revoke credential-0",
        "agent credential.revoke credential-1",
        "agent credential.revoke credential-2",
        "agent credential.revoke credential-3",
        "agent credential.revoke orphan credential",
        "agent svid.attest agent",
        "agent svid.renew agent",
        "agent svid.renew task",
        "agent task.end task",
        "agent task.heartbeat task",
        "agent task.read agent",
        "agent task.read task",
        "agent task.start installation",
        "agent task.start role-0",
        "agent task.start role-1",
        "nobody svid.renew installation",
    ];
    let world = World::new();
    assert_eq!(table(&world, &world.starter_with(GRANT)), allowed);
    // Without the grant the roles and their credentials are missing, and nothing else is.
    let ungranted: Vec<_> = allowed
        .into_iter()
        .filter(|line| {
            !["task.start role-", "credential.issue ", "credential.renew "]
                .iter()
                .any(|access| line.contains(access))
        })
        .collect();
    assert_eq!(table(&world, &world.starter()), ungranted);
}

/// An agent that a grant does not name gets nothing by it.
#[test]
fn a_grant_is_for_the_agents_that_it_names() {
    let mut world = World::new();
    world.agent = agent("other");
    world.task = task(&world.agent);
    let policies = world.starter_with(GRANT);
    for action in [Action::TaskStart, Action::CredentialIssue] {
        let role = role(0);
        let decision = decide(&policies, &world.facts(action, Resource::Role(&role)));
        assert_eq!(decision.reason(), "no policy permits it", "{action}");
    }
}

/// A task that is ending gives nothing any more; looking, ending and revoking go on.
#[test]
fn nothing_is_drawn_from_a_task_that_is_not_open() {
    for state in [TaskState::Ending, TaskState::Ended] {
        let mut world = World::new();
        world.task.state = state;
        let table = table(&world, &world.starter_with(GRANT));
        for absent in ["credential.issue", "credential.renew", "svid.renew task"] {
            assert!(
                !table.iter().any(|line| line.contains(absent)),
                "{absent} while {state:?}"
            );
        }
        assert!(table.contains(&"agent task.end task".to_owned()));
        assert!(table.contains(&"agent credential.revoke credential-0".to_owned()));
    }
}

#[test]
fn a_task_draws_only_on_its_roles_and_only_for_its_agent() {
    let mut world = World::new();
    let roles = std::mem::take(&mut world.task.roles);
    let drawn = |world: &World| {
        let draws = ["credential.issue"];
        table(world, &world.starter_with(GRANT))
            .iter()
            .any(|line| draws.iter().any(|d| line.contains(d)))
    };
    assert!(!drawn(&world), "a role that is not in the task");
    world.task.roles = roles;
    assert!(drawn(&world));
    world.task.agent = "other".parse().unwrap();
    assert!(!drawn(&world), "somebody else's task");
}

#[test]
fn high_impact_is_refused_with_a_reason() {
    let world = World::new();
    let policies = world.starter_with(GRANT);
    let (role, task) = (role(2), &world.task);
    let credential = credential(task, &role);
    for facts in [
        world.facts(Action::TaskStart, Resource::Role(&role)),
        world.facts(Action::CredentialIssue, Resource::Role(&role)),
        world.facts(
            Action::CredentialRenew,
            Resource::Credential {
                credential: &credential,
                role: Some(&role),
            },
        ),
    ] {
        let decision = decide(&policies, &facts);
        assert_eq!(
            decision.reason(),
            "this policy does not allow roles of impact 2 and 3"
        );
        assert_eq!(decision.record().errors, Vec::<String>::new());
    }
}

/// All allowed requests, as sorted lines `caller action resource`.
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn table(world: &World, policies: &PolicySet) -> Vec<String> {
    let nobody: OperatorName = "nobody".parse().unwrap();
    let stranger: Task = Task {
        id: task_id(2),
        ..task(&agent("other"))
    };
    let (provider, other): (ProviderName, _) = ("vault-main".parse().unwrap(), agent("other"));
    let roles: Vec<_> = (0..=3).map(role).collect();
    let credentials: Vec<_> = roles.iter().map(|r| credential(&world.task, r)).collect();
    let foreign = credential(&stranger, &roles[0]);
    let mut resources: BTreeMap<String, Resource<'_>> = BTreeMap::from([
        ("task".to_owned(), Resource::Task(&world.task)),
        ("foreign task".to_owned(), Resource::Task(&stranger)),
        ("agent".to_owned(), Resource::Agent(&world.agent)),
        ("other agent".to_owned(), Resource::Agent(&other)),
        ("provider".to_owned(), Resource::Provider(&provider)),
        ("installation".to_owned(), Resource::Installation),
        (
            "foreign credential".to_owned(),
            Resource::Credential {
                credential: &foreign,
                role: Some(&roles[0]),
            },
        ),
        (
            "orphan credential".to_owned(),
            Resource::Credential {
                credential: &credentials[0],
                role: None,
            },
        ),
    ]);
    for (impact, (role, credential)) in roles.iter().zip(&credentials).enumerate() {
        resources.insert(format!("role-{impact}"), Resource::Role(role));
        let role = Some(role);
        resources.insert(
            format!("credential-{impact}"),
            Resource::Credential { credential, role },
        );
    }
    assert!(
        credentials
            .iter()
            .all(|c| c.state == CredentialState::Active)
    );

    let principals = [
        ("admin", Principal::Operator(&world.admin)),
        ("nobody", Principal::Operator(&nobody)),
        (
            "agent",
            Principal::Agent {
                agent: &world.agent,
                bound_to: None,
            },
        ),
    ];
    let mut lines = Vec::new();
    for (who, principal) in principals {
        for action in Action::ALL {
            for (what, resource) in &resources {
                let facts = Facts {
                    principal,
                    ..world.facts(*action, *resource)
                };
                if decide(policies, &facts).is_allowed() {
                    lines.push(format!("{who} {action} {what}"));
                }
            }
        }
    }
    lines.sort();
    lines
}
