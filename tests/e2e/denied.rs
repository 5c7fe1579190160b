//! Decide before acting: a refused request reaches no provider, and the ledger has the reason of
//! the refusal.

use serde_json::Value;
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Broker, Installation, OpenBao, Relay, World, eventually,
    wire::{Certificate, Wire},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{self, History, text};

/// Calls that the broker makes for itself, also without requests.
const OF_ITS_OWN: [&str; 2] = [
    "GET /v1/auth/token/lookup-self",
    "POST /v1/auth/token/renew-self",
];

const MORE_ROLES: &str = r#"
  [[provider.role]]
  name = "admin"
  type = "token"
  policies = ["config"]
  max_ttl = "15m"
  impact = 3

  [[provider.role]]
  name = "forbidden"
  type = "token"
  policies = ["config"]
  max_ttl = "15m"
  impact = 0
"#;

const FORBID: &str = r#"
@id("test.closed")
@reason("this role is closed today")
forbid (
  principal is Taskpass::Agent,
  action == Taskpass::Action::"credential.issue",
  resource == Taskpass::Role::"vault-main/forbidden"
);
"#;

const NO_CERTS: &str = r#"
@id("test.no-certs")
@reason("no certificates for anybody")
forbid (
  principal is Taskpass::Agent,
  action == Taskpass::Action::"task.start",
  resource == Taskpass::Role::"vault-main/cert"
);
"#;

const ISSUE: &str = "/taskpass.v1.CredentialService/IssueCredential";
const START: &str = "/taskpass.v1.TaskService/StartTask";

/// An OpenBao behind a relay.
struct Stage {
    relay: Relay,
    _bao: OpenBao,
    installation: Installation,
}

impl Stage {
    fn new() -> Self {
        let bao = OpenBao::start();
        let relay = Relay::start(bao.address());
        let installation = Installation::new();
        let provider = bao
            .provider("vault-main", MORE_ROLES)
            .replace(bao.address(), &relay.address());
        assert!(provider.contains(&relay.address()));
        installation.configure(&provider);
        installation.policy("closed.cedar", FORBID);
        Self {
            relay,
            _bao: bao,
            installation,
        }
    }

    /// Calls that a client's request caused.
    fn on_demand(&self) -> Vec<String> {
        let all = self.relay.requests();
        all.into_iter()
            .filter(|request| !OF_ITS_OWN.contains(&request.as_str()))
            .collect()
    }
}

fn wire(broker: &Broker<'_>, identity: &std::path::Path) -> Wire {
    Wire::new(broker.address(), Some(&Certificate::load(identity)))
}

fn start(
    agent: &Wire,
    roles: &[&str],
    ttl_seconds: u32,
    max_credentials: u32,
) -> Result<String, Status> {
    let role = |role: &&str| pb::TaskRole {
        role: (*role).to_owned(),
        ..Default::default()
    };
    let request = pb::StartTaskRequest {
        purpose: "to be refused".to_owned(),
        roles: roles.iter().map(role).collect(),
        ttl_seconds,
        max_credentials,
        ..Default::default()
    };
    let started: pb::StartTaskResponse = agent.ask(START, &request)?;
    Ok(started.task.expect("a task").id)
}

fn request(task: &str, role: &str) -> pb::IssueCredentialRequest {
    pb::IssueCredentialRequest {
        task_id: task.to_owned(),
        role: role.to_owned(),
        ..Default::default()
    }
}

fn issue(
    agent: &Wire,
    request: &pb::IssueCredentialRequest,
) -> Result<pb::IssueCredentialResponse, Status> {
    agent.ask(ISSUE, request)
}

/// A request, and how it must be refused.
struct Refusal {
    what: &'static str,
    answer: Status,
    code: Code,
    reason: &'static str,
}

