//! Secrets stay where they belong. Every secret there is, is looked for in every place that is not its own, in
//! every spelling that programs give to bytes.

mod dumps;
mod faults;

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use taskpass_tests::{Cli, Ministack, World};

use crate::support::{end, export, text};

/// Shorter values, such as `ec`, are not secrets and stand everywhere.
const SECRET_BYTES_MIN: usize = 12;

/// A secret, and how it might be spelt.
struct Needle {
    name: String,
    forms: Vec<String>,
}

/// A place where secrets must not be.
struct Place {
    name: String,
    content: String,
}

#[derive(Default)]
struct Search {
    needles: Vec<Needle>,
    places: Vec<Place>,
}

impl Search {
    /// A secret. Of one with lines, such as a certificate, each longer line counts by itself; of a private key, what
    /// is private in it.
    fn secret(&mut self, name: &str, value: &str) {
        if value.contains("PRIVATE KEY-----") {
            return self.private_key(name, value);
        }
        for part in value.lines().filter(|line| !line.starts_with("-----")) {
            self.part(name, part.as_bytes());
        }
    }

    /// The number that is the key, and the line of the PEM text that begins with it. The lines after that hold the
    /// public key, which stands in certificates too.
    fn private_key(&mut self, name: &str, pem: &str) {
        let lines: Vec<&str> = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        self.part(name, lines[0].as_bytes());
        let der = STANDARD.decode(lines.concat()).expect("base64");
        let octets = der
            .windows(2)
            .position(|pair| pair == [0x04, 0x20])
            .expect("a P-256 key");
        self.part(name, &der[octets + 2..octets + 34]);
    }

    fn part(&mut self, name: &str, part: &[u8]) {
        if part.len() >= SECRET_BYTES_MIN {
            self.needles.push(Needle {
                name: name.to_owned(),
                forms: forms(part),
            });
        }
    }

    fn place(&mut self, name: &str, content: impl AsRef<[u8]>) {
        self.places.push(Place {
            name: name.to_owned(),
            content: characters(content.as_ref()),
        });
    }

    /// What was found, by names only: this text ends in a log.
    fn hits(&self) -> Vec<String> {
        let mut hits = Vec::new();
        for place in &self.places {
            for needle in &self.needles {
                if needle.forms.iter().any(|form| place.content.contains(form)) {
                    hits.push(format!("{} in {}", needle.name, place.name));
                }
            }
        }
        hits.sort();
        hits.dedup();
        hits
    }
}

/// One character for each byte, so that files and secrets that are no text can be searched as text.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Raw, as programs escape it, base64 at each of the three alignments, hex, as URLs have it, and as numbers.
fn forms(secret: &[u8]) -> Vec<String> {
    let quoted = serde_json::to_string(&String::from_utf8_lossy(secret)).expect("a string");
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let url = |upper: bool| -> String {
        let encode = |b: &u8| match *b {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
            b if upper => format!("%{b:02X}"),
            b => format!("%{b:02x}"),
        };
        secret.iter().map(encode).collect()
    };
    let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
    let mut forms = vec![
        characters(secret),
        characters(quoted.trim_matches('"').as_bytes()),
        hex.to_uppercase(),
        hex,
        url(true),
        url(false),
        numbers.join(", "),
        numbers.join(","),
    ];
    for before in 0..3 {
        let bytes = [vec![0; before].as_slice(), secret].concat();
        let foreign = [0, 2, 3][before];
        // The last character also holds bits of what follows.
        let keep =
            |text: String| text[foreign..text.len() - usize::from(bytes.len() % 3 != 0)].to_owned();
        forms.push(keep(STANDARD_NO_PAD.encode(&bytes)));
        forms.push(keep(URL_SAFE_NO_PAD.encode(&bytes)));
    }
    forms.sort();
    forms.dedup();
    forms
}

