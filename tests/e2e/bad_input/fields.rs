//! The tables: a request for each field that takes input, with only that field wrong.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;
use prost_types::Timestamp;
use taskpass_proto::v1 as pb;
use taskpass_tests::wire::KeyAndCsr;

/// A message with one wrong field.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) method: String,
    pub(super) message: Vec<u8>,
    pub(super) field: &'static str,
    pub(super) part: &'static str,
}

fn row(method: &str, message: &impl Message, field: &'static str, part: &'static str) -> Row {
    Row {
        what: format!("{method} {field} ({part})"),
        method: format!("/taskpass.v1.{method}"),
        message: message.encode_to_vec(),
        field,
        part,
    }
}

fn pairs(key: &str, value: &str) -> std::collections::HashMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn start(change: impl FnOnce(&mut pb::StartTaskRequest)) -> pb::StartTaskRequest {
    let mut request = pb::StartTaskRequest {
        purpose: "a test".to_owned(),
        roles: vec![role("vault-main/config")],
        ..Default::default()
    };
    change(&mut request);
    request
}

fn role(name: &str) -> pb::TaskRole {
    pb::TaskRole {
        role: name.to_owned(),
        ..Default::default()
    }
}

pub(super) fn of_start_task() -> Vec<Row> {
    let bad = |change: fn(&mut pb::StartTaskRequest), field, part| {
        row("TaskService/StartTask", &start(change), field, part)
    };
    vec![
        bad(|r| r.purpose.clear(), "purpose", "1 to 512 bytes"),
        bad(|r| r.purpose = "x".repeat(513), "purpose", "512"),
        bad(
            |r| r.purpose = "two\nlines".to_owned(),
            "purpose",
            "control character",
        ),
        // Shown from right to left from the third character on.
        bad(
            |r| r.purpose = "rm\u{202e}txt.exe".to_owned(),
            "purpose",
            "character 3 of `rm?txt.exe` is invisible",
        ),
        bad(
            |r| r.requester = "tab\there".to_owned(),
            "requester",
            "control character",
        ),
        bad(
            |r| r.roles[0].role = "no-slash".to_owned(),
            "roles.role",
            "`no-slash`",
        ),
        bad(
            |r| r.roles[0].role = "VAULT/config".to_owned(),
            "roles.role",
            "`VAULT/config`",
        ),
        bad(
            |r| r.roles[0].scope = pairs("Not-A-Name", "x"),
            "roles.scope",
            "`Not-A-Name`",
        ),
        bad(
            |r| r.roles[0].scope = pairs("policies", "root"),
            "scope.policies",
            "`policies`",
        ),
        bad(
            |r| r.roles.push(role("vault-main/config")),
            "roles",
            "twice",
        ),
        bad(
            |r| r.ttl_seconds = 8 * 3600 + 1,
            "ttl_seconds",
            "at most 8h",
        ),
        bad(|r| r.ttl_seconds = u32::MAX, "ttl_seconds", ""),
        bad(
            |r| r.heartbeat_seconds = 1,
            "heartbeat_seconds",
            "shortest heartbeat here is 2s",
        ),
        bad(|r| r.heartbeat_seconds = u32::MAX, "heartbeat_seconds", ""),
        bad(|r| r.parent = "../root".to_owned(), "parent", "`../root`"),
        bad(
            |r| r.labels = pairs("UPPER CASE", "x"),
            "labels",
            "`UPPER CASE`",
        ),
        bad(
            |r| r.labels = pairs("k", "line\nbreak"),
            "labels",
            "control character",
        ),
        bad(
            |r| r.labels = pairs("k", "zero\u{200b}width"),
            "labels",
            "character 5",
        ),
        bad(
            |r| r.labels = (0..17).map(|i| (format!("k{i}"), "v".to_owned())).collect(),
            "labels",
            "16",
        ),
        bad(
            |r| r.max_credentials = 101,
            "max_credentials",
            "at most 100",
        ),
        bad(
            |r| r.idempotency_key = "with space".to_owned(),
            "idempotency_key",
            "printable ASCII",
        ),
        bad(
            |r| r.idempotency_key = "k".repeat(129),
            "idempotency_key",
            "1 to 128",
        ),
    ]
}

