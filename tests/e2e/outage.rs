//! A provider that hangs: no credential is reported as revoked too early, none is forgotten, and
//! other providers are not delayed.

use serde_json::Value;
use taskpass_tests::{Cli, Ministack, Session, World, eventually};

use crate::support::{end, receipt, text, wait_for_state};

const IMPATIENT: &str = "
[provider_calls]
issue_timeout = \"1s\"
revoke_timeout = \"1s\"

[credentials]
revoke_wait_default = \"500ms\"
";

fn attempts(cli: &Cli, credential: &Value) -> u64 {
    let shown = cli.json(&["credential", "show", text(credential, "credential_id")]);
    shown["revocation"]["attempts"].as_u64().unwrap_or(0)
}

#[test]
fn a_hung_provider_is_asked_again_until_it_answers_and_restarts_do_not_reset_that() {
    let world = World::new();
    world.installation.configure(IMPATIENT);
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config", "vault-main/cert"]);
    let token = World::issue(&agent, &task, "vault-main/config", &[]);
    let cert = World::issue(
        &agent,
        &task,
        "vault-main/cert",
        &["common_name=ci.acme.test"],
    );
    world.bao.pause();

    let ended = end(&agent, &task);

    assert_eq!(text(&ended, "state"), "ending");
    for issued in [&token, &cert] {
        let receipt = receipt(&ended, issued);
        assert_eq!(text(receipt, "state"), "revoking");
        assert_ne!(receipt["may_live_until"], Value::Null, "{receipt}");
    }
    eventually("two attempts fail", || {
        (attempts(&agent, &token) >= 2).then_some(())
    });
    let before = attempts(&agent, &token);
    broker.kill();

    let broker = world.start();
    let agent = broker.attested("builder");
    let again = attempts(&agent, &token);
    assert!(
        again >= before,
        "{again} attempts are on record after the restart, {before} before it"
    );
    let shown = agent.json(&["task", "show", &task]);
    assert_eq!(text(receipt(&shown, &cert), "state"), "revoking");
    eventually("it goes on trying", || {
        (attempts(&agent, &token) > before).then_some(())
    });

    world.bao.resume();
    let shown = wait_for_state(&agent, &task, "ended");
    for issued in [&token, &cert] {
        assert_eq!(text(receipt(&shown, issued), "state"), "revoked_verified");
    }
    assert!(world.bao.task_tokens().is_empty());
    assert!(world.bao.leases("pki/issue/ci").is_empty());
}

#[test]
fn a_hung_provider_delays_no_credentials_of_another_provider() {
    let world = World::new();
    let aws = Ministack::start();
    world.installation.configure(&aws.provider("aws-prod"));
    world
        .installation
        .configure("[credentials]\nrevoke_wait_default = \"500ms\"\n");
    let broker = world.start();
    let agent = broker.agent("builder");
    // More than there are permits for revoking at one provider.
    let stuck: Vec<String> = (0..12)
        .map(|_| {
            let task = World::task(&agent, &["vault-main/config"]);
            World::issue(&agent, &task, "vault-main/config", &[]);
            task
        })
        .collect();
    world.bao.pause();
    for task in &stuck {
        assert_eq!(text(&end(&agent, task), "state"), "ending");
    }

    let task = World::task(&agent, &["aws-prod/reader"]);
    let issued = World::issue(&agent, &task, "aws-prod/reader", &["bucket=artifacts"]);
    let session = Session::from(&issued);
    assert_eq!(
        aws.read(&session, "artifacts", "greeting"),
        Ok("hello from s3".to_owned())
    );
    end(&agent, &task);
    let shown = wait_for_state(&agent, &task, "ended");
    assert_eq!(text(receipt(&shown, &issued), "state"), "revoked_verified");
    assert!(aws.read(&session, "artifacts", "greeting").is_err());

    for task in &stuck {
        assert_eq!(
            text(&agent.json(&["task", "show", task]), "state"),
            "ending"
        );
    }
    world.bao.resume();
    for task in &stuck {
        wait_for_state(&agent, task, "ended");
    }
    assert!(world.bao.task_tokens().is_empty());
}

#[test]
fn issuing_from_a_hung_provider_fails_with_a_hint_and_leaves_nothing_behind() {
    let world = World::new();
    world.installation.configure(IMPATIENT);
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    world.bao.pause();
    let (code, complaint) = agent.refused(&[
        "credential",
        "issue",
        "--task",
        &task,
        "--role",
        "vault-main/config",
    ]);
    assert_eq!(code, 5, "{complaint}");
    world.bao.resume();
    end(&agent, &task);
    let shown = wait_for_state(&agent, &task, "ended");
    let receipts = shown["receipts"].as_array().expect("receipts");
    assert!(receipts.len() >= 2, "{shown}");
    for receipt in receipts {
        assert!(
            ["revoked_verified", "abandoned"].contains(&text(receipt, "state")),
            "{receipt}"
        );
    }
}

#[test]
fn a_role_that_is_given_a_pause_stops_no_other_role_and_is_shown() {
    let world = World::new();
    world.installation.configure(
        "[provider_calls]\nissue_timeout = \"1s\"\nbreaker_failures = 1\nbreaker_pause = \"5m\"\n",
    );
    let broker = world.start();
    let agent = broker.agent("builder");
    let issue = || {
        let task = World::task(&agent, &["vault-main/config"]);
        let role = ["--task", &task, "--role", "vault-main/config"];
        agent.refused(&[&["credential", "issue"], &role[..]].concat())
    };
    world.bao.pause();
    issue();
    let (code, complaint) = issue();
    assert_eq!(code, 5, "{complaint}");
    for words in ["given a pause", "operators find why", "ask an operator"] {
        assert!(complaint.contains(words), "{words}: {complaint}");
    }
    world.bao.resume();

    // The other roles of the provider work, and operators see which one does not.
    let task = World::task(&agent, &["vault-main/cert"]);
    World::issue(
        &agent,
        &task,
        "vault-main/cert",
        &["common_name=ci.acme.test"],
    );
    let operator = broker.operator();
    let listed = operator.json(&["provider", "list"]);
    assert_eq!(listed[0]["circuit"], "closed");
    assert_eq!(listed[0]["paused_roles"][0], "vault-main/config");
    let checked = operator.run(&["provider", "check", "vault-main"]).stdout;
    let warning = "role `vault-main/config`: calls for it failed";
    assert!(checked.contains(warning), "{checked}");
    let config = world.installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let doctor = world.installation.daemon(&["doctor", "--config", config]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("[warn] breaker vault-main: "), "{said}");
}
