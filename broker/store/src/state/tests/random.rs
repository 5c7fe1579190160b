//! Random histories: the derived numbers are right, undoing is exact, and the ledger alone gives
//! the same state.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use taskpass_core::{AnchorState, CredentialState, Event, SvidState, Task, TaskState, limits};

use super::super::{Change, State};
use crate::testing::{
    HOUR, Model, NOW, abandoned, agent_name, anchor, anchor_id, child, conflict, ended, ending,
    expired, frozen, intended, issued, joined, keyed, local_operator_svid, new_task, operator_svid,
    owner_changed, owner_departed, released, renew_intended, renewed, retired, revoke_failed,
    revoked, revoking, started, svid, svid_activated, svid_issued, task_id, token, withdrawn,
};

/// An event from three random numbers; the state often refuses it.
fn event(kind: u8, a: u64, b: u64, model: &Model) -> Event {
    let agent = a % 2 + 1;
    match kind {
        0 => started(new_task(a, agent)),
        1 => match model.state.node(task_id(b)) {
            Some(node) => {
                let below = started(Task {
                    deadline: node.task.deadline,
                    ..child(a + 50, agent, &node.task)
                });
                keyed(below, &format!("t{a}"))
            }
            None => started(new_task(a, agent)),
        },
        2 | 3 => {
            let of = model
                .state
                .node(task_id(b))
                .map_or(1, |node| u64::from(node.task.agent == agent_name(2)) + 1);
            keyed(intended(a, b, of), &format!("k{a}"))
        }
        4 | 5 => issued(a),
        6 => abandoned(a),
        7 => revoking(a),
        8 => revoke_failed(a, u32::try_from(b % 3 + 1).unwrap()),
        9 => revoked(a),
        10 => expired(a),
        11 => ending(a),
        12 => ended(a),
        13 => anchor(a, b),
        14 => Event::AnchorGone {
            anchor: anchor_id(a),
        },
        15 => token(a, agent),
        16 => joined(&format!("s{b}"), agent, a),
        17 => {
            let task = model.state.node(task_id(b)).map(|node| node.task.clone());
            match task {
                Some(task) => {
                    let of = u64::from(task.agent == agent_name(2)) + 1;
                    svid_issued(svid(&format!("s{a}"), of, Some(task.id)))
                }
                None => svid_issued(svid(&format!("s{a}"), agent, None)),
            }
        }
        18 => svid_activated(&format!(
            "{}{a}",
            if b.is_multiple_of(2) { "s" } else { "o" }
        )),
        19 => keyed(renew_intended(a), &format!("r{a}")),
        22 => match b % 4 {
            0 => frozen(agent),
            1 => released(agent),
            2 => owner_departed(agent),
            _ => owner_changed(agent),
        },
        23 => conflict(&format!("s{a}")),
        24 => withdrawn(a),
        25 if b == 0 => retired(agent),
        20 if b == 0 => local_operator_svid(&format!("o{a}")),
        20 => operator_svid(&format!("o{a}"), Some(&format!("o{b}"))),
        _ => keyed(renewed(a), &format!("r{a}")),
    }
}

/// The same records put into an empty state one by one.
fn rebuilt(state: &State) -> State {
    let mut fresh = State::default();
    fresh.set(&Change::Position(state.next, state.last_time));
    fresh.set(&Change::TrustDomain(state.trust_domain.clone()));
    for (name, agent) in &state.agents {
        fresh.set(&Change::Agent(name.clone(), Some(agent.clone())));
    }
    for (serial, svid) in &state.superseded {
        fresh.set(&Change::Superseded(serial.clone(), Some(svid.clone())));
    }
    for (id, token) in &state.tokens {
        fresh.set(&Change::Token(*id, Some(token.clone())));
    }
    for (serial, svid) in &state.svids {
        fresh.set(&Change::Svid(serial.clone(), Some(svid.clone())));
    }
    let mut tasks: Vec<_> = state.tasks.values().map(|node| &node.task).collect();
    tasks.sort_by_key(|task| task.depth);
    for task in tasks {
        fresh.set(&Change::Task(task.id, Some(task.clone())));
    }
    for (id, credential) in &state.credentials {
        fresh.set(&Change::Credential(*id, Some(credential.clone())));
    }
    for (id, anchor) in &state.anchors {
        fresh.set(&Change::Anchor(*id, Some(anchor.clone())));
    }
    for (hash, key) in &state.keys {
        fresh.set(&Change::Key(*hash, Some(key.clone())));
    }
    fresh
}

