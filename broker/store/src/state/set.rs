//! Setting one record, with everything that is derived from it.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    mem,
    sync::Arc,
};

use taskpass_core::{
    AgentName, Anchor, AnchorId, AnchorState, Credential, CredentialId, CredentialState,
    JoinTokenId, Task, TaskId, TaskState,
};

use super::{AgentUse, Change, KeyHash, Node, Remembered, State};
use crate::{JoinTokenRecord, SvidRecord};

/// Whether something begins or ceases to count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    Up,
    Down,
}

impl Count {
    const fn on(self, number: &mut u32) {
        *number = match self {
            Self::Up => number.saturating_add(1),
            Self::Down => number.saturating_sub(1),
        };
    }

    fn member<T: Ord>(self, set: &mut BTreeSet<T>, value: T) {
        match self {
            Self::Up => set.insert(value),
            Self::Down => set.remove(&value),
        };
    }
}

fn put<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

impl State {
    /// Makes one change and returns its inverse.
    pub(crate) fn set(&mut self, change: &Change) -> Change {
        match change {
            Change::Position(next, time) => Change::Position(
                mem::replace(&mut self.next, *next),
                mem::replace(&mut self.last_time, *time),
            ),
            Change::TrustDomain(domain) => {
                Change::TrustDomain(mem::replace(&mut self.trust_domain, domain.clone()))
            }
            Change::Agent(name, agent) => {
                let before = match agent {
                    Some(agent) => self.agents.insert(name.clone(), Arc::clone(agent)),
                    None => self.agents.remove(name),
                };
                Change::Agent(name.clone(), before)
            }
            Change::Token(id, token) => Change::Token(*id, self.set_token(*id, token.as_ref())),
            Change::Svid(serial, svid) => {
                Change::Svid(serial.clone(), self.set_svid(serial, svid.as_ref()))
            }
            Change::Task(id, task) => Change::Task(*id, self.set_task(*id, task.as_ref())),
            Change::Credential(id, credential) => {
                Change::Credential(*id, self.set_credential(*id, credential.as_ref()))
            }
            Change::Anchor(id, anchor) => {
                Change::Anchor(*id, self.set_anchor(*id, anchor.as_ref()))
            }
            Change::Key(hash, key) => Change::Key(*hash, self.set_key(*hash, key.as_ref())),
        }
    }

    fn set_token(
        &mut self,
        id: JoinTokenId,
        token: Option<&Arc<JoinTokenRecord>>,
    ) -> Option<Arc<JoinTokenRecord>> {
        let before = put(&mut self.tokens, id, token.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (token, Count::Up)] {
            let Some(record) = record else { continue };
            count.member(&mut self.tokens_by_end, (record.token.expires_at, id));
            if !record.used {
                self.with_agent(&record.token.agent, |held| {
                    count.member(&mut held.unused_tokens, id);
                });
            }
        }
        before
    }

    fn set_svid(
        &mut self,
        serial: &str,
        svid: Option<&Arc<SvidRecord>>,
    ) -> Option<Arc<SvidRecord>> {
        let before = put(&mut self.svids, serial.to_owned(), svid.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (svid, Count::Up)] {
            let Some(record) = record else { continue };
            let by_end = (record.not_after, serial.to_owned());
            count.member(&mut self.svids_by_end, by_end);
            let of_holder = self.svids_of.entry(record.holder.clone()).or_default();
            count.member(of_holder, (record.entry, serial.to_owned()));
            if of_holder.is_empty() {
                self.svids_of.remove(&record.holder);
            }
        }
        before
    }

    fn set_task(&mut self, id: TaskId, task: Option<&Arc<Task>>) -> Option<Arc<Task>> {
        let before = self.tasks.get(&id).map(|node| Arc::clone(&node.task));
        for (record, count) in [(before.as_ref(), Count::Down), (task, Count::Up)] {
            let Some(record) = record else { continue };
            if record.state == TaskState::Open {
                count.member(&mut self.deadlines, (record.deadline, id));
                self.with_agent(&record.agent, |held| count.on(&mut held.open_tasks));
            }
            if let Some(parent) = record.parent {
                if let Some(node) = self.tasks.get_mut(&parent) {
                    count.member(&mut node.children, id);
                }
                self.recheck(parent);
            }
        }
        match (task, self.tasks.get_mut(&id)) {
            (Some(task), Some(node)) => node.task = Arc::clone(task),
            (Some(task), None) => {
                self.tasks.insert(id, Node::of(Arc::clone(task)));
            }
            (None, _) => {
                self.tasks.remove(&id);
            }
        }
        self.recheck(id);
        before
    }

