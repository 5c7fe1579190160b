//! Seeds of requests on the wire, and of the events that follow from them.

use prost::Message;
use prost_types::Timestamp;
use taskpass_proto::v1;

use crate::world::{self, World};

use super::{Seeds, numbered};

pub(super) fn all() -> Vec<(&'static str, Seeds)> {
    let world = World::new();
    vec![
        ("wire", messages(&world)),
        ("ledger_entry", numbered(&world.entries)),
    ]
}

/// Each RPC as each kind of caller requests it.
fn messages(world: &World) -> Seeds {
    let mut asked = about_identities(world);
    asked.extend(about_tasks(world));
    asked.extend(about_the_rest(world));
    let mut seeds = Seeds::new();
    for (number, rpc) in (0_u8..).zip(world.rpcs()) {
        let name = rpc.rsplit('/').next().unwrap_or_default();
        let filled = asked.iter().find(|(asked, _)| *asked == name);
        let message = filled.map_or(&[][..], |(_, message)| message);
        for caller in 0..4 {
            let data = [&[number, caller], message].concat();
            seeds.push((format!("{name}-{caller}"), data));
        }
    }
    seeds
}

/// RPCs by name, each with a message that has all fields.
type Asked = Vec<(&'static str, Vec<u8>)>;

fn about_identities(world: &World) -> Asked {
    let csr = world::request();
    let register = v1::RegisterAgentRequest {
        idempotency_key: "key-1".to_owned(),
        name: "tester".to_owned(),
        owner: "ann@acme.test".to_owned(),
        team: "x".to_owned(),
        class: "y".to_owned(),
        labels: [("team".to_owned(), "x".to_owned())].into(),
    };
    let token = v1::CreateJoinTokenRequest {
        agent: "builder".to_owned(),
        ttl_seconds: 60,
        idempotency_key: "key-2".to_owned(),
    };
    let attest = v1::AttestRequest {
        evidence: Some(v1::attest_request::Evidence::JoinToken(
            world.unused_token.clone(),
        )),
        csr: csr.clone(),
        in_place_of: "spiffe://acme.test/agent/builder".to_owned(),
        consistent_with: 0,
    };
    let get = v1::GetAgentRequest {
        name: "builder".to_owned(),
    };
    let (name, reason) = ("builder".to_owned(), "it misbehaves".to_owned());
    let freeze = v1::FreezeAgentRequest {
        name: name.clone(),
        reason: reason.clone(),
        wait_ms: 1,
    };
    let release = v1::ReleaseAgentRequest {
        name: name.clone(),
        reason: reason.clone(),
    };
    let owner = v1::ChangeAgentOwnerRequest {
        name: name.clone(),
        owner: "bob@acme.test".to_owned(),
    };
    let departed = v1::DepartOwnerRequest {
        owner: "ann@acme.test".to_owned(),
        reason,
    };
    let tokens = v1::ListJoinTokensRequest {
        page: page(),
        agent: name,
    };
    let withdraw = v1::WithdrawJoinTokenRequest {
        id: "j06h1wrbrec46m5hj".to_owned(),
    };
    vec![
        ("FreezeAgent", freeze.encode_to_vec()),
        ("ReleaseAgent", release.encode_to_vec()),
        ("ChangeAgentOwner", owner.encode_to_vec()),
        ("DepartOwner", departed.encode_to_vec()),
        ("ListJoinTokens", tokens.encode_to_vec()),
        ("WithdrawJoinToken", withdraw.encode_to_vec()),
        ("Attest", attest.encode_to_vec()),
        (
            "RenewSvid",
            v1::RenewSvidRequest {
                csr,
                consistent_with: 0,
            }
            .encode_to_vec(),
        ),
        ("RegisterAgent", register.encode_to_vec()),
        ("CreateJoinToken", token.encode_to_vec()),
        ("GetAgent", get.encode_to_vec()),
        (
            "ListAgents",
            v1::ListAgentsRequest { page: page() }.encode_to_vec(),
        ),
    ]
}

fn about_tasks(world: &World) -> Asked {
    let (task, credential) = (world.task.clone(), world.credential.clone());
    let role = "fake/reader".to_owned();
    let scope = || [("bucket".to_owned(), "logs".to_owned())].into();
    let start = v1::StartTaskRequest {
        idempotency_key: "key-1".to_owned(),
        purpose: "a purpose".to_owned(),
        requester: "ann".to_owned(),
        roles: vec![v1::TaskRole {
            role: role.clone(),
            scope: scope(),
        }],
        ttl_seconds: 60,
        heartbeat_seconds: 10,
        parent: task.clone(),
        labels: [("team".to_owned(), "x".to_owned())].into(),
        max_credentials: 2,
        csr: world::request(),
    };
    let issue = v1::IssueCredentialRequest {
        idempotency_key: "key-1".to_owned(),
        task_id: task.clone(),
        role,
        scope: scope(),
        ttl_seconds: 60,
    };
    let tasks = v1::ListTasksRequest {
        page: page(),
        agent: "builder".to_owned(),
        state: v1::TaskState::Open.into(),
    };
    let credentials = v1::ListCredentialsRequest {
        page: page(),
        task_id: task.clone(),
        agent: "builder".to_owned(),
        live: true,
    };
    let renew = v1::RenewCredentialRequest {
        credential_id: credential.clone(),
        ttl_seconds: 60,
        idempotency_key: "key-3".to_owned(),
    };
    let revoke = v1::RevokeCredentialRequest {
        credential_id: credential.clone(),
        wait_ms: 1,
    };
    let end = v1::EndTaskRequest {
        task_id: task.clone(),
        cancel: true,
        wait_ms: 1,
    };
    vec![
        ("StartTask", start.encode_to_vec()),
        ("EndTask", end.encode_to_vec()),
        (
            "Heartbeat",
            v1::HeartbeatRequest {
                task_id: task.clone(),
            }
            .encode_to_vec(),
        ),
        (
            "GetTask",
            v1::GetTaskRequest { task_id: task }.encode_to_vec(),
        ),
        ("ListTasks", tasks.encode_to_vec()),
        ("IssueCredential", issue.encode_to_vec()),
        ("RenewCredential", renew.encode_to_vec()),
        ("RevokeCredential", revoke.encode_to_vec()),
        (
            "GetCredential",
            v1::GetCredentialRequest {
                credential_id: credential,
            }
            .encode_to_vec(),
        ),
        ("ListCredentials", credentials.encode_to_vec()),
    ]
}

fn about_the_rest(world: &World) -> Asked {
    let export = v1::ExportLedgerRequest {
        since: Some(Timestamp {
            seconds: 1_795_000_000,
            nanos: 5,
        }),
        task_id: world.task.clone(),
        consistent_with: 3,
    };
    let name = || "fake".to_owned();
    vec![
        (
            "GetCheckpoint",
            v1::GetCheckpointRequest { consistent_with: 3 }.encode_to_vec(),
        ),
        ("ExportLedger", export.encode_to_vec()),
        (
            "ProveEntry",
            v1::ProveEntryRequest { index: 2 }.encode_to_vec(),
        ),
        (
            "GetProvider",
            v1::GetProviderRequest { name: name() }.encode_to_vec(),
        ),
        (
            "CheckProvider",
            v1::CheckProviderRequest { name: name() }.encode_to_vec(),
        ),
    ]
}

fn page() -> Option<v1::PageRequest> {
    Some(v1::PageRequest {
        page_size: 10,
        page_token: "t0123456789abcdef".to_owned(),
    })
}
