//! How much of a deny list each agent takes, and may take.
//!
//! Every task with a session that may still live takes one id: when it ends, its id must be on the
//! list. So the ids are counted when a session is minted, and an agent over its share gets no
//! further session. Refusing to issue is the only way out, because revoking is never refused, and a
//! list that is full denies more than it should.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::{AgentName, Share, TaskId, Timestamp};
use taskpass_provider::ProviderError;

use crate::deny_list::{CLOCK_MARGIN, Mark, ids_within};

/// The least pause before an agent over its share tries again.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The ids of one deny list, by agent.
#[derive(Debug)]
pub(crate) struct ListShares {
    share: Share,
    /// How many ids fit. It shrinks when the role's own policies leave less room than configured.
    all: AtomicUsize,
    /// Ids in the document that are of no known agent.
    unattributed: AtomicUsize,
    taken: Mutex<BTreeMap<AgentName, BTreeMap<Mark, Taken>>>,
}

/// An id that an agent takes.
#[derive(Debug)]
struct Taken {
    /// Until when it may be needed.
    until: Timestamp,
    /// Sessions that may need it, and the list itself. Calls that come together take one id, and
    /// the failure of one of them must not free the id of the others.
    holders: usize,
}

/// An id that was counted before its session was minted.
#[derive(Debug)]
#[must_use = "it must be given back if nothing was minted"]
pub(crate) struct Reservation<'a> {
    shares: &'a ListShares,
    agent: &'a AgentName,
    mark: Mark,
}

impl Reservation<'_> {
    /// Gives the id back: no session was minted. The id stays taken while another session of the
    /// task may need it.
    pub(crate) fn give_back(self) {
        if let Some(marks) = self.shares.taken.lock().get_mut(self.agent)
            && let Some(taken) = marks.get_mut(&self.mark)
        {
            taken.holders = taken.holders.saturating_sub(1);
            if taken.holders == 0 {
                marks.remove(&self.mark);
            }
        }
    }
}

impl ListShares {
    pub(crate) fn new(share: Share, characters_max: usize) -> Self {
        Self {
            share,
            all: AtomicUsize::new(ids_within(characters_max)),
            unattributed: AtomicUsize::new(0),
            taken: Mutex::default(),
        }
    }

    /// Counts the id of a task whose session ends at `session_end`, or says that the agent's share
    /// is used up.
    pub(crate) fn reserve<'a>(
        &'a self,
        agent: &'a AgentName,
        task: TaskId,
        session_end: Timestamp,
        now: Timestamp,
    ) -> Result<Reservation<'a>, ProviderError> {
        let mut taken = self.taken.lock();
        taken.retain(|_, marks| {
            marks.retain(|_, taken| taken.until > now);
            !marks.is_empty()
        });
        let all = self.all.load(Ordering::Relaxed);
        // What an agent takes beyond its share, by revoking, is folded into few windows.
        let most = self.share.alone(all);
        let counted: usize = taken.values().map(|marks| marks.len().min(most)).sum();
        let others = self.unattributed.load(Ordering::Relaxed);
        let free = all.saturating_sub(counted).saturating_sub(others);
        let mark = Mark::Task(task);
        let marks = taken.entry(agent.clone()).or_default();
        let is_new = !marks.contains_key(&mark);
        if is_new && !self.share.grants(marks.len(), free) {
            let held = marks.len();
            let first = marks.values().map(|taken| taken.until).min();
            let first = first.map_or(RETRY_MIN, |at| at.since(now));
            return Err(ProviderError::Exhausted {
                message: format!(
                    "agent `{agent}` has {held} tasks whose sessions must be deniable, which is its share of the deny list of the role (`agent_share` in `[provider.revoker]`); wait until sessions expire, or ask for a shorter ttl"
                ),
                after: first.max(RETRY_MIN),
            });
        }
        note(marks, mark, session_end);
        Ok(Reservation {
            shares: self,
            agent,
            mark,
        })
    }

    /// Counts an id that is on the list, whatever the agent's share is.
    pub(crate) fn count(&self, agent: &AgentName, mark: Mark, session_end: Timestamp) {
        let mut taken = self.taken.lock();
        note(taken.entry(agent.clone()).or_default(), mark, session_end);
    }

    /// How many ids in the document are of no known agent.
    pub(crate) fn set_unattributed(&self, ids: usize) {
        self.unattributed.store(ids, Ordering::Relaxed);
    }

    /// The document got no more room than this.
    pub(crate) fn shrink(&self, characters_max: usize) {
        self.all
            .fetch_min(ids_within(characters_max), Ordering::Relaxed);
    }
}