    fn set_credential(
        &mut self,
        id: CredentialId,
        credential: Option<&Arc<Credential>>,
    ) -> Option<Arc<Credential>> {
        let before = match credential.cloned() {
            Some(credential) => self.credentials.insert(id, credential),
            None => self.credentials.remove(&id),
        };
        for (record, count) in [(before.as_ref(), Count::Down), (credential, Count::Up)] {
            let Some(record) = record else { continue };
            if let Some(node) = self.tasks.get_mut(&record.task) {
                count.member(&mut node.credentials, id);
            }
            if !record.state.is_final() {
                self.count_live(record, count);
            }
            self.schedule(id, record, count);
        }
        for record in [before.as_ref(), credential].into_iter().flatten() {
            self.recheck(record.task);
        }
        before
    }

    /// Counts a live credential at its task, the tasks above it, its agent and its provider.
    fn count_live(&mut self, credential: &Credential, count: Count) {
        let mut at = Some(credential.task);
        while let Some(node) = at.and_then(|id| self.tasks.get_mut(&id)) {
            if node.task.id == credential.task {
                count.on(&mut node.live);
            }
            count.on(&mut node.live_below);
            at = node.task.parent;
        }
        self.with_agent(&credential.agent, |held| {
            count.on(&mut held.live_credentials);
        });
        let provider = credential.role.provider();
        let usage = self.providers.entry(provider.clone()).or_default();
        count.on(&mut usage.live_credentials);
        if credential.state == CredentialState::Revoking {
            count.on(&mut usage.revoking);
        }
        if usage.live_credentials == 0 {
            self.providers.remove(provider);
        }
    }

    /// Puts a credential where reconcilers look for it.
    fn schedule(&mut self, id: CredentialId, credential: &Credential, count: Count) {
        match credential.state {
            CredentialState::Intended => count.member(&mut self.intended, id),
            CredentialState::Active => count.member(&mut self.expiries, (credential.ends_at(), id)),
            CredentialState::Revoking => {
                let retry_at = credential
                    .revocation
                    .as_ref()
                    .map_or(credential.intended_at, |r| r.retry_at);
                let provider = credential.role.provider();
                let due = self.retries.entry(provider.clone()).or_default();
                count.member(due, (retry_at, id));
                if due.is_empty() {
                    self.retries.remove(provider);
                }
            }
            CredentialState::RevokedVerified
            | CredentialState::RevokedUnverified
            | CredentialState::Expired
            | CredentialState::Abandoned => {}
        }
    }

    fn set_anchor(&mut self, id: AnchorId, anchor: Option<&Arc<Anchor>>) -> Option<Arc<Anchor>> {
        let before = put(&mut self.anchors, id, anchor.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (anchor, Count::Up)] {
            let Some(record) = record else { continue };
            if let Some(node) = self.tasks.get_mut(&record.task) {
                count.member(&mut node.anchors, id);
                if record.state == AnchorState::Live {
                    count.on(&mut node.live_anchors);
                }
            }
            self.recheck(record.task);
        }
        before
    }

    fn set_key(&mut self, hash: KeyHash, key: Option<&Arc<Remembered>>) -> Option<Arc<Remembered>> {
        let before = put(&mut self.keys, hash, key.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (key, Count::Up)] {
            if let Some(record) = record {
                let of_owner = self.keys_of.entry(record.owner).or_default();
                count.member(of_owner, (record.time, hash));
                if of_owner.is_empty() {
                    self.keys_of.remove(&record.owner);
                }
                if let Some(node) = record.task.and_then(|id| self.tasks.get_mut(&id)) {
                    count.member(&mut node.keys, (record.time, hash));
                }
            }
        }
        before
    }

    /// Changes what an agent holds; agents that hold nothing take no room.
    fn with_agent(&mut self, name: &AgentName, change: impl FnOnce(&mut AgentUse)) {
        let held = self.agent_use.entry(name.clone()).or_default();
        change(held);
        if *held == AgentUse::default() {
            self.agent_use.remove(name);
        }
    }

    /// Puts a task among those that can be ended, or whose anchors wait, if that is so now.
    fn recheck(&mut self, id: TaskId) {
        let (finished, anchored) = self.tasks.get(&id).map_or((false, false), |node| {
            let quiet = node.task.state == TaskState::Ending && node.live == 0;
            (
                quiet && node.live_anchors == 0 && node.children.is_empty(),
                quiet && node.live_anchors > 0,
            )
        });
        for (holds, set) in [
            (finished, &mut self.finished),
            (anchored, &mut self.anchored),
        ] {
            if holds {
                set.insert(id);
            } else {
                set.remove(&id);
            }
        }
    }
}

impl Node {
    const fn of(task: Arc<Task>) -> Self {
        Self {
            task,
            children: BTreeSet::new(),
            credentials: BTreeSet::new(),
            anchors: BTreeSet::new(),
            keys: BTreeSet::new(),
            live: 0,
            live_below: 0,
            live_anchors: 0,
        }
    }
}