/// The keys of each task, and none of a task that is gone.
fn check_keys(state: &State) {
    let of_tasks: usize = state.tasks.values().map(|node| node.keys.len()).sum();
    let hang_on_tasks = state.keys.values().filter_map(|key| key.task);
    assert_eq!(of_tasks, hang_on_tasks.count(), "a key outlives its task");
    for (id, node) in &state.tasks {
        let keys = state.keys.values().filter(|key| key.task == Some(*id));
        assert_eq!(node.keys.len(), keys.count());
    }
}

/// Counts everything from the records alone.
fn check_counts(state: &State) {
    let live: Vec<_> = state
        .credentials
        .values()
        .filter(|c| !c.state.is_final())
        .collect();
    for (id, node) in &state.tasks {
        let own = live.iter().filter(|c| c.task == *id).count();
        let below = live
            .iter()
            .filter(|c| state.ancestors(c.task).any(|t| t == *id))
            .count();
        assert_eq!((node.live as usize, node.live_below as usize), (own, below));
        let anchors = state.anchors.values().filter(|a| a.task == *id);
        let anchored = anchors.filter(|a| a.state == AnchorState::Live).count();
        assert_eq!(node.live_anchors as usize, anchored);
        let quiet = own == 0 && node.task.state == TaskState::Ending;
        let childless = !state.tasks.values().any(|n| n.task.parent == Some(*id));
        assert_eq!(
            state.finished.contains(id),
            quiet && anchored == 0 && childless
        );
        assert_eq!(state.anchored.contains(id), quiet && anchored > 0);
        let parent_gone = node
            .task
            .parent
            .is_some_and(|p| !state.tasks.contains_key(&p));
        assert!(!parent_gone, "a task outlives its parent");
        let parent = node.task.parent.and_then(|p| state.node(p));
        let open_under_ending = node.task.state == TaskState::Open
            && parent.is_some_and(|p| p.task.state != TaskState::Open);
        assert!(!open_under_ending);
    }
    for agent in state.agents.keys() {
        let usage = state.usage(agent, NOW);
        let open =
            |n: &&super::super::Node| n.task.agent == *agent && n.task.state == TaskState::Open;
        assert_eq!(
            usage.open_tasks as usize,
            state.tasks.values().filter(open).count()
        );
        let held = live.iter().filter(|c| c.agent == *agent).count();
        assert_eq!(usage.live_credentials as usize, held);
    }
    let in_state = |s| live.iter().filter(|c| c.state == s).count();
    assert_eq!(state.intended.len(), in_state(CredentialState::Intended));
    assert_eq!(state.expiries.len(), in_state(CredentialState::Active));
    let due: usize = state
        .retries
        .values()
        .map(std::collections::BTreeSet::len)
        .sum();
    assert_eq!(due, in_state(CredentialState::Revoking));
    assert_eq!(state.revoking.len(), due);
    let open_credential_in_ending_task = live.iter().any(|c| {
        c.state != CredentialState::Revoking && state.tasks[&c.task].task.state != TaskState::Open
    });
    assert!(!open_credential_in_ending_task);
}

