//! Which agents may attest, and for how long an identity counts: join tokens work once, a
//! certificate counts until its successor is used, and a task's identity counts while the task is
//! open.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair};
use taskpass_ca::PublicKey;
use taskpass_client::{Client, ClientConfig};
use taskpass_core::{Clock, SystemClock, Timestamp};
use taskpass_proto::v1::{
    RenewSvidRequest, StartTaskRequest, TaskRole, X509Svid,
    identity_service_client::IdentityServiceClient, task_service_client::TaskServiceClient,
};
use taskpass_tests::{Broker, Cli, Installation, World, eventually};

use crate::{
    rpc_matrix::authority,
    support::{client, runtime, text, wait_for_state},
};

const CONFIG: &str = "vault-main/config";
const RACERS: usize = 64;

/// A new key and a certificate request for it.
fn key_and_request() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request");
    let der = request.der().to_vec();
    (key, der)
}

/// Stores an identity as the programs expect it, with the bundle of `like`.
fn store(directory: &Path, key: &KeyPair, svid: &X509Svid, like: &Cli) {
    fs::create_dir(directory).expect("a new directory");
    let pem = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|l| std::str::from_utf8(l).expect("ASCII"))
            .collect();
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines.join("\n")
        )
    };
    let chain: String = svid.chain.iter().map(pem).collect();
    fs::write(directory.join("svid.pem"), chain).expect("the chain can be written");
    for name in ["bundle.pem", "ledger.vkey"] {
        fs::copy(like.identity().join(name), directory.join(name)).expect("the file can be copied");
    }
    let mut file = fs::OpenOptions::new();
    let mut file = file
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(directory.join("key.pem"))
        .expect("a new file");
    file.write_all(key.serialize_pem().as_bytes())
        .expect("the key can be written");
}

/// A second holder of the same key and certificate.
fn copy(of: &Cli, to: PathBuf) -> Cli {
    fs::create_dir(&to).expect("a new directory");
    for name in ["svid.pem", "key.pem", "bundle.pem", "ledger.vkey"] {
        fs::copy(of.identity().join(name), to.join(name)).expect("the file can be copied");
    }
    Cli::new(of.address(), &to)
}

fn token(operator: &Cli, more: &[&str]) -> String {
    let made = operator.json(&[&["agent", "token", "builder"], more].concat());
    text(&made, "join_token").to_owned()
}

fn login(
    installation: &Installation,
    address: &str,
    name: &str,
    token: &str,
) -> taskpass_tests::Output {
    let agent = Cli::new(address, &installation.scratch().join(name));
    agent.run_with(&["login", "--join-token", "-"], token)
}

#[test]
fn of_many_that_race_with_one_join_token_exactly_one_attests() {
    let installation = Installation::new();
    installation.configure("[limits]\nunauthenticated_requests_per_address = 64\n");
    let broker = installation.start();
    let operator = broker.operator();
    operator.json(&["agent", "register", "builder", "--owner", "alice@acme.test"]);
    let token = token(&operator, &[]);
    let outcomes = runtime().block_on(async {
        let mut racing = tokio::task::JoinSet::new();
        for number in 0..RACERS {
            let directory = installation.scratch().join(format!("racer-{number}"));
            let config =
                ClientConfig::new(broker.address().parse().expect("an address"), directory);
            let token = token.parse().expect("a join token");
            racing.spawn(async move { Client::login(&config, &token).await });
        }
        racing.join_all().await
    });
    let refused: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err())
        .collect();
    assert_eq!(refused.len(), RACERS - 1);
    for error in refused {
        assert_eq!(error.reason(), Some("UNAUTHENTICATED"), "{error}");
    }
    let issued = crate::support::History::verified(&installation, &operator, "race.jsonl");
    assert_eq!(issued.of_type("svid_issued").count(), 1);
}

