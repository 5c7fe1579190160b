//! The same search under faults: back ends that are down, hang, lose an answer or repeat the
//! request in an error page; a broker that is killed, panics or aborts while it holds secrets.

use std::{fs, path::Path, process::Stdio};

use serde_json::{Value, json};
use taskpass_tests::{
    Broker, Cli, Installation, OpenBao, Output, Relay, Search, Trouble, World, eventually,
};

use super::note;
use crate::support::{export, text};

const CONFIG: &str = "vault-main/config";
const CERT: &str = "vault-main/cert";
const NAME: [&str; 1] = ["common_name=ci.acme.test"];

/// Short deadlines, and no breaker that would keep requests from a faulty back end.
const SHORT_DEADLINES: &str = "
[provider_calls]
issue_timeout = \"1s\"
revoke_timeout = \"1s\"
breaker_failures = 1000

[credentials]
revoke_wait_default = \"100ms\"
";

/// An OpenBao that is a provider under several names, each behind a relay of its own, and a broker
/// that logs everything.
struct Stage {
    bao: OpenBao,
    relays: Vec<(&'static str, Relay)>,
    installation: Installation,
}

impl Stage {
    fn new(names: &[&'static str]) -> Self {
        let (bao, installation) = (OpenBao::start(), Installation::new());
        let relays: Vec<_> = names
            .iter()
            .map(|name| (*name, Relay::start(bao.address())))
            .collect();
        for (name, relay) in &relays {
            let provider = bao.provider(name, "");
            installation.configure(&provider.replace(bao.address(), &relay.address()));
        }
        installation.configure(SHORT_DEADLINES);
        Self {
            bao,
            relays,
            installation,
        }
    }

    fn start(&self, failpoint: Option<&str>) -> Broker<'_> {
        let all = [
            ("TASKPASS_LOG", "trace"),
            ("RUST_BACKTRACE", "full"),
            ("TASKPASS_FAILPOINT", failpoint.unwrap_or("nowhere")),
        ];
        self.installation.start_with(&all)
    }

    /// Issues a credential and adds its secrets to the search.
    fn issue(search: &mut Search, agent: &Cli, task: &str, role: &str) -> String {
        let scope: &[&str] = if role.ends_with("/cert") { &NAME } else { &[] };
        let issued = World::issue(agent, task, role, scope);
        for (field, value) in issued["data"].as_object().expect("a secret") {
            search.secret(&format!("{role} {field}"), value.as_str().expect("a text"));
        }
        text(&issued, "credential_id").to_owned()
    }

