//! The history as an auditor has it: exported, verified offline, and read without the broker's
//! help.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use serde_json::Value;

use crate::{Cli, Installation, witness::text};

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

/// The events of the ledger, with only the fields that an auditor can read too.
#[derive(Debug, Default)]
pub struct History {
    /// The events, oldest first.
    pub events: Vec<Value>,
}

impl History {
    /// Exports the history, verifies the export offline, and reads it.
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

    /// The last state of every credential, in the words of the API.
    pub fn credential_states(&self) -> BTreeMap<String, &'static str> {
        let mut states = BTreeMap::new();
        for event in &self.events {
            let id = match text(event, "type") {
                "credential_intended" => text(&event["credential"], "id"),
                kind if kind.starts_with("credential_") || kind == "revoke_failed" => {
                    text(event, "credential")
                }
                _ => continue,
            };
            let state = match text(event, "type") {
                "credential_intended" => "intended",
                "credential_issued" => "active",
                "credential_revoking" => "revoking",
                "credential_abandoned" => "abandoned",
                "credential_expired" => "expired",
                "credential_revoked" if event["verified"] == true => "revoked_verified",
                "credential_revoked" => "revoked_unverified",
                _ => continue,
            };
            // The broker may record the outcome of a call after it decided to revoke the
            // credential.
            let is_late = state == "active" && states.get(id).is_some_and(|was| *was != "intended");
            if !is_late {
                states.insert(id.to_owned(), state);
            }
        }
        states
    }

    /// The credentials that did not reach a final state.
    pub fn live_credentials(&self) -> BTreeSet<String> {
        let states = self.credential_states().into_iter();
        let live = states.filter(|(_, state)| ["intended", "active", "revoking"].contains(state));
        live.map(|(id, _)| id).collect()
    }

    /// Accessors of all sessions and tokens that were ever recorded.
    pub fn recorded_accessors(&self) -> BTreeSet<&str> {
        self.of_type("anchor_recorded")
            .filter_map(|e| e["anchor"]["handle"]["accessor"].as_str())
            .collect()
    }

    /// The recorded accessors that may still be alive according to the ledger: not recorded as
    /// gone, and not the token of a credential in its final state.
    pub fn live_accessors(&self, live: &BTreeSet<String>) -> BTreeSet<&str> {
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

    /// Handles of one kind, of the credentials that `keep` selects.
    pub fn handles<'a>(
        &'a self,
        kind: &'a str,
        keep: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = &'a str> {
        self.of_type("credential_issued")
            .filter(move |e| keep(text(e, "credential")))
            .filter_map(move |e| e["handle"][kind].as_str())
    }
}