fn refusals(
    broker: &Broker<'_>,
    operator: &Wire,
    agent: &Wire,
    other: &Wire,
    issued: &pb::IssueCredentialResponse,
    full: &str,
) -> Vec<Refusal> {
    let refused = |what, answer: Result<_, Status>, code, reason| {
        let _: &Result<pb::IssueCredentialResponse, _> = &answer;
        Refusal {
            what,
            answer: answer.map(|_| ()).expect_err(what),
            code,
            reason,
        }
    };
    let open = start(
        agent,
        &[
            "vault-main/config",
            "vault-main/cert",
            "vault-main/forbidden",
        ],
        600,
        0,
    )
    .expect("a task");
    let brief = start(agent, &["vault-main/config"], 1, 0).expect("a task");
    eventually("the brief task ends", || {
        (broker.operator().json(&["task", "show", &brief])["state"] == "ended").then_some(())
    });
    let role = |role| request(&open, role);
    let mut bad_scope = role("vault-main/cert");
    bad_scope
        .scope
        .insert("common_name".to_owned(), "*.EVIL".to_owned());
    let mut strange_scope = role("vault-main/config");
    strange_scope
        .scope
        .insert("policies".to_owned(), "root".to_owned());
    let mut again = request(full, "vault-main/config");
    again.idempotency_key = "issued-once".to_owned();
    let long = pb::IssueCredentialRequest {
        ttl_seconds: 86_400,
        ..role("vault-main/config")
    };
    let mut all = vec![
        refused(
            "policy forbids the role",
            issue(agent, &role("vault-main/forbidden")),
            Code::PermissionDenied,
            "DENIED",
        ),
        refused(
            "a role of the provider, not of the task",
            issue(agent, &role("vault-main/static")),
            Code::PermissionDenied,
            "DENIED",
        ),
        refused(
            "a role that does not exist",
            issue(agent, &role("vault-main/nothing")),
            Code::PermissionDenied,
            "DENIED",
        ),
        refused(
            "a scope outside its pattern",
            issue(agent, &bad_scope),
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        refused(
            "a scope the role does not know",
            issue(agent, &strange_scope),
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        refused(
            "a longer life than the role has",
            issue(agent, &long),
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        refused(
            "the task's quota is full",
            issue(agent, &request(full, "vault-main/config")),
            Code::ResourceExhausted,
            "LIMIT_EXCEEDED",
        ),
        refused(
            "the same idempotency key again",
            issue(agent, &again),
            Code::AlreadyExists,
            "ALREADY_ISSUED",
        ),
        refused(
            "the task has ended",
            issue(agent, &request(&brief, "vault-main/config")),
            Code::FailedPrecondition,
            "TASK_ENDED",
        ),
        refused(
            "another agent's task",
            issue(other, &role("vault-main/config")),
            Code::PermissionDenied,
            "DENIED",
        ),
        refused(
            "an operator",
            issue(operator, &role("vault-main/config")),
            Code::PermissionDenied,
            "DENIED",
        ),
    ];
    let renew = pb::RenewCredentialRequest {
        credential_id: issued.credential_id.clone(),
        ttl_seconds: 60,
        ..Default::default()
    };
    for (who, wire) in [
        ("another agent renews", other),
        ("an operator renews", operator),
    ] {
        let answer = wire.ask::<_, pb::RenewCredentialResponse>(
            "/taskpass.v1.CredentialService/RenewCredential",
            &renew,
        );
        all.push(Refusal {
            what: who,
            answer: answer.map(|_| ()).expect_err(who),
            code: Code::PermissionDenied,
            reason: "DENIED",
        });
    }
    let revoke = pb::RevokeCredentialRequest {
        credential_id: issued.credential_id.clone(),
        wait_ms: 0,
    };
    let answer = other.ask::<_, pb::RevokeCredentialResponse>(
        "/taskpass.v1.CredentialService/RevokeCredential",
        &revoke,
    );
    let answer = answer.map(|_| ()).expect_err("another agent revokes");
    all.push(Refusal {
        what: "another agent revokes",
        answer,
        code: Code::PermissionDenied,
        reason: "DENIED",
    });
    all
}

#[test]
fn a_refused_request_makes_no_provider_call_and_its_reason_is_in_the_ledger() {
    let stage = Stage::new();
    let broker = stage.installation.start();
    let operator = wire(&broker, &stage.installation.home().join("operator"));
    let agent = wire(&broker, broker.agent("builder").identity());
    let other = wire(&broker, broker.agent("other").identity());
    let full = start(&agent, &["vault-main/config"], 600, 1).expect("a task");
    let mut once = request(&full, "vault-main/config");
    once.idempotency_key = "issued-once".to_owned();
    let issued = issue(&agent, &once).expect("a credential");
    let before = stage.on_demand();
    assert!(
        before
            .iter()
            .any(|r| r.contains("auth/token/create/taskpass")),
        "the relay sees nothing: {before:?}"
    );

    let refusals = refusals(&broker, &operator, &agent, &other, &issued, &full);
    assert_eq!(
        stage.on_demand(),
        before,
        "a refused request reached the provider"
    );
    for refusal in &refusals {
        let (what, status) = (refusal.what, &refusal.answer);
        assert_eq!(status.code(), refusal.code, "{what}: {status:?}");
        let info = status.get_details_error_info().expect("details");
        assert_eq!(
            (info.domain.as_str(), info.reason.as_str()),
            ("taskpass", refusal.reason),
            "{what}"
        );
        assert_eq!(status.message().lines().count(), 1, "{what}");
    }

    let history = History::verified(&stage.installation, &broker.operator(), "denied.jsonl");
    let set = text(
        history.of_type("broker_started").last().expect("a start"),
        "policy_set",
    )
    .to_owned();
    let decisions: Vec<&Value> = history
        .of_type("decided")
        .map(|event| &event["decision"])
        .collect();
    for decision in &decisions {
        assert_eq!(decision["policy_set"], set.as_str(), "{decision}");
        assert!(
            is_sha256(text(decision, "input_sha256")) && is_sha256(&set),
            "{decision}"
        );
        assert!(decision["duration_us"].is_u64(), "{decision}");
        assert!(
            text(decision, "principal").starts_with("spiffe://acme.test/"),
            "{decision}"
        );
        assert!(
            !decision["policies"]
                .as_array()
                .expect("policies")
                .is_empty(),
            "{decision}"
        );
    }
    for refusal in refusals.iter().filter(|refusal| refusal.reason == "DENIED") {
        let why = refusal
            .answer
            .message()
            .strip_prefix("denied: ")
            .expect("a reason");
        let found = decisions
            .iter()
            .find(|d| d["outcome"] == "deny" && d["reason"] == why);
        let found =
            found.unwrap_or_else(|| panic!("{}: `{why}` is not in the ledger", refusal.what));
        let policies: Vec<&str> = found["policies"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let info = refusal.answer.get_details_error_info().expect("details");
        assert_eq!(
            info.metadata["policies"],
            policies.join(","),
            "{}",
            refusal.what
        );
    }
    let closed = decisions
        .iter()
        .find(|d| d["reason"] == "this role is closed today")
        .expect("the policy's reason");
    assert_eq!(closed["policies"], serde_json::json!(["test.closed"]));
    assert_eq!(closed["action"], "credential.issue");
    assert!(closed["duration_us"].as_u64() > Some(0), "{closed}");
}

/// The answer to a refused agent does not depend on whether the role exists, at each step and with
/// any parameters. Only the ledger has the true reason.
#[test]
fn roles_and_their_parameters_cannot_be_found_out_by_trying() {
    let stage = Stage::new();
    stage.installation.policy("no-certs.cedar", NO_CERTS);
    let broker = stage.installation.start();
    let agent = wire(&broker, broker.agent("builder").identity());
    let before = stage.on_demand();
    let seen = |status: Status, role: &str| {
        let mut info = status.get_details_error_info().expect("details");
        // Each request has an id of its own, which tells nothing of the role.
        info.metadata.remove("request_id").expect("a request id");
        (
            status.code(),
            status.message().replace(role, "ROLE"),
            info.reason,
            info.metadata,
            status.get_details_bad_request().is_none(),
        )
    };
    let pinned = |role: &str, param: &str, value: &str| {
        let request = pb::StartTaskRequest {
            purpose: "to be refused".to_owned(),
            roles: vec![pb::TaskRole {
                role: role.to_owned(),
                scope: [(param.to_owned(), value.to_owned())].into(),
            }],
            ..Default::default()
        };
        let answer = agent.ask::<_, pb::StartTaskResponse>(START, &request);
        seen(answer.expect_err(role), role)
    };
    let nothing = pinned("vault-main/nothing", "common_name", "a.acme.test");
    assert_eq!(nothing.0, Code::PermissionDenied);
    for (role, param, value) in [
        ("vault-main/admin", "x", "y"),
        ("nowhere/admin", "x", "y"),
        ("vault-main/cert", "common_name", "a.acme.test"),
        ("vault-main/cert", "common_name", "*.EVIL"),
        ("vault-main/cert", "no_such", "x"),
    ] {
        assert_eq!(pinned(role, param, value), nothing, "{role} {param}");
    }
    // In a task, with a role that policy closed, the answer must not tell the role's parameters.
    let task = start(&agent, &["vault-main/forbidden"], 600, 0).expect("a task");
    let refusal_of = |role: &str, scope: &[(&str, &str)], ttl_seconds| {
        let scope = scope
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let request = pb::IssueCredentialRequest {
            scope: scope.collect(),
            ttl_seconds,
            ..request(&task, role)
        };
        seen(issue(&agent, &request).expect_err(role), role)
    };
    let plain = refusal_of("vault-main/forbidden", &[], 0);
    assert_eq!(plain.0, Code::PermissionDenied);
    assert_eq!(refusal_of("vault-main/forbidden", &[("no", "x")], 0), plain);
    assert_eq!(refusal_of("vault-main/forbidden", &[], 86_400), plain);
    let nothing = refusal_of("vault-main/nothing", &[], 0);
    for role in ["vault-main/config", "vault-main/admin", "nowhere/nothing"] {
        assert_eq!(refusal_of(role, &[("no", "x")], 86_400), nothing, "{role}");
    }
    assert_eq!(stage.on_demand(), before, "a provider was asked");

    let history = History::verified(&stage.installation, &broker.operator(), "roles.jsonl");
    for (role, reason) in [
        (
            "vault-main/nothing",
            "there is no role `vault-main/nothing`",
        ),
        (
            "vault-main/admin",
            "this policy does not allow roles of impact 2 and 3",
        ),
        ("vault-main/cert", "no certificates for anybody"),
    ] {
        let mut refused = history.of_type("decided").map(|event| &event["decision"]);
        assert!(
            refused.any(|d| d["outcome"] == "deny"
                && d["action"] == "task.start"
                && text(d, "resource").contains(role)
                && d["reason"] == reason),
            "{role}"
        );
    }
}

/// The ledger has each permission directly before the intent that it permits, in the same batch.
#[test]
fn each_intent_follows_its_decision_and_no_provider_call_comes_before_it() {
    let stage = Stage::new();
    let broker = stage.installation.start();
    let agent = broker.agent("builder");
    let task = World::task(
        &agent,
        &["vault-main/config", "vault-main/cert", "vault-main/static"],
    );
    for (role, scope) in [
        ("config", &[][..]),
        ("cert", &["common_name=a.acme.test"]),
        ("static", &[]),
        ("config", &[]),
    ] {
        World::issue(&agent, &task, &format!("vault-main/{role}"), scope);
    }
    support::end(&agent, &task);
    let history = History::verified(&stage.installation, &broker.operator(), "allowed.jsonl");
    let mut intents = 0;
    for (decided, intended) in history.events.iter().zip(history.events.iter().skip(1)) {
        if intended["type"] != "credential_intended" {
            continue;
        }
        intents += 1;
        assert_eq!(decided["type"], "decided", "{intended} has no decision");
        let (decision, credential) = (&decided["decision"], &intended["credential"]);
        assert_eq!(decision["outcome"], "allow");
        assert_eq!(decision["action"], "credential.issue");
        assert_eq!(decision["principal"], "spiffe://acme.test/agent/builder");
        assert!(
            text(decision, "resource").contains(text(credential, "role")),
            "{decision} {credential}"
        );
        assert_eq!(decision["policies"], serde_json::json!(["grant.all"]));
    }
    assert_eq!(intents, 4);
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
