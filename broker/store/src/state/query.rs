//! Questions to what is alive.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use taskpass_core::{
    Agent, AgentName, Anchor, AnchorState, Credential, CredentialId, JoinTokenId, ProviderName,
    Task, TaskId, TaskState, Timestamp, limits,
};

use super::{AgentUse, KeyHash, Node, Remembered, State};
use crate::{DueRevocation, JoinTokenRecord, ProviderUsage, Revocations, SvidRecord, Usage, Work};

impl State {
    pub(crate) fn agent(&self, name: &AgentName) -> Option<&Arc<Agent>> {
        self.agents.get(name)
    }

    /// Agents by name, after `after`.
    pub(crate) fn agents_after(
        &self,
        after: Option<&AgentName>,
    ) -> impl Iterator<Item = &Arc<Agent>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.agents.range((from, Unbounded)).map(|(_, agent)| agent)
    }

    pub(crate) fn token(&self, id: JoinTokenId) -> Option<&Arc<JoinTokenRecord>> {
        self.tokens.get(&id)
    }

    /// The SVID if it counts at `now`.
    pub(crate) fn live_svid(&self, serial: &str, now: Timestamp) -> Option<&Arc<SvidRecord>> {
        let open = |task: TaskId| self.task_open(task, now).is_ok();
        self.svids
            .get(serial)
            .filter(|svid| svid.not_after > now && svid.task().is_none_or(open))
    }

    /// A task that has not ended, with what hangs on it.
    pub(crate) fn node(&self, id: TaskId) -> Option<&Node> {
        self.tasks.get(&id)
    }

    pub(crate) fn open_tasks(&self) -> Vec<Arc<Task>> {
        self.tasks
            .values()
            .filter(|node| node.task.state == TaskState::Open)
            .map(|node| Arc::clone(&node.task))
            .collect()
    }

    pub(crate) fn credential(&self, id: CredentialId) -> Option<&Arc<Credential>> {
        self.credentials.get(&id)
    }

    /// All credentials in memory that were made before `before`, newest first.
    pub(crate) fn credentials_before(
        &self,
        before: Option<CredentialId>,
    ) -> impl Iterator<Item = &Arc<Credential>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let to = before.map_or(Unbounded, Excluded);
        let range = self.credentials.range((Unbounded, to));
        range.rev().map(|(_, credential)| credential)
    }

    /// All tasks that have not ended and were made before `before`, newest first.
    pub(crate) fn tasks_before(&self, before: Option<TaskId>) -> impl Iterator<Item = &Arc<Task>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let to = before.map_or(Unbounded, Excluded);
        let range = self.tasks.range((Unbounded, to));
        range.rev().map(|(_, node)| &node.task)
    }

    /// The credentials of a task that has not ended, by id.
    pub(crate) fn credentials_of(&self, node: &Node) -> Vec<Arc<Credential>> {
        let ids = node.credentials.iter();
        ids.filter_map(|id| self.credentials.get(id).cloned())
            .collect()
    }

    /// The anchors of a task that has not ended, by id.
    pub(crate) fn anchors_of(&self, node: &Node) -> Vec<Arc<Anchor>> {
        let ids = node.anchors.iter();
        ids.filter_map(|id| self.anchors.get(id).cloned()).collect()
    }

    /// What was made with an idempotency key, while it is remembered.
    pub(crate) fn remembered(&self, hash: &KeyHash, now: Timestamp) -> Option<&Arc<Remembered>> {
        self.keys
            .get(hash)
            .filter(|key| key.time.plus(limits::IDEMPOTENCY_KEPT) > now)
    }

    pub(crate) fn usage(&self, agent: &AgentName, now: Timestamp) -> Usage {
        let Some(held) = self.agent_use.get(agent) else {
            return Usage::default();
        };
        let AgentUse {
            open_tasks,
            live_credentials,
            unused_tokens,
        } = held;
        let usable = unused_tokens
            .iter()
            .filter(|id| self.token_unused(**id, now).is_ok());
        Usage {
            open_tasks: *open_tasks,
            live_credentials: *live_credentials,
            join_tokens: u32::try_from(usable.count()).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn usage_of_provider(&self, name: &ProviderName) -> ProviderUsage {
        self.providers.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn work(&self, now: Timestamp, limit: usize) -> Work {
        let deadline = later(&self.deadlines, now, TaskId::first_at(Timestamp::EPOCH));
        let expiry = later(
            &self.expiries,
            now,
            CredentialId::first_at(Timestamp::EPOCH),
        );
        Work {
            overdue_tasks: due(&self.deadlines, now, limit),
            ending_tasks: self.finished.iter().copied().take(limit).collect(),
            expired_credentials: due(&self.expiries, now, limit),
            interrupted: self.intended.iter().copied().take(limit).collect(),
            next: deadline.into_iter().chain(expiry).min(),
        }
    }

    pub(crate) fn revocations(&self, now: Timestamp, limit: usize) -> Revocations {
        let mut due = Vec::new();
        for (provider, retries) in &self.retries {
            self.due_at(provider, retries, now, limit, &mut due);
        }
        self.waiting_anchors(limit, &mut due);
        let first = CredentialId::first_at(Timestamp::EPOCH);
        let next = self.retries.values();
        let next = next.filter_map(|retries| later(retries, now, first)).min();
        Revocations { due, next }
    }

    fn due_at(
        &self,
        provider: &ProviderName,
        retries: &BTreeSet<(Timestamp, CredentialId)>,
        now: Timestamp,
        limit: usize,
        due: &mut Vec<DueRevocation>,
    ) {
        let after_now = now.plus(Duration::from_millis(1));
        let of_now = retries.range(..(after_now, CredentialId::first_at(Timestamp::EPOCH)));
        let mut listed: Vec<_> = of_now.clone().take(limit.div_ceil(2)).collect();
        let last = listed.last().copied();
        let newest = of_now.rev().take(limit / 2);
        listed.extend(newest.take_while(|retry| Some(*retry) > last));
        let mut of_task: HashMap<TaskId, usize> = HashMap::new();
        for (_, id) in listed {
            if let Some(credential) = self.credentials.get(id) {
                let place = *of_task.entry(credential.task).or_insert(due.len());
                if place == due.len() {
                    due.push(DueRevocation {
                        provider: provider.clone(),
                        task: credential.task,
                        credentials: Vec::new(),
                        attempts: u32::MAX,
                    });
                }
                if let Some(group) = due.get_mut(place) {
                    let failed = credential.revocation.as_ref().map_or(0, |r| r.attempts);
                    group.credentials.push(*id);
                    group.attempts = group.attempts.min(failed);
                }
            }
        }
    }

    fn waiting_anchors(&self, limit: usize, due: &mut Vec<DueRevocation>) {
        let mut groups: BTreeSet<(&ProviderName, TaskId)> = BTreeSet::new();
        // Each provider has the limit for itself: one that is down must not hide the others'.
        let mut of_provider: HashMap<&ProviderName, usize> = HashMap::new();
        let nodes = self.anchored.iter().filter_map(|id| self.tasks.get(id));
        for node in nodes {
            let anchors = node.anchors.iter().filter_map(|id| self.anchors.get(id));
            for anchor in anchors.filter(|a| a.state == AnchorState::Live) {
                let count = of_provider.entry(&anchor.provider).or_default();
                if *count < limit {
                    *count += 1;
                    groups.insert((&anchor.provider, anchor.task));
                }
            }
        }
        due.extend(groups.into_iter().map(|(provider, task)| DueRevocation {
            provider: provider.clone(),
            task,
            credentials: Vec::new(),
            // Their credentials were revoked, or tried.
            attempts: 1,
        }));
    }
}

/// What is due at `now`, the longest due first.
fn due<T: Copy>(
    set: &std::collections::BTreeSet<(Timestamp, T)>,
    now: Timestamp,
    limit: usize,
) -> Vec<T> {
    set.iter()
        .take_while(|(at, _)| *at <= now)
        .take(limit)
        .map(|(_, id)| *id)
        .collect()
}

/// The first time after `now`; `least` is the smallest id. What is due already may be much, when a provider hangs.
fn later<T: Ord>(
    set: &std::collections::BTreeSet<(Timestamp, T)>,
    now: Timestamp,
    least: T,
) -> Option<Timestamp> {
    let next = now.plus(std::time::Duration::from_millis(1));
    set.range((next, least)..).next().map(|(at, _)| *at)
}
