//! The work of reconcilers, found in the orders that the tables keep.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use taskpass_core::{AgentName, CredentialId, ProviderName, TaskId, Timestamp};

use super::State;
use crate::{DueRevocation, Revocations, Work};

impl State {
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
                        agent: credential.agent.clone(),
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
        let mut groups: BTreeMap<(&ProviderName, TaskId), &AgentName> = BTreeMap::new();
        // Each provider has the limit for itself: a provider that is down must not hide the
        // others'.
        let mut of_provider: HashMap<&ProviderName, usize> = HashMap::new();
        let nodes = self.anchored.iter().filter_map(|id| self.tasks.get(id));
        for node in nodes {
            for anchor in self.live_anchors_of(node) {
                let count = of_provider.entry(&anchor.provider).or_default();
                if *count < limit {
                    *count += 1;
                    groups.insert((&anchor.provider, anchor.task), &node.task.agent);
                }
            }
        }
        let groups = groups.into_iter();
        due.extend(groups.map(|((provider, task), agent)| DueRevocation {
            provider: provider.clone(),
            task,
            agent: agent.clone(),
            credentials: Vec::new(),
            // Not a first attempt: their credentials were tried before.
            attempts: 1,
        }));
    }
}

/// Things that are due at `now`, the longest due first.
fn due<T: Copy>(set: &BTreeSet<(Timestamp, T)>, now: Timestamp, limit: usize) -> Vec<T> {
    set.iter()
        .take_while(|(at, _)| *at <= now)
        .take(limit)
        .map(|(_, id)| *id)
        .collect()
}

/// The first time after `now`; `least` is the smallest id. The search skips things that are due
/// already, which may be many when a provider hangs.
fn later<T: Ord>(set: &BTreeSet<(Timestamp, T)>, now: Timestamp, least: T) -> Option<Timestamp> {
    let next = now.plus(Duration::from_millis(1));
    set.range((next, least)..).next().map(|(at, _)| *at)
}
