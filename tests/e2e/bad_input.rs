//! Bad input, table by table: every field of every request that takes one, certificate requests,
//! join tokens. Each answer names the field and says on one line why it is refused. Afterwards the
//! broker serves as before.

mod fields;
mod programs;

use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Broker, Installation, World,
    wire::{Certificate, KeyAndCsr, Wire},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use fields::{Row, of_credentials, of_csrs, of_listings, of_operators, of_start_task};

use crate::support::History;

/// The fault in an answer, if it has one.
fn complaint(row: &Row, answer: Result<(), Status>) -> Option<String> {
    let Err(status) = answer else {
        return Some(format!("{}: it was accepted", row.what));
    };
    let violations = status
        .get_details_bad_request()
        .map(|b| b.field_violations)
        .unwrap_or_default();
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    let reason = status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default();
    let right = status.code() == Code::InvalidArgument
        && reason == "INVALID_ARGUMENT"
        && fields == [row.field]
        && status.message().contains(row.part)
        && is_one_line(status.message());
    (!right).then(|| {
        format!(
            "{}: {:?} {reason} {fields:?} `{}`",
            row.what,
            status.code(),
            status.message()
        )
    })
}

pub(crate) fn is_one_line(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= 400 && !text.chars().any(char::is_control)
}

fn serves(installation: &Installation, broker: &Broker<'_>) {
    let agent = broker.agent("still-served");
    let task = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    History::verified(installation, &broker.operator(), "after.jsonl");
}

#[test]
fn each_bad_field_is_named_and_explained() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/cert"]);
    let agent = Wire::new(broker.address(), Some(&Certificate::load(agent.identity())));
    let operator = Certificate::load(&world.installation.home().join("operator"));
    let operator = Wire::new(broker.address(), Some(&operator));
    let mut complaints = Vec::new();
    let mut check = |wire: &Wire, row: &Row| {
        let answer = wire.call(&row.method, row.message.clone()).map(|_| ());
        complaints.extend(complaint(row, answer));
    };
    let for_agents = [of_start_task(), of_credentials(&task), of_csrs()];
    for_agents
        .iter()
        .flatten()
        .for_each(|row| check(&agent, row));
    for row in of_listings().iter().chain(&of_operators()) {
        check(&operator, row);
    }
    assert!(
        complaints.is_empty(),
        "{} wrong answers:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
    serves(&world.installation, &broker);
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let world = World::new();
    let broker = world.start();
    let operator = Certificate::load(&world.installation.home().join("operator"));
    let operator = Wire::new(broker.address(), Some(&operator));
    for garbage in [
        &b"\xff\xff\xff\xff"[..],
        b"\x0a\xff\x01",
        b"\x0a\x02\xff\xfe",
    ] {
        for method in [
            "TaskService/GetTask",
            "TaskService/StartTask",
            "AgentService/GetAgent",
            "CredentialService/IssueCredential",
        ] {
            let status = operator
                .call(&format!("/taskpass.v1.{method}"), garbage.to_vec())
                .expect_err(method);
            assert!(
                matches!(status.code(), Code::Internal | Code::InvalidArgument),
                "{method}: {status:?}"
            );
        }
    }
    let unknown = operator
        .call("/taskpass.v1.TaskService/DropTables", Vec::new())
        .expect_err("no such method");
    assert_eq!(unknown.code(), Code::Unimplemented);
    let unknown = operator
        .call("/taskpass.v9.Nothing/At", Vec::new())
        .expect_err("no such service");
    assert_eq!(unknown.code(), Code::Unimplemented);
    serves(&world.installation, &broker);
}

/// Every malformed or wrong token gets the same answer.
#[test]
fn bad_join_tokens_are_refused_without_saying_which_part_is_wrong() {
    let world = World::new();
    let broker = world.start();
    let operator = broker.operator();
    operator.json(&["agent", "register", "builder", "--owner", "alice@acme.test"]);
    let good = operator.json(&["agent", "token", "builder"])["join_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let unauthenticated = Wire::new(broker.address(), None);
    let attest = |token: &str| {
        let request = pb::AttestRequest {
            evidence: Some(pb::attest_request::Evidence::JoinToken(token.to_owned())),
            csr: KeyAndCsr::new().csr,
            ..Default::default()
        };
        unauthenticated
            .ask::<_, pb::AttestResponse>("/taskpass.v1.IdentityService/Attest", &request)
    };
    let parts: Vec<&str> = good.split('.').collect();
    let [_, id, secret, pin] = parts[..] else {
        panic!("a token of four parts")
    };
    let other_id = format!(
        "{}{}",
        &id[..id.len() - 1],
        if id.ends_with('0') { '1' } else { '0' }
    );
    let other_secret = format!(
        "{}{}",
        if secret.starts_with('A') { 'B' } else { 'A' },
        &secret[1..]
    );
    for bad in [
        "",
        "tp1",
        "tp1...",
        "hunter2",
        &good[..good.len() / 2],
        &format!("tp2.{id}.{secret}.{pin}"),
        &"x".repeat(300),
        &good.replace('.', ":"),
    ] {
        let status = attest(bad).expect_err(bad);
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}: {status:?}");
        assert!(
            status.message().contains("taskpass agent token"),
            "{status:?}"
        );
        assert!(
            bad.len() < 5 || !status.message().contains(bad),
            "the token is in the answer: {status:?}"
        );
    }
    for bad in [
        format!("tp1.{other_id}.{secret}.{pin}"),
        format!("tp1.{id}.{other_secret}.{pin}"),
        format!("tp1.{id}..{pin}"),
    ] {
        let status = attest(&bad).expect_err(&bad);
        assert_eq!(status.code(), Code::Unauthenticated, "{bad}: {status:?}");
        assert!(
            status
                .message()
                .contains("unknown, used, withdrawn or expired"),
            "{status:?}"
        );
    }
    attest(&good).expect("the good one is not used up by bad ones");
    assert_eq!(
        attest(&good).expect_err("used").code(),
        Code::Unauthenticated
    );
    for secret in [secret, other_secret.as_str()] {
        assert!(!broker.log().contains(secret), "a join token is in the log");
    }
    serves(&world.installation, &broker);
}
