//! Folding a deny list that is too long for IAM.
//!
//! IAM gives all inline policies of a role 10,240 characters, and an id takes about 20. Ids begin
//! with their time of minting, so a shared beginning (`t01hx3k9*`) is a window of time. A folded
//! statement denies a session if its id is in the window **and** it was issued before the folding.
//! That is never less than before, because all sessions of a folded id are older than that. It can
//! be more: another task that began in the same window loses its session once, and gets a working
//! one by requesting again.
//!
//! The statement names the agents of the folded ids, so no other agent's session is lost. The agent
//! with the most ids is folded first, its oldest ids first, and the longest beginnings that fit are
//! used: the windows, and the harm, are as small as the limit lets them be. Where that is not
//! enough, windows name several agents. Only a list that holds not even their names denies the
//! older sessions of any agent, with `t*` at the far end, as IAM's own console does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use taskpass_core::{AgentName, Timestamp};

use super::{
    Agents, DenyList, IN_FLIGHT_MARGIN, Mark, Window, WindowKey,
    document::{ID_CHARACTERS, OWN_STATEMENT_IDS},
};

/// The longest beginning of an id that makes a window: all characters but the last.
const WINDOW_CHARS_MAX: usize = 16;

impl DenyList {
    /// Folds the ids of one agent after the other until the document fits, then of all agents
    /// together.
    pub(super) fn fold(&mut self, now: Timestamp, characters_max: usize) -> String {
        let mut document = String::new();
        for agents in self.folding_order(now) {
            let folded;
            (folded, document) = self.folded_for(&agents, now, characters_max);
            *self = folded;
            if document.len() <= characters_max {
                break;
            }
        }
        document
    }

    /// Agents with many ids alone, the one with the most first; then all known agents; then any.
    fn folding_order(&self, now: Timestamp) -> Vec<Agents> {
        let mut counts: HashMap<&AgentName, usize> = HashMap::new();
        let live = self.exact.values().filter(|entry| entry.expires > now);
        for agent in live.filter_map(|entry| entry.agent.as_ref()) {
            *counts.entry(agent).or_default() += 1;
        }
        let folded = self.windows.keys().flat_map(|(_, agents, _)| agents);
        let all: Agents = counts.keys().copied().chain(folded).cloned().collect();
        // A statement for fewer ids would be longer than the ids.
        counts.retain(|_, count| *count >= OWN_STATEMENT_IDS);
        let mut alone: Vec<_> = counts.into_iter().collect();
        alone.sort_unstable_by_key(|(agent, count)| (Reverse(*count), *agent));
        let alone = alone
            .into_iter()
            .map(|(agent, _)| Agents::from([agent.clone()]));
        let mut order: Vec<_> = alone.collect();
        order.extend(Some(all).filter(|all| !all.is_empty()));
        order.push(Agents::new());
        order
    }

    /// This list with the oldest ids of `agents` folded. If even one window for all the oldest ids
    /// does not fit, more ids are folded.
    fn folded_for(&self, agents: &Agents, now: Timestamp, characters_max: usize) -> (Self, String) {
        let is_of = |agent: Option<&AgentName>| {
            agents.is_empty() || agent.is_some_and(|agent| agents.contains(agent))
        };
        let exact = self.exact.iter();
        let live = exact.filter(|(_, entry)| entry.expires > now && is_of(entry.agent.as_ref()));
        let mut by_age: Vec<(Timestamp, Mark)> =
            live.map(|(mark, entry)| (entry.added, *mark)).collect();
        by_age.sort_unstable();
        let mut kept = (characters_max / 2 / ID_CHARACTERS).min(by_age.len().saturating_sub(1));
        loop {
            let oldest = by_age.iter().take(by_age.len() - kept);
            let oldest = oldest.map(|(_, mark)| *mark);
            let (folded, document) = self.folded(agents, &oldest, now, characters_max);
            if document.len() <= characters_max || kept == 0 {
                return (folded, document);
            }
            kept /= 2;
        }
    }

    /// This list with `marks` folded into the narrowest windows of `agents` that fit.
    fn folded(
        &self,
        agents: &Agents,
        marks: &(impl Iterator<Item = Mark> + Clone),
        now: Timestamp,
        characters_max: usize,
    ) -> (Self, String) {
        let mut characters = WINDOW_CHARS_MAX;
        loop {
            let mut folded = self.clone();
            folded.windows = shortened(&self.windows, agents, characters);
            for mark in marks.clone() {
                let Some(entry) = folded.exact.remove(&mark) else {
                    continue;
                };
                let beginning: String = mark.to_string().chars().take(characters).collect();
                // Up to the next second, as token issue times are whole seconds.
                let cutoff = entry
                    .added
                    .plus(IN_FLIGHT_MARGIN + Duration::from_secs(1))
                    .floor_to_second();
                let window = Window {
                    expires: entry.expires,
                    cutoff,
                };
                let key = (mark.kind(), agents.clone(), beginning);
                widen(&mut folded.windows, key, window);
            }
            let document = folded.render(now);
            if document.len() <= characters_max || characters == 1 {
                return (folded, document);
            }
            characters -= 1;
        }
    }
}

/// Makes some windows wider and leaves the rest as they are. A window for several agents takes up
/// the windows for each of them, and a window for any agent takes up all windows.
fn shortened(
    windows: &BTreeMap<WindowKey, Window>,
    agents: &Agents,
    characters: usize,
) -> BTreeMap<WindowKey, Window> {
    let mut shorter = BTreeMap::new();
    for (key, window) in windows {
        let (kind, of, beginning) = key;
        let is_taken_up = agents.is_empty() || (!of.is_empty() && of.is_subset(agents));
        let key = if is_taken_up {
            let beginning = beginning.chars().take(characters).collect();
            (*kind, agents.clone(), beginning)
        } else {
            key.clone()
        };
        widen(&mut shorter, key, *window);
    }
    shorter
}

fn widen(windows: &mut BTreeMap<WindowKey, Window>, key: WindowKey, more: Window) {
    let window = windows.entry(key).or_insert(more);
    window.expires = window.expires.max(more.expires);
    window.cutoff = window.cutoff.max(more.cutoff);
}
