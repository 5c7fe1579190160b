//! The main job: credentials work while their task is open, and are dead when it has ended.

use serde_json::Value;
use taskpass_tests::{OpenBao, World};

use crate::support::{CERT_PATH, assert_not_shortened, end, receipt, text, wait_for_state};

const COMMON_NAME: &str = "common_name=ci.acme.test";

#[test]
fn credentials_work_until_their_task_ends_and_not_a_moment_longer() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config", "vault-main/cert"]);
    let token = World::issue(&agent, &task, "vault-main/config", &[]);
    let cert = World::issue(&agent, &task, "vault-main/cert", &[COMMON_NAME]);
    assert_eq!(text(&token, "revocation_class"), "inherits");
    assert_eq!(text(&cert, "revocation_class"), "inherits");
    let (secret, serial) = (
        text(&token["data"], "token"),
        text(&cert["data"], "serial_number"),
    );
    assert!(world.bao.token_works(secret));
    assert!(!world.bao.certificate_is_revoked(serial));
    assert_eq!(world.bao.leases(CERT_PATH).len(), 1);
    assert!(!world.bao.task_tokens().is_empty());

    let ended = end(&agent, &task);

    assert_eq!(
        (text(&ended, "state"), text(&ended, "end_cause")),
        ("ended", "completed")
    );
    for issued in [&token, &cert] {
        let receipt = receipt(&ended, issued);
        assert_eq!(text(receipt, "state"), "revoked_verified", "{receipt}");
        assert_eq!(receipt["may_live_until"], Value::Null);
    }
    assert!(!world.bao.token_works(secret));
    assert!(world.bao.certificate_is_revoked(serial));
    assert_nothing_is_left(&world.bao);
    let (_, complaint) = agent.refused(&[
        "credential",
        "issue",
        "--task",
        &task,
        "--role",
        "vault-main/config",
    ]);
    assert!(complaint.contains("has ended"), "{complaint}");
}

#[test]
fn a_static_secret_is_never_called_revoked() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/static"]);
    let secret = World::issue(&agent, &task, "vault-main/static", &[]);
    assert_eq!(text(&secret, "revocation_class"), "none");
    assert_eq!(text(&secret["data"], "answer"), "42");

    let ended = end(&agent, &task);

    let receipt = receipt(&ended, &secret);
    assert_eq!(text(receipt, "state"), "revoked_unverified");
    assert_eq!(text(receipt, "revocation_class"), "none");
    assert!(
        text(receipt, "may_live_until") > text(&secret, "expires_at"),
        "{receipt}"
    );
    assert_nothing_is_left(&world.bao);
}

#[test]
fn one_credential_can_be_revoked_while_its_task_goes_on() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config", "vault-main/cert"]);
    let first = World::issue(&agent, &task, "vault-main/config", &[]);
    let second = World::issue(&agent, &task, "vault-main/config", &[]);
    let cert = World::issue(&agent, &task, "vault-main/cert", &[COMMON_NAME]);

    let receipt = agent.json(&["credential", "revoke", text(&first, "credential_id")]);
    let of_cert = agent.json(&["credential", "revoke", text(&cert, "credential_id")]);

    assert_eq!(text(&receipt, "state"), "revoked_verified");
    assert_eq!(text(&of_cert, "state"), "revoked_verified");
    assert!(!world.bao.token_works(text(&first["data"], "token")));
    assert!(world.bao.leases(CERT_PATH).is_empty());
    assert!(world.bao.token_works(text(&second["data"], "token")));
    World::issue(&agent, &task, "vault-main/cert", &[COMMON_NAME]);
    end(&agent, &task);
    assert_nothing_is_left(&world.bao);
}

#[test]
fn a_restart_keeps_credentials_alive_and_the_end_of_the_task_still_revokes_all_of_them() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config", "vault-main/cert"]);
    let before = World::issue(&agent, &task, "vault-main/config", &[]);
    let cert_before = World::issue(&agent, &task, "vault-main/cert", &[COMMON_NAME]);
    broker.stop();
    let broker = world.start();
    let agent = broker.attested("builder");
    assert!(world.bao.token_works(text(&before["data"], "token")));
    let renewed = agent.json(&["credential", "renew", text(&before, "credential_id")]);
    assert_not_shortened(&before, &renewed);
    let after = World::issue(&agent, &task, "vault-main/config", &[]);
    let cert_after = World::issue(&agent, &task, "vault-main/cert", &[COMMON_NAME]);
    assert_eq!(world.bao.leases(CERT_PATH).len(), 2);

    let ended = end(&agent, &task);

    for issued in [&before, &cert_before, &after, &cert_after] {
        assert_eq!(text(receipt(&ended, issued), "state"), "revoked_verified");
    }
    assert!(!world.bao.token_works(text(&before["data"], "token")));
    assert_nothing_is_left(&world.bao);
}

#[test]
fn a_task_that_was_told_to_end_just_before_the_broker_was_stopped_is_revoked_after_it() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let token = World::issue(&agent, &task, "vault-main/config", &[]);
    world.bao.pause();
    let mut ending = agent
        .command(&["task", "end", &task])
        .spawn()
        .expect("taskpass starts");
    wait_for_state(&agent, &task, "ending");
    broker.kill();
    world.bao.resume();
    ending.wait().expect("taskpass ends");
    let broker = world.start();
    let agent = broker.attested("builder");
    wait_for_state(&agent, &task, "ended");
    assert!(!world.bao.token_works(text(&token["data"], "token")));
    assert_nothing_is_left(&world.bao);
}

#[test]
fn the_brokers_own_token_can_be_replaced_without_ending_anything() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config", "vault-main/cert"]);
    let token = World::issue(&agent, &task, "vault-main/config", &[]);
    World::issue(&agent, &task, "vault-main/cert", &[COMMON_NAME]);

    world.bao.rotate_broker_token();

    assert!(world.bao.token_works(text(&token["data"], "token")));
    assert_eq!(world.bao.leases(CERT_PATH).len(), 1);
    agent.json(&["credential", "renew", text(&token, "credential_id")]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    let ended = end(&agent, &task);
    let receipts = ended["receipts"].as_array().expect("receipts");
    assert_eq!(receipts.len(), 3);
    assert!(
        receipts
            .iter()
            .all(|r| text(r, "state") == "revoked_verified"),
        "{ended}"
    );
    assert_nothing_is_left(&world.bao);
}

#[test]
fn a_denied_request_makes_no_call_to_the_provider() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let (code, complaint) = agent.refused(&[
        "credential",
        "issue",
        "--task",
        &task,
        "--role",
        "vault-main/cert",
    ]);
    assert_eq!(code, 3, "{complaint}");
    assert_nothing_is_left(&world.bao);
    let other = broker.agent("other");
    let (code, complaint) = other.refused(&[
        "credential",
        "issue",
        "--task",
        &task,
        "--role",
        "vault-main/config",
    ]);
    assert!(
        code == 3 || complaint.contains("does not exist"),
        "{complaint}"
    );
    assert_nothing_is_left(&world.bao);
}

fn assert_nothing_is_left(bao: &OpenBao) {
    assert_eq!(bao.leases(CERT_PATH), Vec::<String>::new());
    assert_eq!(bao.task_tokens(), Vec::<String>::new());
}