pub(super) fn of_credentials(task: &str) -> Vec<Row> {
    let issue = |change: fn(&mut pb::IssueCredentialRequest), field, part| {
        let mut request = pb::IssueCredentialRequest {
            task_id: task.to_owned(),
            role: "vault-main/cert".to_owned(),
            scope: pairs("common_name", "good.acme.test"),
            ..Default::default()
        };
        change(&mut request);
        row("CredentialService/IssueCredential", &request, field, part)
    };
    let id = "c'; DROP TABLE".to_owned();
    vec![
        issue(|r| r.task_id.clear(), "task_id", "is not a task"),
        issue(|r| r.task_id = "t0".to_owned(), "task_id", "`t0`"),
        issue(|r| r.role = "vault-main".to_owned(), "role", "`vault-main`"),
        issue(
            |r| r.scope = pairs("common_name", "*.acme.test"),
            "scope.common_name",
            "`common_name`",
        ),
        issue(
            |r| r.scope = pairs("common_name", &"a".repeat(513)),
            "scope",
            "512",
        ),
        issue(|r| r.scope = pairs("UP", "x"), "scope.UP", "`UP`"),
        issue(
            |r| r.scope = pairs("unknown", "x"),
            "scope.unknown",
            "`unknown`",
        ),
        issue(
            |r| r.scope = (0..33).map(|i| (format!("p{i}"), String::new())).collect(),
            "scope",
            "32",
        ),
        issue(|r| r.ttl_seconds = 901, "ttl_seconds", "at most 15m"),
        issue(
            |r| r.idempotency_key = "\u{fc}".to_owned(),
            "idempotency_key",
            "printable ASCII",
        ),
        row(
            "CredentialService/RenewCredential",
            &pb::RenewCredentialRequest {
                credential_id: id.clone(),
                ..Default::default()
            },
            "credential_id",
            "is not a credential",
        ),
        row(
            "CredentialService/RevokeCredential",
            &pb::RevokeCredentialRequest {
                credential_id: id.clone(),
                wait_ms: 0,
            },
            "credential_id",
            "is not a credential",
        ),
        row(
            "CredentialService/GetCredential",
            &pb::GetCredentialRequest {
                credential_id: id.clone(),
            },
            "credential_id",
            "is not a credential",
        ),
        row(
            "TaskService/EndTask",
            &pb::EndTaskRequest {
                task_id: id.clone(),
                ..Default::default()
            },
            "task_id",
            "is not a task",
        ),
        row(
            "TaskService/Heartbeat",
            &pb::HeartbeatRequest {
                task_id: id.clone(),
            },
            "task_id",
            "is not a task",
        ),
        row(
            "TaskService/GetTask",
            &pb::GetTaskRequest { task_id: id },
            "task_id",
            "is not a task",
        ),
    ]
}

pub(super) fn of_listings() -> Vec<Row> {
    let pages = [
        (
            pb::PageRequest {
                page_size: 1001,
                ..Default::default()
            },
            "page.page_size",
            "at most 1000",
        ),
        (
            pb::PageRequest {
                page_token: "never given out".to_owned(),
                ..Default::default()
            },
            "page.page_token",
            "start again without it",
        ),
        (
            pb::PageRequest {
                page_token: "x".repeat(5000),
                ..Default::default()
            },
            "page.page_token",
            "start again without it",
        ),
    ];
    let mut rows = Vec::new();
    for (page, field, part) in pages {
        let page = Some(page);
        rows.push(row(
            "TaskService/ListTasks",
            &pb::ListTasksRequest {
                page: page.clone(),
                ..Default::default()
            },
            field,
            part,
        ));
        rows.push(row(
            "CredentialService/ListCredentials",
            &pb::ListCredentialsRequest {
                page: page.clone(),
                ..Default::default()
            },
            field,
            part,
        ));
        rows.push(row(
            "AgentService/ListAgents",
            &pb::ListAgentsRequest { page },
            field,
            part,
        ));
    }
    rows.push(row(
        "TaskService/ListTasks",
        &pb::ListTasksRequest {
            state: 42,
            ..Default::default()
        },
        "state",
        "open, ending and ended",
    ));
    rows.push(row(
        "TaskService/ListTasks",
        &pb::ListTasksRequest {
            agent: "?".to_owned(),
            ..Default::default()
        },
        "agent",
        "`?`",
    ));
    rows.push(row(
        "CredentialService/ListCredentials",
        &pb::ListCredentialsRequest {
            task_id: "?".to_owned(),
            ..Default::default()
        },
        "task_id",
        "is not a task",
    ));
    rows.push(row(
        "CredentialService/ListCredentials",
        &pb::ListCredentialsRequest {
            agent: "?".to_owned(),
            ..Default::default()
        },
        "agent",
        "`?`",
    ));
    rows
}