#[test]
fn used_expired_and_wrong_join_tokens_are_refused_alike() {
    let installation = Installation::new();
    let broker = installation.start();
    let operator = broker.operator();
    operator.json(&["agent", "register", "builder", "--owner", "alice@acme.test"]);
    let used = token(&operator, &[]);
    assert_eq!(
        login(&installation, broker.address(), "first", &used).code,
        0
    );

    let made = operator.json(&["agent", "token", "builder", "--ttl", "1s"]);
    let ends: Timestamp = text(&made, "expires_at").parse().expect("a time");
    let clock = SystemClock::new();
    eventually("the join token expires", || {
        (clock.now() > ends).then_some(())
    });
    let expired = text(&made, "join_token").to_owned();

    let whole = token(&operator, &[]);
    let parts: Vec<&str> = whole.split('.').collect();
    let other = token(&operator, &[]);
    let foreign = other.split('.').nth(2).expect("a secret");
    let mixed = [parts[0], parts[1], foreign, parts[3]].join(".");

    let mut complaints = Vec::new();
    for (name, bad) in [("used", &used), ("expired", &expired), ("mixed", &mixed)] {
        let done = login(&installation, broker.address(), name, bad);
        assert_ne!(done.code, 0, "{name}");
        assert!(!installation.scratch().join(name).join("svid.pem").exists());
        // Each refused request has an id of its own.
        let lines = done.stderr.lines();
        let complaint: Vec<_> = lines.filter(|l| !l.starts_with("request ")).collect();
        complaints.push(complaint.join("\n"));
    }
    assert!(
        complaints.iter().all(|c| *c == complaints[0]),
        "they tell apart: {complaints:?}"
    );
    // A token that names another root is not even sent.
    let elsewhere = [parts[0], parts[1], parts[2], &"A".repeat(parts[3].len())].join(".");
    let done = login(&installation, broker.address(), "elsewhere", &elsewhere);
    assert!(
        done.stderr
            .contains("not the one that the join token names"),
        "{}",
        done.stderr
    );
    // The token is still unused, and works once.
    assert_eq!(
        login(&installation, broker.address(), "last", &whole).code,
        0
    );
    assert_ne!(
        login(&installation, broker.address(), "too-late", &whole).code,
        0
    );
}

#[test]
fn the_old_certificate_counts_until_the_new_one_is_used() {
    let installation = Installation::new();
    let broker = installation.start();
    let agent = broker.agent("builder");
    let before = agent.json(&["svid", "show"]);
    let renewed = renewed(&agent, installation.scratch().join("renewed"));
    let after = renewed.json(&["svid", "show"]);
    assert_ne!(text(&after, "serial"), text(&before, "serial"));

    agent.json(&["task", "list"]);
    renewed.json(&["task", "list"]);

    let (_, complaint) = agent.refused(&["task", "list"]);
    assert!(complaint.contains("does not count"), "{complaint}");
    renewed.json(&["task", "list"]);
}

#[test]
fn a_copied_certificate_is_worthless_after_the_owner_has_renewed() {
    let installation = Installation::new();
    let broker = installation.start();
    let agent = broker.agent("builder");
    let thief = copy(&agent, installation.scratch().join("thief"));
    thief.json(&["task", "list"]);
    let before = agent.json(&["svid", "show"]);

    let after = agent.json(&["svid", "renew"]);

    assert_eq!(before["spiffe_id"], after["spiffe_id"]);
    assert_ne!(before["serial"], after["serial"]);
    assert_eq!(after["serial"], agent.json(&["svid", "show"])["serial"]);
    agent.json(&["task", "list"]);
    thief.refused(&["task", "list"]);
    thief.refused(&["svid", "renew"]);
}

#[test]
fn an_operator_renews_too_and_agents_do_not_pass_for_operators() {
    let installation = Installation::new();
    let broker = installation.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    let renewed = operator.json(&["svid", "renew"]);
    assert_eq!(
        text(&renewed, "spiffe_id"),
        "spiffe://acme.test/operator/admin"
    );
    operator.json(&["agent", "list"]);
    for args in [
        ["agent", "list"].as_slice(),
        &["agent", "register", "twin", "--owner", "eve@acme.test"],
        &["agent", "token", "builder"],
        &["ledger", "export"],
    ] {
        let (code, complaint) = agent.refused(args);
        assert_eq!(code, 3, "{args:?}: {complaint}");
    }
    let (_, complaint) = operator.refused(&[
        "task",
        "start",
        "--purpose",
        "as a person",
        "--role",
        CONFIG,
    ]);
    assert!(complaint.contains("only agents"), "{complaint}");
    let without_identity = Cli::new(broker.address(), &installation.scratch().join("nobody"));
    without_identity.refused(&["task", "list"]);
}

/// Renews without using the new certificate. Returns `taskpass` with the new one.
fn renewed(of: &Cli, directory: PathBuf) -> Cli {
    let (key, csr) = key_and_request();
    let svid = runtime().block_on(async {
        let client = client(of).await;
        let mut service = IdentityServiceClient::new(client.channel());
        let reply = service
            .renew_svid(RenewSvidRequest {
                csr,
                consistent_with: 0,
            })
            .await
            .expect("a renewal");
        reply.into_inner().svid.expect("a certificate")
    });
    store(&directory, &key, &svid, of);
    Cli::new(of.address(), &directory)
}

/// The same identity, at the new address of a restarted broker.
fn at(broker: &Broker<'_>, cli: &Cli) -> Cli {
    Cli::new(broker.address(), cli.identity())
}

