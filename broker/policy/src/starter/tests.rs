//! The whole truth table of the starter policy.

use std::collections::BTreeMap;

use taskpass_core::{CredentialState, OperatorName, ProviderName, Task, TaskState};

use super::*;
use crate::{
    Action, Facts, Principal, Resource, Severity, check_files,
    testing::{World, agent, credential, decide, role, task, task_id},
};

#[test]
fn it_passes_its_own_check() {
    let admin: OperatorName = "platform-1".parse().unwrap();
    let file = starter_policy(&StarterOptions { admin: &admin });
    let report = check_files(std::slice::from_ref(&file), None).unwrap();
    assert_eq!(report.to_string(), "");
    assert_eq!(report.policies, 16);
    assert!(file.text.contains("Operator::\"platform-1\"") && !file.text.contains("{admin}"));
}

/// People copy the commented examples: each must be right once uncommented, and warn about nothing.
#[test]
fn the_commented_examples_pass_too() {
    let admin: OperatorName = "admin".parse().unwrap();
    let mut file = starter_policy(&StarterOptions { admin: &admin });
    let mut inside = false;
    let lines: Vec<&str> = file
        .text
        .lines()
        .map(|line| {
            let code = line.strip_prefix("// ").unwrap_or_default();
            inside |= code.starts_with("@id(");
            let shown = if inside { code } else { line };
            inside &= !code.ends_with(';');
            shown
        })
        .collect();
    file.text = lines.join("\n");
    let report = check_files(&[file], None).unwrap();
    assert_eq!(report.to_string(), "");
    assert_eq!(report.policies, 16 + 7);
    assert!(
        !report
            .findings
            .iter()
            .any(|f| f.severity == Severity::Warning)
    );
}

/// Every caller, action and resource: the policy allows exactly the listed requests.
#[test]
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
    assert_eq!(table(&World::new()), allowed);
}

/// A task that is ending gives nothing any more; looking, ending and revoking go on.
#[test]
fn nothing_is_drawn_from_a_task_that_is_not_open() {
    for state in [TaskState::Ending, TaskState::Ended] {
        let mut world = World::new();
        world.task.state = state;
        let table = table(&world);
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
        table(world)
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
    let policies = world.starter();
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
fn table(world: &World) -> Vec<String> {
    let policies = world.starter();
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
                if decide(&policies, &facts).is_allowed() {
                    lines.push(format!("{who} {action} {what}"));
                }
            }
        }
    }
    lines.sort();
    lines
}
