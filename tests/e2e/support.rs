//! What several topics need: short words for common steps, and the witness that compares ledger and back end.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use serde_json::Value;
use taskpass_client::{Client, ClientConfig, Renewal};
use taskpass_core::Timestamp;
use taskpass_tests::{Broker, Cli, Installation, OpenBao, World, eventually};

/// Where OpenBao files the leases of role `cert`.
pub const CERT_PATH: &str = "pki/issue/ci";
/// Seconds for which a token may live that the ledger has no record of: made, and never extended.
pub const PROBATION_SECONDS: i64 = 60;

/// A field that is a text.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no text `{name}` in {value}"))
}

/// A field that is a time.
pub fn time(value: &Value, name: &str) -> Timestamp {
    text(value, name).parse().expect("a time")
}

/// Asserts that renewing took nothing away. Back ends count in whole seconds, so it may end a moment earlier when it
/// could not live any longer anyway.
pub fn assert_not_shortened(before: &Value, after: &Value) {
    let (before, after) = (time(before, "expires_at"), time(after, "expires_at"));
    assert!(
        after.plus(Duration::from_secs(2)) >= before,
        "{before} became {after}"
    );
}

/// Ends a task.
pub fn end(agent: &Cli, task: &str) -> Value {
    agent.json(&["task", "end", task])
}

/// The receipt of an issued credential.
pub fn receipt<'a>(ended: &'a Value, issued: &Value) -> &'a Value {
    let id = text(issued, "credential_id");
    let receipts = ended["receipts"].as_array().expect("receipts");
    receipts
        .iter()
        .find(|r| text(r, "credential_id") == id)
        .unwrap_or_else(|| panic!("no receipt of {id}: {ended}"))
}

/// Waits until a task is in a state; the task with its receipts.
pub fn settled(cli: &Cli, task: &str, state: &str) -> Value {
    eventually(&format!("task {task} is {state}"), || {
        let shown = cli.json(&["task", "show", task]);
        (text(&shown, "state") == state).then_some(shown)
    })
}

/// Exports the history to a file of that name.
pub fn export(installation: &Installation, operator: &Cli, name: &str, more: &[&str]) -> PathBuf {
    let path = installation.scratch().join(name);
    let mut args = vec![
        "ledger",
        "export",
        "--to",
        path.to_str().expect("a path in UTF-8"),
    ];
    args.extend(more);
    let done = operator.run(&args);
    assert_eq!(done.code, 0, "export: {}", done.stderr);
    path
}

/// The file with the ledger's public key, which is all that an auditor needs.
pub fn vkey(installation: &Installation) -> PathBuf {
    installation.home().join("operator/ledger.vkey")
}

/// The library with an identity that the command line has stored.
pub async fn client(cli: &Cli) -> Client {
    let mut config = ClientConfig::new(cli.address().parse().expect("an address"), cli.identity());
    config.renewal = Renewal::OnDemand;
    Client::connect(config)
        .await
        .expect("the broker takes the identity")
}

/// A runtime for tests that use the library.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// What the ledger says, entry by entry; only what an auditor could read too.
#[derive(Debug, Default)]
pub struct History {
    /// The events, oldest first.
    pub events: Vec<Value>,
}

impl History {
    /// Exports, has the export verified offline, and reads it.
    pub fn verified(installation: &Installation, operator: &Cli, name: &str) -> Self {
        let path = export(installation, operator, name, &[]);
        let (key, file) = (vkey(installation), path.display().to_string());
        let verified = operator.json(&[
            "ledger",
            "verify",
            "--key",
            &key.display().to_string(),
            &file,
        ]);
        assert_eq!(verified["complete"], true, "{verified}");
        Self::read(&path)
    }

    /// Reads an export.
    pub fn read(path: &PathBuf) -> Self {
        let text = fs::read_to_string(path).expect("the export can be read");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        Self {
            events: lines
                .map(|mut line| line["entry"]["event"].take())
                .filter(|e| !e.is_null())
                .collect(),
        }
    }