pub(super) fn of_operators() -> Vec<Row> {
    let register = |change: fn(&mut pb::RegisterAgentRequest), field, part| {
        let mut request = pb::RegisterAgentRequest {
            name: "fine".to_owned(),
            owner: "alice@acme.test".to_owned(),
            ..Default::default()
        };
        change(&mut request);
        row("AgentService/RegisterAgent", &request, field, part)
    };
    let stop = |name: &str, reason: &str, field, part| {
        let (name, reason) = (name.to_owned(), reason.to_owned());
        let freeze = pb::FreezeAgentRequest {
            name,
            reason,
            wait_ms: 1,
        };
        row("AgentService/FreezeAgent", &freeze, field, part)
    };
    let export = |since: Option<Timestamp>, task_id: &str, field, part| {
        let request = pb::ExportLedgerRequest {
            since,
            task_id: task_id.to_owned(),
            consistent_with: 0,
        };
        row("LedgerService/ExportLedger", &request, field, part)
    };
    let token = |agent: &str, ttl_seconds, field, part| {
        row(
            "AgentService/CreateJoinToken",
            &pb::CreateJoinTokenRequest {
                agent: agent.to_owned(),
                ttl_seconds,
                ..Default::default()
            },
            field,
            part,
        )
    };
    let attest = |evidence, field, part| {
        let request = pb::AttestRequest {
            evidence,
            csr: KeyAndCsr::new().csr,
            ..Default::default()
        };
        row("IdentityService/Attest", &request, field, part)
    };
    let not_a_token = pb::attest_request::Evidence::JoinToken("hunter2".to_owned());
    vec![
        attest(None, "evidence", "`join_token`"),
        attest(Some(not_a_token), "join_token", "`taskpass agent token`"),
        register(|r| r.name.clear(), "name", ""),
        register(|r| r.name = "Upper".to_owned(), "name", "`Upper`"),
        register(|r| r.name = "../../etc".to_owned(), "name", "`../../etc`"),
        register(|r| r.name = "a".repeat(64), "name", "63"),
        register(|r| r.owner.clear(), "owner", "e-mail"),
        register(|r| r.owner = "nobody".to_owned(), "owner", "`nobody`"),
        register(|r| r.team = "A B".to_owned(), "team", "`A B`"),
        register(|r| r.class = "\u{1b}[31m".to_owned(), "class", ""),
        register(|r| r.labels = pairs("", "x"), "labels", ""),
        register(
            |r| r.idempotency_key = " ".to_owned(),
            "idempotency_key",
            "printable ASCII",
        ),
        stop("No Body", "why", "name", "`No Body`"),
        stop("builder", "", "reason", ""),
        stop("builder", &"x".repeat(513), "reason", "512"),
        row(
            "AgentService/WithdrawJoinToken",
            &pb::WithdrawJoinTokenRequest {
                id: "hunter2".to_owned(),
            },
            "id",
            "is not a join token",
        ),
        token("No Body", 0, "agent", "`No Body`"),
        token("builder", 86_401, "ttl_seconds", "at most 24h"),
        export(None, "task", "task_id", "is not a task"),
        export(
            Some(Timestamp {
                seconds: i64::MAX,
                nanos: 0,
            }),
            "",
            "since",
            "",
        ),
        export(
            Some(Timestamp {
                seconds: 0,
                nanos: -1,
            }),
            "",
            "since",
            "",
        ),
        export(
            Some(Timestamp {
                seconds: 0,
                nanos: 2_000_000_000,
            }),
            "",
            "since",
            "",
        ),
        row(
            "LedgerService/ExportLedger",
            &pb::ExportLedgerRequest {
                consistent_with: u64::MAX,
                ..Default::default()
            },
            "consistent_with",
            "",
        ),
        row(
            "LedgerService/GetCheckpoint",
            &pb::GetCheckpointRequest {
                consistent_with: u64::MAX,
            },
            "consistent_with",
            "",
        ),
        row(
            "AgentService/GetAgent",
            &pb::GetAgentRequest {
                name: "?".to_owned(),
            },
            "name",
            "`?`",
        ),
        row(
            "ProviderService/GetProvider",
            &pb::GetProviderRequest {
                name: "?".to_owned(),
            },
            "name",
            "`?`",
        ),
        row(
            "ProviderService/CheckProvider",
            &pb::CheckProviderRequest {
                name: "?".to_owned(),
            },
            "name",
            "`?`",
        ),
    ]
}

