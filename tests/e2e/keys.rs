//! Private keys that lie sealed on the disk: a thief of a copy has none, and every command works.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::json;
use taskpass_tests::{Installation, OpenBao, World, program};

use crate::support::{export, vkey};

fn private(path: &Path, content: &str) {
    fs::write(path, content).expect("the file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
}

/// The output of a command that may fail, on one text.
fn said(done: &Output) -> String {
    String::from_utf8_lossy(&[done.stdout.as_slice(), &done.stderr].concat()).into_owned()
}

fn taskpassd(installation: &Installation, words: &[&str]) -> Output {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    installation.daemon(&[words, &["--config", config]].concat())
}

fn succeeds(installation: &Installation, words: &[&str]) -> String {
    let done = taskpassd(installation, words);
    assert!(done.status.success(), "{words:?}: {}", said(&done));
    said(&done)
}

/// The error of a command, which has to be one line.
fn fails(installation: &Installation, words: &[&str]) -> String {
    let done = taskpassd(installation, words);
    assert!(!done.status.success(), "{words:?}: {}", said(&done));
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    let lines = error.lines().filter(|line| line.starts_with("error: "));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "{words:?}: {error}");
    lines.concat()
}

/// The private keys of an installation in plain text, as they stand in its files.
fn plain_keys(data: &Path) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(data.join("ca")).expect("the directory of the authority") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "key") {
            let text = fs::read_to_string(&path).expect("a key in PEM");
            let body = text.lines().nth(1).expect("its body");
            keys.push(body.as_bytes().to_vec());
        }
    }
    let seed = fs::read_to_string(data.join("ledger.key")).expect("the ledger's key");
    let seed = seed.trim().splitn(5, '+').nth(4).expect("its seed");
    keys.push(seed.as_bytes().to_vec());
    assert!(keys.len() >= 3, "root, issuing authority, ledger");
    keys.extend([b"BEGIN PRIVATE KEY".to_vec(), b"PRIVATE+KEY".to_vec()]);
    keys
}

/// The files below `dir` that hold one of `keys`.
fn holders(dir: &Path, keys: &[Vec<u8>]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(holders(&path, keys));
            continue;
        }
        let content = fs::read(&path).expect("the file can be read");
        let holds = |key: &Vec<u8>| {
            content
                .windows(key.len())
                .any(|part| part == key.as_slice())
        };
        if keys.iter().any(holds) {
            found.push(path);
        }
    }
    found
}

/// Gives the transit engine a key, and returns `[keys]` with a token that may use it.
fn transit(bao: &OpenBao, token_file: &Path) -> String {
    let call = |path: &str, body| {
        let answer = bao.call("POST", path, Some(body));
        answer.unwrap_or_else(|status| panic!("{path}: {status}"))
    };
    call("sys/mounts/transit", json!({ "type": "transit" }));
    call("transit/keys/taskpass", json!({}));
    let rights = "path \"transit/encrypt/taskpass\" { capabilities = [\"update\"] }\n\
                  path \"transit/decrypt/taskpass\" { capabilities = [\"update\"] }";
    call("sys/policies/acl/seal", json!({ "policy": rights }));
    let order = json!({ "policies": ["seal"], "no_default_policy": true });
    let made = call("auth/token/create-orphan", order);
    private(
        token_file,
        made["auth"]["client_token"].as_str().expect("a token"),
    );
    format!(
        "seal = \"vault_transit\"\nkey = \"taskpass\"\naddress = \"{}\"\ntoken_file = \"{}\"",
        bao.address(),
        token_file.display()
    )
}

