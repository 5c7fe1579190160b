//! The witness compares the back end's own list of living things with the ledger, without asking
//! the broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use taskpass_client::{Client, ClientConfig, Renewal};
use taskpass_core::{ShiftedClock, Timestamp};

use crate::{Cli, History, OpenBao, World, eventually};

/// The path under which OpenBao files the leases of role `cert`.
pub const CERT_PATH: &str = "pki/issue/ci";
/// Seconds for which a token may live without being in the ledger: a token that was created and not
/// renewed yet.
pub const PROBATION_SECONDS: i64 = 20;

/// A field with a text.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no text `{name}` in {value}"))
}

/// A field with a time.
pub fn time(value: &Value, name: &str) -> Timestamp {
    text(value, name).parse().expect("a time")
}

/// Waits until a task is in a state. Returns the task with its receipts.
pub fn wait_for_state(cli: &Cli, task: &str, state: &str) -> Value {
    eventually(&format!("task {task} is {state}"), || {
        let shown = cli.json(&["task", "show", task]);
        (text(&shown, "state") == state).then_some(shown)
    })
}

/// The client library with an identity that the command line has stored.
pub async fn client(cli: &Cli) -> Client {
    Client::connect(client_config(cli))
        .await
        .expect("the broker takes the identity")
}

/// The client library's configuration for the same broker and identity as a command line.
pub fn client_config(cli: &Cli) -> ClientConfig {
    let mut config = ClientConfig::new(cli.address().parse().expect("an address"), cli.identity());
    config.renewal = Renewal::OnDemand;
    if let Some(file) = cli.clock() {
        config.clock = Arc::new(ShiftedClock::new(file));
    }
    config
}

/// A runtime for tests that use the library.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Asserts that everything alive in OpenBao is alive in the ledger too. Nothing may change
/// meanwhile.
///
/// There are two intended exceptions, and no caller has either. A token was created while the
/// broker was killed, before its accessor was recorded: it was not renewed, and expires within its
/// probation. A lease was minted while the broker was killed, before its intent reached the disk:
/// the ledger names the token that it ends with as a live anchor.
pub fn assert_nothing_untracked(bao: &OpenBao, history: &History, operator: &Cli) {
    let listed = World::live_credentials(operator);
    let live: BTreeSet<String> = listed
        .iter()
        .map(|c| text(c, "credential_id").to_owned())
        .collect();
    assert_eq!(untracked(bao, history, &live), Vec::<String>::new());
}

/// Everything in OpenBao that is alive and not on record, or alive and recorded as dead, apart from
/// the exceptions of [`assert_nothing_untracked`].
pub fn untracked(bao: &OpenBao, history: &History, live: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let leases: BTreeSet<&str> = history
        .handles("lease_id", |id| live.contains(id))
        .collect();
    let with_certificate = |lease: String| Some((bao.leased_certificate(&lease)?, lease));
    let listed = bao.leases(CERT_PATH).into_iter();
    let (known, unknown): (BTreeMap<String, String>, BTreeMap<String, String>) = listed
        .filter_map(with_certificate)
        .partition(|(_, lease)| leases.contains(lease.as_str()));
    // Certificates are listed last, so that a certificate that OpenBao revokes meanwhile is dead in
    // both lists. A lease with a revoked certificate is a left-over record.
    let mut usable: BTreeSet<String> = bao.usable_certificates().into_iter().collect();
    usable.retain(|serial| !known.contains_key(serial));
    let (recorded, alive) = (history.recorded_accessors(), history.live_accessors(live));
    let hangs_on_anchor = |lease: &str| {
        let accessor = bao.accessor_of_lease(lease);
        accessor.is_some_and(|accessor| alive.contains(accessor.as_str()))
    };
    for (serial, lease) in unknown {
        if usable.remove(&serial) && !hangs_on_anchor(&lease) {
            // OpenBao's record tells whether a lease is being revoked at this moment or stays.
            let detail = bao.lease(&lease);
            found.push(format!(
                "lease {lease} is alive and not on record: {detail:?}"
            ));
        }
    }
    let no_lease = |serial: &String| format!("certificate {serial} is usable and has no lease");
    found.extend(usable.iter().map(no_lease));
    for accessor in bao.task_tokens() {
        if recorded.contains(accessor.as_str()) {
            if !alive.contains(accessor.as_str()) {
                found.push(format!("token {accessor} is alive and dead on record"));
            }
        } else if let Some(ttl) = bao
            .token_ttl(&accessor)
            .filter(|ttl| *ttl > PROBATION_SECONDS)
        {
            found.push(format!("an unrecorded token lives for {ttl} s more"));
        }
    }
    found
}

/// Waits until every live credential is active, or waits only for the probation of an unrecorded
/// token.
pub fn wait_one_sweep(operator: &Cli) {
    eventually("the reconcilers finish every interrupted operation", || {
        let live = World::live_credentials(operator);
        live.iter()
            .all(|c| text(c, "state") == "active" || is_waiting_for_probation(c))
            .then_some(())
    });
}

/// Whether nothing on record has to be revoked, and the broker only waits until an unrecorded token
/// must be dead.
pub fn is_waiting_for_probation(credential: &Value) -> bool {
    let error = credential["revocation"]["last_error"]
        .as_str()
        .unwrap_or_default();
    text(credential, "state") == "revoking" && error.contains("without being recorded")
}