/// A request for an RSA-2048 key, which the broker does not sign.
const RSA: &str = "\
MIICRTCCAS0CAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBALR7WY0p6/C/rPzpC8FJWo6Ihg563E6idC/q0sQA1CaDyzeJaq\
/uq70DXNadjx/6nEabsW5Xlyd+GoYzo9rS2m2fZB7N8GTObWWdYwsqtdSnNPmhUrxPB7IgANhW91m1XEmCcCmOW3VGcgzCBWYV2zohSZzKKMnh\
N9gul6w5A6So1Gf9Fa3S51xbUhCy/XyIFdVbunBjSJI30W+fY/QeaJVJ9akK9Wb5eD9Z4i+QXebEhXS8Mz/g9Nn/0j/uCB6heTpz4REfoT/DsQ\
x/RDAuD4TfXM7/wwnXW4G8PHqw1nPC8vYM9ilUTR1U1ejVze4mBE65A8iNNjo6ZLJuZKuoVBECAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4IBAQBT\
bUybpPfh8YlRtSJ+eeNo1O2+RZO3KlkIOtM7n9m6YreWy6E4aa8/9A14ZgqqNBhOrkZMOeEVuCYr6BwmgWmmpsDH/pxDzULiZaHZea1nOaGirW\
NDf72d/AZyfGYd6bTUxD075PZ6ulSXamyUuexdk1wMFYXCJEVfY6Y6OD6yrTbFb2a54b9bHOWR8NogaN4fYVa26YdmqgAmGyMeMjjmbDlhpxVx\
DDyKos+O1bzA1H6YTymtYgpT8xMafNh5xVX/uREciNMlLpXsExuV6yFyOwcMOpMiRVeQDz45n9HYvmBwR3rK3Sezai0/KDml5H8BzogcAr/Aw+\
dP3C+vdsDo";

fn csrs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = KeyAndCsr::new().csr;
    let mut forged = good.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    let mut longer = good.clone();
    longer.extend([0, 0]);
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let p384 = rcgen::CertificateParams::default()
        .serialize_request(&p384)
        .expect("a request");
    vec![
        (
            "garbage",
            b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(),
            "",
        ),
        ("half of one", good[..good.len() / 2].to_vec(), ""),
        ("a wrong signature", forged, "signature"),
        ("bytes behind it", longer, ""),
        ("P-384", p384.der().to_vec(), "P-256"),
        (
            "RSA",
            STANDARD.decode(RSA.replace('\n', "")).expect("base64"),
            "P-256",
        ),
        ("9 KiB", vec![0x30; 9 * 1024], "8"),
    ]
}

pub(super) fn of_csrs() -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, csr, part) in csrs() {
        let renew = pb::RenewSvidRequest {
            csr: csr.clone(),
            consistent_with: 0,
        };
        rows.push(Row {
            what: format!("renewing with {what}"),
            ..row("IdentityService/RenewSvid", &renew, "csr", part)
        });
        let task = start(|r| r.csr = csr);
        rows.push(Row {
            what: format!("a task with {what}"),
            ..row("TaskService/StartTask", &task, "csr", part)
        });
    }
    rows.push(row(
        "IdentityService/RenewSvid",
        &pb::RenewSvidRequest {
            csr: Vec::new(),
            consistent_with: 0,
        },
        "csr",
        "",
    ));
    rows
}
