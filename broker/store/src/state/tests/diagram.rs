//! `docs/states.md` draws the lives of an agent and of a credential as the rules admit them.

use std::{collections::BTreeSet, fs};

use taskpass_core::Event;

use crate::testing::{
    HOUR, Model, NOW, abandoned, agent, agent_name, credential_id, expired, frozen, intended,
    issued, new_task, owner_changed, owner_departed, released, renew_intended, renewed, retired,
    revoke_failed, revoked, revoking, started,
};

use super::ways;

type Edge = (String, String, String);

/// Every step that the rules admit, as `(from, event, to)`.
fn admitted() -> BTreeSet<Edge> {
    let mut edges = BTreeSet::new();
    let unverified = Event::CredentialRevoked {
        credential: credential_id(1),
        verified: false,
        proof: String::new(),
        took_ms: 0,
        may_live_until: Some(NOW),
        identity_until: None,
    };
    let steps = [
        intended(1, 1, 1),
        issued(1),
        abandoned(1),
        renew_intended(1),
        renewed(1),
        revoking(1),
        revoke_failed(1, 1),
        revoked(1),
        unverified,
        expired(1),
    ];
    let mut starts: Vec<Vec<Event>> = ways().into_iter().map(|(_, way)| way).collect();
    // Two more starts: no intent yet, and revoked before the outcome was known.
    starts.extend([Vec::new(), vec![intended(1, 1, 1), revoking(1)]]);
    for start in &starts {
        for step in &steps {
            let mut model = Model::new();
            model.all([started(new_task(1, 1))]);
            model.now = NOW.plus(HOUR);
            model.all(start.clone());
            let before = state(&model);
            if model.commit(step).is_ok() {
                edges.insert((before, name(step), state(&model)));
            }
        }
    }
    edges
}

fn state(model: &Model) -> String {
    let credential = model.state.credential(credential_id(1));
    credential.map_or("[*]", |c| c.state.as_str()).to_owned()
}

/// As the ledger spells it.
fn name(event: &Event) -> String {
    let json = serde_json::to_value(event).unwrap();
    json["type"].as_str().unwrap().to_owned()
}

/// Every step of agent 1 that the rules admit.
fn admitted_of_agent() -> BTreeSet<Edge> {
    let steps = [
        frozen(1),
        released(1),
        retired(1),
        owner_changed(1),
        owner_departed(1),
    ];
    let mut edges = BTreeSet::new();
    let starts = [
        vec![],
        vec![frozen(1)],
        vec![owner_departed(1)],
        vec![owner_departed(1), owner_changed(1)],
        vec![retired(1)],
    ];
    for start in &starts {
        for step in &steps {
            let mut model = Model::new();
            model.all(start.clone());
            let before = agent_state(&model);
            if model.commit(step).is_ok() {
                edges.insert((before, name(step), agent_state(&model)));
            }
        }
    }
    let mut model = Model::new();
    assert!(model.state.agent(&agent_name(3)).is_none());
    model.all([agent(3)]);
    edges.insert(("[*]".to_owned(), name(&agent(3)), "active".to_owned()));
    edges
}

fn agent_state(model: &Model) -> String {
    let agent = model.state.agent(&agent_name(1)).unwrap();
    agent.state.as_str().to_owned()
}

/// The edges of a section's diagram, without the edges to the end of the drawing.
fn drawn(section: &str) -> BTreeSet<Edge> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split(&format!("## {section}\n")).nth(1).unwrap();
    let diagram = section.split("```").nth(1).unwrap();
    let mut edges = BTreeSet::new();
    for line in diagram.lines().filter(|line| line.contains(':')) {
        let (arrow, label) = line.split_once(':').unwrap();
        let (from, to) = arrow.split_once("-->").unwrap();
        let event = label.split(',').next().unwrap();
        let [from, event, to] = [from, event, to].map(|word| word.trim().to_owned());
        edges.insert((from, event, to));
    }
    edges
}

#[test]
fn the_diagram_of_a_credential_matches_the_rules() {
    assert_eq!(drawn("Credential"), admitted());
}

#[test]
fn the_diagram_of_an_agent_matches_the_rules() {
    assert_eq!(drawn("Agent"), admitted_of_agent());
}