/// Neither a restart nor the loss of the index revives a stolen key of an operator.
#[test]
fn an_operators_old_certificate_counts_until_the_new_one_is_used() {
    let installation = Installation::new();
    let broker = installation.start();
    let old = broker.operator();
    old.json(&["agent", "list"]);
    let new = renewed(&old, installation.scratch().join("new"));
    old.json(&["agent", "list"]);
    broker.stop();

    let broker = installation.start();
    at(&broker, &old).json(&["agent", "list"]);
    at(&broker, &new).json(&["agent", "list"]);
    let refused = |broker: &Broker<'_>| {
        let (_, complaint) = at(broker, &old).refused(&["agent", "list"]);
        assert!(complaint.contains("does not count"), "{complaint}");
        assert!(complaint.contains("`taskpass svid renew`"), "{complaint}");
        at(broker, &old).refused(&["svid", "renew"]);
        at(broker, &new).json(&["agent", "list"]);
    };
    refused(&broker);
    broker.stop();

    let broker = installation.start();
    refused(&broker);
    broker.stop();

    fs::remove_dir_all(installation.home().join("data/index")).expect("the index goes");
    let broker = installation.start();
    refused(&broker);
    let last = at(&broker, &new).json(&["svid", "renew"]);
    assert_eq!(
        text(&last, "spiffe_id"),
        "spiffe://acme.test/operator/admin"
    );
}

/// A thief with the root's key can sign, but a certificate that is not in the ledger does not
/// count.
#[test]
fn a_certificate_of_an_operator_that_is_not_on_record_is_refused() {
    let installation = Installation::new();
    let broker = installation.start();
    let operator = broker.operator();
    let authority = authority(&installation, Arc::new(SystemClock::new()));
    for name in ["admin", "somebody"] {
        let (key, csr) = key_and_request();
        let public = PublicKey::from_csr(&csr).expect("a good request");
        let name = name.parse().expect("a name");
        let forged = authority
            .issue_operator(&name, &public)
            .expect("the root signs");
        let directory = installation.scratch().join(format!("forged-{name}"));
        let svid = X509Svid {
            chain: forged.chain_der.iter().map(|der| der.to_vec()).collect(),
            ..X509Svid::default()
        };
        store(&directory, &key, &svid, &operator);
        let forger = Cli::new(broker.address(), &directory);
        for args in [["agent", "list"].as_slice(), &["svid", "renew"]] {
            let (_, complaint) = forger.refused(args);
            assert!(complaint.contains("not in the ledger"), "{complaint}");
        }
    }
    operator.json(&["agent", "list"]);
}

#[test]
fn the_identity_of_a_task_is_good_for_that_task_while_it_is_open() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let other = World::task(&agent, &[CONFIG]);
    let (key, csr) = key_and_request();
    let started = runtime().block_on(async {
        let client = client(&agent).await;
        let request = StartTaskRequest {
            idempotency_key: client.new_idempotency_key().expect("randomness"),
            purpose: "with an identity of its own".to_owned(),
            roles: vec![TaskRole {
                role: CONFIG.to_owned(),
                ..TaskRole::default()
            }],
            csr,
            ..StartTaskRequest::default()
        };
        let reply = TaskServiceClient::new(client.channel())
            .start_task(request)
            .await
            .expect("a task");
        reply.into_inner()
    });
    let task = started.task.expect("a task").id;
    let directory = world.installation.scratch().join("in-task");
    store(
        &directory,
        &key,
        &started.svid.expect("a certificate"),
        &agent,
    );
    let bound = Cli::new(broker.address(), &directory);
    assert_eq!(
        text(&bound.json(&["svid", "show"]), "spiffe_id"),
        format!("spiffe://acme.test/agent/builder/task/{task}")
    );

    let token = World::issue(&bound, &task, CONFIG, &[]);
    bound.json(&["task", "show", &task]);
    bound.refused(&["credential", "issue", "--task", &other, "--role", CONFIG]);
    bound.refused(&["task", "show", &other]);
    bound.refused(&["task", "end", &other]);
    bound.refused(&["task", "start", "--purpose", "elsewhere", "--role", CONFIG]);
    bound.json(&[
        "task",
        "start",
        "--purpose",
        "below",
        "--role",
        CONFIG,
        "--parent",
        &task,
    ]);
    assert_eq!(
        text(&agent.json(&["task", "show", &other]), "state"),
        "open"
    );

    agent.json(&["task", "end", &task]);
    wait_for_state(&agent, &task, "ended");
    assert!(!world.bao.token_works(text(&token["data"], "token")));
    for args in [
        ["task", "list"].as_slice(),
        &["task", "show", &task],
        &["svid", "renew"],
    ] {
        bound.refused(args);
    }
    agent.json(&["task", "list"]);
}