/// Only active agents work and are heard, each identity by one SVID in use.
fn check_identities(state: &State) {
    for node in state.tasks.values() {
        if node.task.state == TaskState::Open {
            assert!(
                state.agent_active(&node.task.agent).is_ok(),
                "a stopped agent works"
            );
        }
    }
    for svid in state.svids.values() {
        if let Some(agent) = svid.holder.agent() {
            assert!(
                state.agent_active(agent).is_ok(),
                "a stopped agent is heard"
            );
        }
    }
    let superseded = state.superseded_of.values();
    assert!(
        superseded
            .clone()
            .all(|of| of.len() <= limits::SUPERSEDED_SVIDS_PER_IDENTITY_MAX)
    );
    assert!(
        !state
            .superseded
            .keys()
            .any(|serial| state.svids.contains_key(serial))
    );
    let mut active = BTreeMap::new();
    for svid in state
        .svids
        .values()
        .filter(|s| s.state == SvidState::Active)
    {
        *active.entry(&svid.holder).or_insert(0) += 1;
    }
    assert!(
        active.values().all(|n| *n == 1),
        "one SVID in use per identity"
    );
}

/// What metrics read at once is what a look at everything finds.
fn check_shortcuts(state: &State) {
    let credentials = state.credentials.values();
    let revoking = credentials.filter(|c| c.state == CredentialState::Revoking);
    let since = revoking.filter_map(|c| Some(c.revocation.as_ref()?.since));
    assert_eq!(state.oldest_revocation(), since.min());
    assert_eq!(state.open_task_count(), state.open_tasks().len());
}

/// The state from its records, as an image has them.
fn imaged(state: &State) -> State {
    let records = rmp_serde::to_vec_named(&state.records()).unwrap();
    let records: Vec<Change> = rmp_serde::from_slice(&records).unwrap();
    let mut imaged = State::default();
    imaged.set(&Change::Position(state.next, state.last_time));
    imaged.set(&Change::TrustDomain(state.trust_domain.clone()));
    for record in &records {
        imaged.set(record);
    }
    imaged
}

fn replayed(model: &Model) -> State {
    let mut state = State::default();
    for entry in &model.entries {
        let json = serde_json::to_vec(entry).unwrap();
        let entry = crate::Entry::parse(&json).unwrap();
        let effects = state.effects(&entry.event, entry.time).unwrap();
        for change in &effects.changes {
            state.set(change);
        }
        state.set(&Change::Position(state.next + 1, entry.time));
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn histories(steps in prop::collection::vec((0_u8..26, 0_u64..12, 0_u64..12, 0_u64..90), 1..250)) {
        let mut model = Model::new();
        let mut admitted = 0;
        for (kind, a, b, wait) in steps {
            model.now = model.now.plus(Duration::from_secs(wait));
            let before = model.state.clone();
            let event = event(kind, a, b, &model);
            if model.commit(&event).is_err() {
                prop_assert_eq!(&model.state, &before);
                continue;
            }
            admitted += 1;
            let after = model.state.clone();
            for change in model.inverse.iter().rev() {
                model.state.set(change);
            }
            prop_assert_eq!(&model.state, &before, "undoing {:?}", event);
            model.state = after;
        }
        prop_assert!(admitted <= model.entries.len());
        check_counts(&model.state);
        check_identities(&model.state);
        check_shortcuts(&model.state);
        check_keys(&model.state);
        prop_assert_eq!(&rebuilt(&model.state), &model.state);
        prop_assert_eq!(&imaged(&model.state), &model.state);
        prop_assert_eq!(&replayed(&model), &model.state);
        // Pruning early or late gives the same state in the end.
        let later = model.now.plus(50 * HOUR);
        let mut twice = model.state.clone();
        for at in [model.now, later] {
            for change in twice.stale(at) {
                twice.set(&change);
            }
        }
        for change in model.state.stale(later) {
            model.state.set(&change);
        }
        prop_assert_eq!(&twice, &model.state);
        prop_assert_eq!(&rebuilt(&model.state), &model.state);
    }
}