    /// The events of one type.
    pub fn of_type<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events
            .iter()
            .filter(move |event| event["type"] == name)
    }

    /// Accessors of all sessions and tokens that were ever recorded.
    fn recorded_accessors(&self) -> BTreeSet<&str> {
        self.of_type("anchor_recorded")
            .filter_map(|e| e["anchor"]["handle"]["accessor"].as_str())
            .collect()
    }

    /// Of all recorded sessions, those that may be alive by the ledger's word: not gone, and not the token of a
    /// credential that is in its final state.
    fn live_accessors(&self, live: &BTreeSet<String>) -> BTreeSet<&str> {
        let gone: BTreeSet<&str> = self
            .of_type("anchor_gone")
            .filter_map(|e| e["anchor"].as_str())
            .collect();
        let dead: BTreeSet<&str> = self.handles("accessor", |id| !live.contains(id)).collect();
        self.of_type("anchor_recorded")
            .filter(|e| !gone.contains(text(&e["anchor"], "id")))
            .filter_map(|e| e["anchor"]["handle"]["accessor"].as_str())
            .filter(|accessor| !dead.contains(accessor))
            .collect()
    }

    fn handles<'a>(
        &'a self,
        kind: &'a str,
        keep: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = &'a str> {
        self.of_type("credential_issued")
            .filter(move |e| keep(text(e, "credential")))
            .filter_map(move |e| e["handle"][kind].as_str())
    }
}

/// Asserts that whatever is alive in OpenBao is alive in the ledger too. Nothing may change meanwhile.
///
/// One exception is by design: a token that was made while the broker was killed, before its accessor was on record.
/// Nobody has it, it was not extended, and it dies within its probation.
pub fn assert_nothing_untracked(bao: &OpenBao, history: &History, operator: &Cli) {
    let listed = World::live_credentials(operator);
    let live: BTreeSet<String> = listed
        .iter()
        .map(|c| text(c, "credential_id").to_owned())
        .collect();
    let leases: BTreeSet<&str> = history
        .handles("lease_id", |id| live.contains(id))
        .collect();
    for lease in bao.leases(CERT_PATH) {
        let is_known = leases.contains(lease.as_str());
        // What OpenBao says of it tells a lease that is just being revoked from one that nobody will revoke.
        assert!(
            is_known,
            "lease {lease} is alive and not on record: {:?}",
            bao.lease(&lease)
        );
    }
    let (recorded, alive) = (history.recorded_accessors(), history.live_accessors(&live));
    for accessor in bao.task_tokens() {
        if recorded.contains(accessor.as_str()) {
            assert!(
                alive.contains(accessor.as_str()),
                "token {accessor} is alive and dead on record"
            );
        } else if let Some(ttl) = bao.token_ttl(&accessor) {
            assert!(
                ttl <= PROBATION_SECONDS,
                "an unrecorded token lives for {ttl} s more"
            );
        }
    }
}

/// Waits until every live credential is active, or waits for a token that may be on probation to be dead.
pub fn wait_one_sweep(operator: &Cli) {
    eventually("the reconcilers settle what was interrupted", || {
        let live = World::live_credentials(operator);
        live.iter()
            .all(|c| text(c, "state") == "active" || is_waiting_for_probation(c))
            .then_some(())
    });
}

/// Whether nothing is on record to be revoked, and the ledger waits until an unrecorded token must be dead.
pub fn is_waiting_for_probation(credential: &Value) -> bool {
    let error = credential["revocation"]["last_error"]
        .as_str()
        .unwrap_or_default();
    text(credential, "state") == "revoking" && error.contains("without being recorded")
}

/// `taskpass` as the operator and as an agent that has joined before.
pub fn both(broker: &Broker<'_>, agent: &str) -> (Cli, Cli) {
    (broker.operator(), broker.known(agent))
}