#[test]
fn the_search_finds_each_spelling() {
    let secret = "s.Zm9v/+&=\"canary";
    for padding in ["", "x", "yy", "zzz"] {
        let around = format!("{padding}{secret}{padding}");
        let hex: String = around.bytes().map(|b| format!("{b:02X}")).collect();
        let url: String = around
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b == b'.' {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        for spelt in [
            around.clone(),
            json!({ "token": around }).to_string(),
            STANDARD_NO_PAD.encode(&around),
            URL_SAFE_NO_PAD.encode(&around),
            hex,
            url,
            format!("{:?}", around.as_bytes()),
        ] {
            let mut search = Search::default();
            search.secret("the canary", secret);
            search.place("here", &spelt);
            assert_eq!(search.hits(), ["the canary in here"], "{spelt}");
        }
    }
}

#[test]
fn no_secret_is_anywhere_but_where_it_belongs() {
    let world = World::new();
    let aws = Ministack::start();
    world.installation.configure(&aws.provider("aws-prod"));
    let canary = json!({ "data": { "answer": "canary-of-the-static-secret/+=%\"x" } });
    world
        .bao
        .call("POST", "secret/data/ci", Some(canary))
        .expect("the secret can be written");
    let mut search = Search::default();
    let broker = world.installation.start_with(&[("TASKPASS_LOG", "trace")]);
    let operator = broker.operator();
    operator.json(&["agent", "register", "builder", "--owner", "alice@acme.test"]);
    let join_token = text(&operator.json(&["agent", "token", "builder"]), "join_token").to_owned();
    search.secret(
        "the join token",
        join_token.split('.').nth(2).expect("its secret"),
    );
    let agent = Cli::new(
        broker.address(),
        &world.installation.scratch().join("agent-builder"),
    );
    note(
        &mut search,
        "login",
        &agent.run_with(&["-o", "json", "login", "--join-token", "-"], &join_token),
    );
    note(
        &mut search,
        "login again",
        &agent.run(&["login", "--join-token", &join_token]),
    );
    let damaged = join_token.replace("tp1.", "tp9.");
    note(
        &mut search,
        "login with a damaged token",
        &agent.run(&["login", "--join-token", &damaged]),
    );

    let roles = [
        "vault-main/config",
        "vault-main/cert",
        "vault-main/static",
        "aws-prod/reader",
    ];
    let task = World::task(&agent, &roles);
    let issued = draw_all(&mut search, &agent, &task);
    ask_everything(&mut search, &operator, &agent, &task, &issued);
    let ended = end(&agent, &task);
    search.place("task end", ended.to_string());
    let all = export(&world.installation, &operator, "canary.jsonl", &[]);
    let part = export(
        &world.installation,
        &operator,
        "canary-task.jsonl",
        &["--task", &task],
    );
    let log = broker.log();
    let home = world.installation.home();
    let config = home.join("taskpass.toml").display().to_string();
    for args in [
        ["doctor", "--config", &config, "-o", "json"].as_slice(),
        &["config", "check", "--config", &config],
    ] {
        let done = world.installation.daemon(args);
        search.place(args[0], [done.stdout, done.stderr].concat());
    }
    broker.stop();

    search.place("the broker's log", log);
    search.place("the export", fs::read(all).expect("the export"));
    search.place(
        "the export of the task",
        fs::read(part).expect("the export"),
    );
    search.secret("the broker's Vault token", &world.bao.broker_token());
    for secret in aws.secrets() {
        search.secret("the broker's AWS keys", &secret);
    }
    let keys = private_keys(&mut search, &home, agent.identity());
    for file in files(&home).into_iter().filter(|file| !keys.contains(file)) {
        search.place(
            &file.display().to_string(),
            fs::read(&file).expect("a file"),
        );
    }
    assert!(
        search.needles.len() > 25,
        "only {} secrets were collected",
        search.needles.len()
    );
    assert!(
        search
            .places
            .iter()
            .any(|p| p.name.contains("/data/ledger/") && !p.content.is_empty())
    );
    assert!(
        search
            .places
            .iter()
            .any(|p| p.name.contains("/data/index/") && !p.content.is_empty())
    );
    assert_eq!(search.hits(), Vec::<String>::new());
}

/// Has one credential issued of each role; every field is a secret.
fn draw_all(search: &mut Search, agent: &Cli, task: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for (role, scope) in [
        ("vault-main/config", None),
        ("vault-main/cert", Some("common_name=ci.acme.test")),
        ("vault-main/static", None),
        ("aws-prod/reader", Some("bucket=artifacts")),
    ] {
        let scope: Vec<&str> = scope.into_iter().collect();
        let issued = World::draw(agent, task, role, &scope);
        let data = issued["data"].as_object().expect("the parts of the secret");
        let before = search.needles.len();
        for (field, value) in data {
            search.secret(&format!("{role} {field}"), value.as_str().expect("a text"));
        }
        assert!(search.needles.len() > before, "{role} gave no secret");
        ids.push(text(&issued, "credential_id").to_owned());
    }
    ids
}

/// Every command that is not there to show a secret, and some that fail.
fn ask_everything(search: &mut Search, operator: &Cli, agent: &Cli, task: &str, issued: &[String]) {
    let first = issued[0].as_str();
    for args in [
        ["agent", "list"].as_slice(),
        &["agent", "show", "builder"],
        &["task", "list"],
        &["task", "show", task],
        &["credential", "list"],
        &["credential", "show", first],
        &["provider", "list"],
        &["provider", "show", "vault-main"],
        &["provider", "check", "vault-main"],
        &["provider", "check", "aws-prod"],
        &["policy", "show"],
        &["ledger", "checkpoint"],
        &["ledger", "prove", "5"],
        &["svid", "show"],
        &["doctor"],
    ] {
        let done = operator.run(&[&["-o", "json"], args].concat());
        assert_eq!(done.code, 0, "{args:?}: {}", done.stderr);
        note(search, &format!("operator {args:?}"), &done);
    }
    for args in [
        ["credential", "renew", first].as_slice(),
        &["credential", "revoke", first],
        &["task", "heartbeat", task],
        &["svid", "show"],
        &["svid", "renew"],
        &["agent", "list"],
        &[
            "credential",
            "issue",
            "--task",
            task,
            "--role",
            "aws-prod/reader",
            "--scope",
            "bucket=*",
        ],
        &[
            "credential",
            "issue",
            "--task",
            task,
            "--role",
            "vault-main/none",
        ],
        &["credential", "renew", first],
        &[
            "run",
            "--purpose",
            "quiet",
            "--role",
            "vault-main/config",
            "--",
            "true",
        ],
    ] {
        note(
            search,
            &format!("agent {args:?}"),
            &agent.run(&[&["-o", "json"], args].concat()),
        );
    }
}

fn note(search: &mut Search, name: &str, done: &taskpass_tests::Output) {
    search.place(name, format!("{}{}", done.stdout, done.stderr));
}

/// Private keys are secrets too; their own files are where they belong.
fn private_keys(search: &mut Search, home: &Path, agent: &Path) -> Vec<PathBuf> {
    let is_key = |path: &PathBuf| {
        let content = fs::read(path).expect("a file");
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        String::from_utf8_lossy(&content).contains("PRIVATE KEY") || name.ends_with(".key")
    };
    let all = [files(home), files(agent)].concat();
    let keys: Vec<PathBuf> = all.into_iter().filter(is_key).collect();
    assert!(
        keys.len() >= 4,
        "root, authority, ledger, operator and agent have keys: {keys:?}"
    );
    for path in &keys {
        let content = fs::read_to_string(path).expect("a key");
        let name = path.display().to_string();
        match content.trim().rsplit_once('+') {
            // The ledger's key is one line of words and the key itself.
            Some((words, key)) if words.starts_with("PRIVATE+KEY+") => search.secret(&name, key),
            _ => search.secret(&name, &content),
        }
    }
    keys
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The secrets of a value are in the places that show them on purpose, which proves that the search would see them.
#[test]
fn the_search_sees_a_secret_in_the_reply_that_shows_it() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/cert"]);
    let issued: Value = World::draw(
        &agent,
        &task,
        "vault-main/cert",
        &["common_name=ci.acme.test"],
    );
    let mut search = Search::default();
    search.secret("the private key", text(&issued["data"], "private_key"));
    search.place("the reply", issued.to_string());
    assert_eq!(search.hits(), ["the private key in the reply"]);
}
