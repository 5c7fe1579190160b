//! The policy document of a deny list: how it is written and read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde_json::{Value, json};
use taskpass_core::{AgentName, Timestamp};

use super::{AGENT_TAG, Agents, DenyList, Kind, Mark};
use crate::session_policy::iam_time;

/// The condition that names the agents of a statement. It holds for a session without an agent's
/// tag, too: a release without that tag may have minted it, and an ended task stays denied.
pub(super) const AGENT_OPERATOR: &str = "StringEqualsIfExists";

/// About how many characters one id takes in the document.
pub(super) const ID_CHARACTERS: usize = 20;
/// So many ids of one agent and kind get a statement of their own. Fewer share one, because a
/// statement costs as much as a dozen ids.
pub(super) const OWN_STATEMENT_IDS: usize = 64;
/// The characters of a statement of its own, for each of its ids.
const OWN_STATEMENT_CHARACTERS_PER_ID: usize = 5;
/// The characters of a document besides ids and statements of agents.
const FIXED_CHARACTERS: usize = 512;

/// How many ids fit into a document for certain, whatever agents they are of.
pub(crate) const fn ids_within(characters_max: usize) -> usize {
    let room = characters_max.saturating_sub(FIXED_CHARACTERS);
    room / (ID_CHARACTERS + OWN_STATEMENT_CHARACTERS_PER_ID)
}

pub(super) fn agent_key() -> String {
    format!("aws:PrincipalTag/{AGENT_TAG}")
}

impl DenyList {
    /// The policy document as of `now`.
    pub(super) fn render(&self, now: Timestamp) -> String {
        let mut statements = Vec::new();
        for kind in Kind::ALL {
            let exact = self.exact_by_agent(kind, now);
            for (n, (agent, (ids, until))) in exact.into_iter().enumerate() {
                let mut condition = json!({"StringEquals": {kind.condition_key(): ids}});
                name_agents(&mut condition, agent);
                statements.push(deny(kind, n, Form::Exact, until, &condition));
            }
            let windows = self.windows_by_agents(kind, now);
            for (n, (agents, folded)) in windows.into_iter().enumerate() {
                let mut condition = json!({
                    "StringLike": {kind.condition_key(): folded.beginnings},
                    "DateLessThan": {"aws:TokenIssueTime": iam_time(folded.cutoff)},
                });
                name_agents(&mut condition, agents);
                statements.push(deny(kind, n, Form::Windows, folded.until, &condition));
            }
        }
        if statements.is_empty() {
            // A policy needs a statement, and deleting it would need one more permission. No task
            // has this id.
            let condition = json!({"StringEquals": {Kind::Task.condition_key(): ["none"]}});
            let sid = format!("TaskpassNobody{}", stamp(Timestamp::EPOCH));
            statements.push(statement(&sid, &condition));
        }
        json!({"Version": "2012-10-17", "Statement": statements}).to_string()
    }

    /// The live ids of each agent with a statement of its own, and the live ids of all other
    /// agents, with the time until which the last id is needed.
    fn exact_by_agent(
        &self,
        kind: Kind,
        now: Timestamp,
    ) -> BTreeMap<Option<&AgentName>, (Vec<String>, Timestamp)> {
        let live = || {
            let exact = self.exact.iter();
            exact.filter(move |(mark, entry)| mark.kind() == kind && entry.expires > now)
        };
        let mut counts: HashMap<&AgentName, usize> = HashMap::new();
        for agent in live().filter_map(|(_, entry)| entry.agent.as_ref()) {
            *counts.entry(agent).or_default() += 1;
        }
        let mut groups = BTreeMap::new();
        for (mark, entry) in live() {
            let own = |agent: &&AgentName| counts.get(agent) >= Some(&OWN_STATEMENT_IDS);
            let group = groups.entry(entry.agent.as_ref().filter(own));
            let (ids, until) = group.or_insert_with(|| (Vec::new(), now));
            ids.push(Mark::to_string(mark));
            *until = entry.expires.max(*until);
        }
        groups
    }

    fn windows_by_agents(&self, kind: Kind, now: Timestamp) -> BTreeMap<&Agents, Folded> {
        let mut groups: BTreeMap<&Agents, Folded> = BTreeMap::new();
        for ((of, agents, beginning), window) in &self.windows {
            if *of != kind || window.expires <= now {
                continue;
            }
            let folded = groups.entry(agents).or_default();
            folded.beginnings.push(format!("{beginning}*"));
            folded.until = folded.until.max(window.expires);
            folded.cutoff = folded.cutoff.max(window.cutoff);
        }
        groups
    }
}

/// The windows of one statement.
#[derive(Debug)]
struct Folded {
    beginnings: Vec<String>,
    until: Timestamp,
    cutoff: Timestamp,
}

impl Default for Folded {
    fn default() -> Self {
        Self {
            beginnings: Vec::new(),
            until: Timestamp::EPOCH,
            cutoff: Timestamp::EPOCH,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Exact,
    Windows,
}

fn name_agents<'a>(condition: &mut Value, agents: impl IntoIterator<Item = &'a AgentName>) {
    let names: Vec<&str> = agents.into_iter().map(AgentName::as_str).collect();
    if let (Some(condition), false) = (condition.as_object_mut(), names.is_empty()) {
        let named = json!({agent_key(): names});
        condition.insert(AGENT_OPERATOR.to_owned(), named);
    }
}

/// The `n`th statement of a kind and form; each `Sid` of a policy must be unique.
fn deny(kind: Kind, n: usize, form: Form, until: Timestamp, condition: &Value) -> Value {
    let name = match (kind, form) {
        (Kind::Task, Form::Exact) => "TaskpassTasks",
        (Kind::Task, Form::Windows) => "TaskpassTaskWindows",
        (Kind::Credential, Form::Exact) => "TaskpassCredentials",
        (Kind::Credential, Form::Windows) => "TaskpassCredentialWindows",
    };
    let n = if n == 0 { String::new() } else { n.to_string() };
    statement(&format!("{name}{n}Until{}", stamp(until)), condition)
}

fn statement(sid: &str, condition: &Value) -> Value {
    json!({"Sid": sid, "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
}

/// A time as letters and digits, which are all that a `Sid` may hold.
fn stamp(until: Timestamp) -> String {
    let time = iam_time(until.plus(Duration::from_millis(999)));
    time.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The statements of a policy document; `None` if the text is no policy document.
pub(super) fn statements(document: &str) -> Option<Vec<Value>> {
    match serde_json::from_str::<Value>(document)
        .ok()?
        .get_mut("Statement")?
        .take()
    {
        Value::Array(statements) => Some(statements),
        statement @ Value::Object(_) => Some(vec![statement]),
        _ => None,
    }
}

/// The values of a condition, which may be a single one or a list.
pub(super) fn values(conditions: Option<&Value>, operator: &str, key: &str) -> BTreeSet<String> {
    match conditions
        .and_then(|c| c.get(operator))
        .and_then(|c| c.get(key))
    {
        Some(Value::String(one)) => BTreeSet::from([one.clone()]),
        Some(Value::Array(many)) => many
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => BTreeSet::new(),
    }
}

/// The time at the end of a `Sid` such as `TaskpassTasks2Until20261122T101500Z`.
pub(super) fn sid_until(statement: &Value) -> Option<Timestamp> {
    let (_, stamp) = statement.get("Sid")?.as_str()?.split_once("Until")?;
    let part = |from: usize, to: usize| stamp.get(from..to);
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(9, 11)?,
        part(11, 13)?,
        part(13, 15)?
    );
    text.parse().ok()
}