    /// Searches all files for every answer of OpenBao, every issued secret and every key.
    fn finish(&self, mut search: Search, agent: &Path) {
        for (name, relay) in &self.relays {
            search.answers(name, &relay.answers());
        }
        search.secret("the broker's Vault token", &self.bao.broker_token());
        search.installation(&self.installation, &[agent.to_owned()]);
        let (secrets, places) = (search.secrets(), search.places().count());
        assert!(secrets > 10 && places > 10, "{secrets} in {places}");
        assert_eq!(search.hits(), Vec::<String>::new());
    }
}

/// Texts that a back end must never get into our logs or answers.
const CANARIES: [&str; 3] = [
    "s.CanaryInAFieldOfAnotherType",
    "s.CanaryInTheTextOfAnError0123456789",
    "canary-in-a-page-that-is-no-json",
];

fn faults() -> Vec<(&'static str, Trouble)> {
    let [field, error, page] = CANARIES;
    let wrong = json!({
        "request_id": field, "lease_id": [field], "renewable": field, "lease_duration": field,
        "data": { "private_key": 17, "serial_number": [field] },
        "auth": { "client_token": [field], "accessor": 17, "policies": field, "lease_duration": field },
    });
    let says = format!("cannot log in with token {error}, password={error}");
    let errors = json!({ "errors": [says], "warnings": [error] }).to_string();
    vec![
        ("down", Trouble::Down),
        ("hung", Trouble::Hung),
        ("answers-lost", Trouble::AnswerLost),
        ("answers-cut", Trouble::Cut(300)),
        ("other-types", Trouble::Instead(200, wrong.to_string())),
        ("errors-for-answers", Trouble::Instead(200, errors.clone())),
        (
            "pages-for-answers",
            Trouble::Instead(200, format!("<html>{page}")),
        ),
        ("errors-with-400", Trouble::Instead(400, errors.clone())),
        ("errors-with-500", Trouble::Instead(500, errors)),
        ("shown-with-400", Trouble::Echo(400)),
        ("shown-with-403", Trouble::Echo(403)),
        ("shown-with-502", Trouble::Echo(502)),
    ]
}

/// The requests of an agent and an operator to a faulty provider.
fn ask(agent: &Cli, operator: &Cli, provider: &str, task: &str, issued: &[String]) -> Vec<Output> {
    let (config, cert) = (format!("{provider}/config"), format!("{provider}/cert"));
    let issue = ["credential", "issue", "--task", task, "--role"];
    let mut answers = Vec::new();
    for args in [
        [&issue[..], &[&config]].concat(),
        [&issue[..], &[&cert, "--scope", NAME[0]]].concat(),
        vec!["credential", "renew", &issued[0]],
        vec!["credential", "revoke", &issued[1]],
        vec!["task", "end", task],
        vec!["credential", "show", &issued[0]],
    ] {
        answers.push(agent.run(&[&["-o", "json"], &args[..]].concat()));
    }
    let checked = operator.run(&["provider", "check", provider]);
    assert_ne!(checked.code, 0, "{provider}: {}", checked.stdout);
    answers.push(checked);
    answers
}

#[test]
fn no_secret_gets_out_through_a_fault_of_a_provider() {
    let names: Vec<_> = faults().iter().map(|(name, _)| *name).collect();
    let stage = Stage::new(&names);
    let mut search = Search::default();
    for canary in CANARIES {
        search.secret(canary, canary);
    }
    let broker = stage.start(None);
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    let issued: Vec<_> = names
        .iter()
        .map(|name| {
            let roles = ["config", "cert"].map(|role| format!("{name}/{role}"));
            let task = World::task(&agent, &[&roles[0], &roles[1]]);
            let ids = roles.map(|role| Stage::issue(&mut search, &agent, &task, &role));
            (*name, task, ids)
        })
        .collect();
    for ((_, relay), (_, fault)) in stage.relays.iter().zip(faults()) {
        relay.make(fault);
    }
    // In parallel, because each request waits for the deadlines of its own provider.
    let answers = std::thread::scope(|threads| {
        let asking: Vec<_> = issued
            .iter()
            .map(|(name, task, ids)| {
                let (agent, operator) = (&agent, &operator);
                threads.spawn(move || (*name, ask(agent, operator, name, task, ids)))
            })
            .collect();
        let done = asking.into_iter().map(|it| it.join().expect("no panic"));
        done.collect::<Vec<_>>()
    });
    for (name, answers) in answers {
        for (number, answer) in (1..).zip(answers) {
            note(
                &mut search,
                &format!("answer {number} with {name}"),
                &answer,
            );
        }
    }
    let all = export(&stage.installation, &operator, "faults.jsonl", &[]);
    search.place("the export", fs::read(all).expect("the export"));
    broker.stop();
    stage.finish(search, agent.identity());
}

/// Failpoints at which the broker holds a secret or has just held one, with the role that leads
/// there.
const PLACES: [(&str, &str); 4] = [
    ("anchor.made", CONFIG),
    ("issue.minted", CERT),
    ("issue.recorded", CONFIG),
    ("renew.extended", CONFIG),
];

#[test]
fn no_secret_gets_out_when_the_broker_is_killed_or_panics_or_aborts() {
    let mut stage = Stage::new(&["vault-main"]);
    stage.installation.expect_error("failpoint.rs");
    let mut search = Search::default();
    let identity = {
        let broker = stage.start(None);
        let identity = broker.agent("builder").identity().to_owned();
        broker.stop();
        identity
    };
    for (place, role) in PLACES {
        for end in ["", "=abort", "=panic"] {
            let what = format!("{place}{end}");
            let broker = stage.start(Some(&what));
            let agent = broker.attested("builder");
            let task = World::task(&agent, &[CONFIG, CERT]);
            let issue = ["credential", "issue", "--task", &task, "--role", role];
            let issued;
            let args = match (place, role) {
                ("renew.extended", _) => {
                    issued = Stage::issue(&mut search, &agent, &task, CONFIG);
                    vec!["credential", "renew", &issued]
                }
                (_, CERT) => [&issue[..], &["--scope", NAME[0]]].concat(),
                _ => issue.to_vec(),
            };
            if end == "=panic" {
                panics_and_goes_on(&mut search, &broker, &agent, &what, &args);
                broker.stop();
                continue;
            }
            let mut command = agent.command(&args);
            let output = command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut running = output.spawn().expect("taskpass starts");
            broker.wait_killed();
            let status = running.wait().expect("taskpass ends");
            assert!(!status.success(), "{what}");
        }
    }
    let broker = stage.start(None);
    let operator = broker.operator();
    let all = export(&stage.installation, &operator, "broken-off.jsonl", &[]);
    search.place("the export", fs::read(all).expect("the export"));
    broker.stop();
    stage.finish(search, &identity);
}

/// A panic costs the one request, and the same broker cleans up after it.
fn panics_and_goes_on(
    search: &mut Search,
    broker: &Broker<'_>,
    agent: &Cli,
    what: &str,
    args: &[&str],
) {
    let done = agent.run(args);
    // The client tries again by itself, so its output may hold the secret it asked for.
    search.place(what, &done.stderr);
    assert!(
        broker.log().contains("failpoint `"),
        "{what}: {}",
        done.stderr
    );
    let operator = broker.operator();
    eventually(&format!("{what}: the rest is cleaned up"), || {
        let live = World::live_credentials(&operator);
        let is_known = |c: &Value| ["active", "revoking"].contains(&text(c, "state"));
        live.iter().all(is_known).then_some(())
    });
    agent.json(&["svid", "show"]);
}