#[test]
fn a_sealed_installation_serves_on_and_a_copy_of_it_holds_no_key() {
    let mut world = World::new();
    let data = world.installation.home().join("data");
    let broker = world.start();
    broker.agent("builder");
    broker.stop();
    let keys = plain_keys(&data);
    assert!(holders(&data, &keys).len() >= 3);
    let doctor = said(&taskpassd(&world.installation, &["doctor"]));
    assert!(
        doctor.contains("[warn] seal: these keys lie in plain text"),
        "{doctor}"
    );

    let token = world.installation.scratch().join("seal-token");
    let table = transit(&world.bao, &token);
    world
        .installation
        .edit(|text| text.replace("seal = \"plain\"", &table));
    let refused = fails(&world.installation, &["run"]);
    assert!(
        refused.contains("run `taskpassd keys seal --config "),
        "{refused}"
    );
    succeeds(&world.installation, &["keys", "seal"]);
    assert_eq!(holders(&data, &keys), Vec::<PathBuf>::new());

    let broker = world.start();
    let agent = broker.attested("builder");
    agent.json(&["svid", "renew"]);
    let task = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    agent.json(&["task", "end", &task]);
    let file = export(&world.installation, &broker.operator(), "sealed", &[]);
    let text = fs::read_to_string(&file).expect("the export");
    assert!(text.contains("keys_sealed"), "{text}");
    let key = vkey(&world.installation);
    let (key, file) = (
        key.to_str().expect("a path"),
        file.to_str().expect("a path"),
    );
    let verified = ["ledger", "verify", "--key", key, file];
    broker.operator().json(&verified);
    broker.stop();
    assert_eq!(holders(&data, &keys), Vec::<PathBuf>::new());

    let identity = world.installation.scratch().join("another");
    let identity = identity.to_str().expect("a path in UTF-8").to_owned();
    succeeds(
        &world.installation,
        &["operator", "issue", "ann", "--dir", &identity],
    );
    let accepted = world.installation.accept_clock();
    assert!(accepted.status.success(), "{}", said(&accepted));
    let doctor = said(&taskpassd(&world.installation, &["doctor"]));
    let sealed = "[ok]   seal: the private keys are sealed by `vault_transit`";
    assert!(doctor.contains(sealed), "{doctor}");
    assert!(
        doctor.contains("entries are as they were written"),
        "{doctor}"
    );

    // The thief of the directory has no token; the thief of the token has no directory.
    private(&token, "hvs.of-nobody-at-this-server");
    let refused = fails(&world.installation, &["run"]);
    assert!(
        refused.contains("the seal `vault_transit` did not give"),
        "{refused}"
    );
    assert!(refused.contains("permission denied"), "{refused}");
    world.bao.kill();
    let status = taskpassd(&world.installation, &["keys", "status"]);
    assert!(!status.status.success());
    assert!(
        said(&status).contains("Vault did not answer"),
        "{}",
        said(&status)
    );
}

/// systemd names a directory of its own in the environment of the unit, and of `systemd-run`.
#[test]
fn a_new_installation_is_sealed_by_a_credential_of_systemd_from_the_start() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let credentials = scratch.path().join("credentials");
    fs::create_dir(&credentials).expect("a new directory");
    private(
        &credentials.join("taskpass-keys"),
        "correct horse battery staple\n",
    );
    let keys = scratch.path().join("keys.toml");
    let table = "[keys]\nseal = \"systemd_credential\"\ncredential = \"taskpass-keys\"\n";
    fs::write(&keys, table).expect("the table");
    let home = scratch.path().join("broker");
    let init = |env: &[(&str, &Path)]| {
        let mut command = Command::new(program("taskpassd"));
        command.args(["init", "--trust-domain", "acme.test", "--dir"]);
        command.arg(&home).arg("--keys").arg(&keys).env_clear();
        command
            .envs(env.iter().copied())
            .output()
            .expect("taskpassd starts")
    };
    let refused = said(&init(&[]));
    assert!(
        refused.contains("no CREDENTIALS_DIRECTORY is set"),
        "{refused}"
    );
    let env = [("CREDENTIALS_DIRECTORY", credentials.as_path())];
    let made = init(&env);
    assert!(made.status.success(), "{}", said(&made));
    for name in ["data/ledger.key", "data/ca/root.key"] {
        let content = fs::read_to_string(home.join(name)).expect("the key's file");
        assert!(
            content.starts_with("-----BEGIN TASKPASS SEALED KEY-----"),
            "{name}"
        );
    }
    // `init` has seen that the credential opens what it sealed. Without it nothing opens.
    let mut command = Command::new(program("taskpassd"));
    command.args(["keys", "status", "-o", "json", "--config"]);
    command.arg(home.join("taskpass.toml")).env_clear();
    let status = command.output().expect("taskpassd starts");
    assert!(!status.status.success(), "{}", said(&status));
    assert!(said(&status).contains("\"sealed_by\": [\n    \"systemd_credential\""));
}