fn note(marks: &mut BTreeMap<Mark, Taken>, mark: Mark, session_end: Timestamp) {
    let needed = session_end.plus(CLOCK_MARGIN);
    let taken = marks.entry(mark).or_insert(Taken {
        until: needed,
        holders: 0,
    });
    taken.until = needed.max(taken.until);
    taken.holders = taken.holders.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use taskpass_core::{ManualClock, SeededEntropy};

    use super::*;

    #[test]
    fn an_agent_over_its_share_waits_for_sessions_to_expire() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let (clock, entropy) = (ManualClock::new(now), SeededEntropy::new(3));
        let task = || TaskId::generate(&clock, &entropy).unwrap();
        let shares = ListShares::new(Share::percent(50), 1024);
        let (a, b): (AgentName, AgentName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let life = Duration::from_secs(900);
        let end = now.plus(life);
        let first = task();
        let mut held = 0;
        let refused = loop {
            let id = if held == 0 { first } else { task() };
            match shares.reserve(&a, id, end, now) {
                Ok(_kept) => held += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(held, ids_within(1024) / 2);
        assert!(refused.nothing_was_minted(), "{refused}");
        assert_eq!(refused.after(), Some(life + CLOCK_MARGIN));
        // Another session of a task takes no other id, and another agent has its own share.
        let again = shares.reserve(&a, first, end, now).unwrap();
        again.give_back();
        assert!(shares.reserve(&a, task(), end, now).is_err());
        shares.reserve(&b, task(), end, now).unwrap().give_back();
        // A restart leaves ids of no known agent, which take room as well.
        shares.set_unattributed(ids_within(1024));
        assert!(shares.reserve(&b, task(), end, now).is_err());
        shares.set_unattributed(0);
        // Revoking is not refused, and takes no other agent's share.
        for _ in 0..ids_within(1024) {
            shares.count(&a, Mark::Task(task()), end);
        }
        shares.reserve(&b, task(), end, now).unwrap().give_back();
        let later = end.plus(CLOCK_MARGIN);
        let _kept = shares.reserve(&a, task(), later.plus(life), later).unwrap();
        assert_eq!(shares.taken.lock()[&a].len(), 1);
    }

    /// Two calls of a new task come together, and the first one fails after the second has counted
    /// on its id.
    #[test]
    fn a_call_that_fails_frees_no_id_that_another_call_needs() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let (clock, entropy) = (ManualClock::new(now), SeededEntropy::new(4));
        let shares = ListShares::new(Share::percent(50), 1024);
        let agent: AgentName = "a".parse().unwrap();
        let end = now.plus(Duration::from_secs(900));
        let most = ids_within(1024) / 2;
        let mut minted = 0;
        for _ in 0..most * 3 {
            let task = TaskId::generate(&clock, &entropy).unwrap();
            let (first, second) = (
                shares.reserve(&agent, task, end, now),
                shares.reserve(&agent, task, end, now),
            );
            if let Ok(first) = first {
                first.give_back();
            }
            minted += usize::from(second.is_ok());
        }
        assert_eq!(minted, most);
        // Without a session the id is free again.
        let later = end.plus(CLOCK_MARGIN);
        let task = TaskId::generate(&clock, &entropy).unwrap();
        let again = || shares.reserve(&agent, task, later.plus(CLOCK_MARGIN), later);
        let (first, second) = (again().unwrap(), again().unwrap());
        first.give_back();
        assert_eq!(shares.taken.lock()[&agent].len(), 1);
        second.give_back();
        assert!(shares.taken.lock()[&agent].is_empty());
    }
}
