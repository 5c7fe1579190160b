//! The deny list of one IAM role: which of its sessions are denied everything, as an inline policy
//! of the role.
//!
//! Every session carries its task's and its own id as session tags, which cannot be changed later.
//! The list names the ids of ended tasks, and of single revoked credentials, for as long as a
//! session with them may live; then they are pruned. The document is also the list's only store.
//! Each statement's `Sid` says until when the last of its ids is needed, so that another broker, or
//! this one after a restart, knows how long to keep the ids that it reads.
//!
//! **Overflow.** IAM gives all inline policies of a role 10,240 characters, and an id takes about
//! 20. When the list does not fit, its oldest half is folded. Ids begin with their time of minting,
//! so a shared beginning (`t01hx3k9*`) is a window of time. A folded statement denies a session if
//! its id is in the window **and** it was issued before the folding. That is never less than
//! before, because all sessions of a folded id are older than that. It can be more: another task
//! that began in the same window loses its session once, and gets a working one by requesting
//! again. The longest beginnings that fit are used, so that the windows, and the harm, are as small
//! as the limit lets them be. At the far end stands one `t*`, which ends all older sessions of the
//! role, as IAM's own console does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde_json::{Value, json};
use taskpass_core::{CredentialId, TaskId, Timestamp};

use crate::session_policy::iam_time;

/// The session tag with the task's id.
pub(crate) const TASK_TAG: &str = "taskpass-task";
/// The session tag with the credential's own id.
pub(crate) const CREDENTIAL_TAG: &str = "taskpass-credential";

/// An id stays on the list this long after its last session's deadline, because AWS's clock and
/// ours may differ.
pub(crate) const CLOCK_MARGIN: Duration = Duration::from_secs(60);
/// An `AssumeRole` that was in flight when its task ended has returned by then. A folded statement
/// covers younger ids only that long after they were added.
pub(crate) const IN_FLIGHT_MARGIN: Duration = Duration::from_secs(60);
/// The longest life of a session, also if a statement's `Sid` claims a longer one.
pub(crate) const SESSION_MAX: Duration = Duration::from_secs(12 * 3600);

/// The longest beginning of an id that makes a window: all characters but the last.
const WINDOW_CHARS_MAX: usize = 16;
/// About how many characters one id takes in the document.
const ID_CHARACTERS: usize = 20;

/// The sessions that are denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mark {
    /// Every session of a task.
    Task(TaskId),
    /// One session.
    Credential(CredentialId),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(id) => id.fmt(f),
            Self::Credential(id) => id.fmt(f),
        }
    }
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let task = text.parse().ok().map(Self::Task);
        task.or_else(|| text.parse().ok().map(Self::Credential))
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Task(_) => Kind::Task,
            Self::Credential(_) => Kind::Credential,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Task,
    Credential,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Task, Self::Credential];

    fn condition_key(self) -> String {
        let tag = match self {
            Self::Task => TASK_TAG,
            Self::Credential => CREDENTIAL_TAG,
        };
        format!("aws:PrincipalTag/{tag}")
    }

    const fn sid(self, folded: bool) -> &'static str {
        match (self, folded) {
            (Self::Task, false) => "TaskpassTasksUntil",
            (Self::Task, true) => "TaskpassTaskWindowsUntil",
            (Self::Credential, false) => "TaskpassCredentialsUntil",
            (Self::Credential, true) => "TaskpassCredentialWindowsUntil",
        }
    }
}

/// One id.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// It is needed until then.
    expires: Timestamp,
    /// Another id's `Sid` may keep it in the document until then. It is remembered so that the next
    /// read does not take it for another broker's.
    remembered: Timestamp,
    added: Timestamp,
}

/// A folded window.
#[derive(Debug, Clone, Copy)]
struct Window {
    expires: Timestamp,
    /// AWS denies sessions issued before then.
    cutoff: Timestamp,
}

/// The list in memory.
#[derive(Debug, Default, Clone)]
pub(crate) struct DenyList {
    exact: BTreeMap<Mark, Entry>,
    windows: BTreeMap<(Kind, String), Window>,
}

impl DenyList {
    /// Denies `mark`; its last session ends at `session_end` at the latest. `now` may be late,
    /// never early: a later folding covers the sessions issued before it.
    pub(crate) fn add(&mut self, mark: Mark, session_end: Timestamp, now: Timestamp) {
        let expires = session_end.plus(CLOCK_MARGIN);
        let entry = self.exact.entry(mark).or_insert(Entry {
            expires,
            remembered: expires,
            added: now,
        });
        entry.expires = entry.expires.max(expires);
        entry.remembered = entry.remembered.max(expires);
    }

    /// Takes over the ids in the role's policy, which may come from another broker or from before a
    /// restart. Returns false if the text is not a policy document. `now` may be late, never early.
    pub(crate) fn merge(&mut self, document: &str, now: Timestamp) -> bool {
        let Some(statements) = statements(document) else {
            return false;
        };
        for statement in &statements {
            let latest = now.plus(SESSION_MAX).plus(CLOCK_MARGIN);
            let until = sid_until(statement).unwrap_or(latest).min(latest);
            let conditions = statement.get("Condition");
            for kind in Kind::ALL {
                for text in values(conditions, "StringEquals", &kind.condition_key()) {
                    // Other values are no tags, such as the placeholder of an empty list.
                    let Some(mark) = Mark::parse(&text) else {
                        continue;
                    };
                    let fresh = Entry {
                        expires: until,
                        remembered: until,
                        added: now,
                    };
                    let entry = self.exact.entry(mark).or_insert(fresh);
                    entry.remembered = entry.remembered.max(until);
                }
                let cutoff = values(conditions, "DateLessThan", "aws:TokenIssueTime")
                    .first()
                    .and_then(|time| time.parse().ok())
                    .unwrap_or_else(|| now.plus(IN_FLIGHT_MARGIN));
                for text in values(conditions, "StringLike", &kind.condition_key()) {
                    let Some(beginning) = text.strip_suffix('*') else {
                        continue;
                    };
                    let fresh = Window {
                        expires: until,
                        cutoff,
                    };
                    let window = self
                        .windows
                        .entry((kind, beginning.to_owned()))
                        .or_insert(fresh);
                    // Another broker may have folded longer-lived ids into a window of the same
                    // name.
                    window.expires = window.expires.max(until);
                    window.cutoff = window.cutoff.max(cutoff);
                }
            }
        }
        true
    }

    /// Removes ids that are not needed any more at `now`, which may be early, never late.
    pub(crate) fn prune(&mut self, now: Timestamp) {
        self.exact.retain(|_, entry| entry.remembered > now);
        self.windows.retain(|_, window| window.expires > now);
    }

    /// The policy document, folded to at most `characters_max`. `now` may be early, never late.
    pub(crate) fn document(&mut self, now: Timestamp, characters_max: usize) -> String {
        let document = self.render(now);
        if document.len() <= characters_max {
            return document;
        }
        self.fold(now, characters_max)
    }

    /// How many windows are on the list, beside exact ids.
    pub(crate) fn window_count(&self) -> usize {
        self.windows.len()
    }

    /// Whether the list denies no session.
    pub(crate) fn is_empty(&self, now: Timestamp) -> bool {
        self.windows.is_empty() && !self.exact.values().any(|entry| entry.expires > now)
    }

    /// Folds the oldest half, or more if even one window for all of that does not fit.
    fn fold(&mut self, now: Timestamp, characters_max: usize) -> String {
        let mut by_age: Vec<(Timestamp, Mark)> = self
            .exact
            .iter()
            .filter(|(_, entry)| entry.expires > now)
            .map(|(mark, entry)| (entry.added, *mark))
            .collect();
        by_age.sort_unstable();
        let mut kept = (characters_max / 2 / ID_CHARACTERS).min(by_age.len().saturating_sub(1));
        loop {
            let oldest = by_age
                .iter()
                .take(by_age.len() - kept)
                .map(|(_, mark)| *mark);
            let (folded, document) = self.folded(&oldest, now, characters_max);
            if document.len() <= characters_max || kept == 0 {
                *self = folded;
                return document;
            }
            kept /= 2;
        }
    }

    /// This list with `marks` folded into the narrowest windows that fit.
    fn folded(
        &self,
        marks: &(impl Iterator<Item = Mark> + Clone),
        now: Timestamp,
        characters_max: usize,
    ) -> (Self, String) {
        let mut characters = WINDOW_CHARS_MAX;
        loop {
            let mut folded = self.clone();
            folded.windows = shortened(&self.windows, characters);
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
                widen(&mut folded.windows, (mark.kind(), beginning), window);
            }
            let document = folded.render(now);
            if document.len() <= characters_max || characters == 1 {
                return (folded, document);
            }
            characters -= 1;
        }
    }

    fn render(&self, now: Timestamp) -> String {
        let mut statements = Vec::new();
        for kind in Kind::ALL {
            let live = self
                .exact
                .iter()
                .filter(|(m, e)| m.kind() == kind && e.expires > now);
            let (ids, until) = live.fold((Vec::new(), now), |(mut ids, until), (mark, entry)| {
                ids.push(mark.to_string());
                (ids, until.max(entry.expires))
            });
            if !ids.is_empty() {
                let condition = json!({"StringEquals": {kind.condition_key(): ids}});
                statements.push(deny(kind.sid(false), until, &condition));
            }
            let live = self
                .windows
                .iter()
                .filter(|((k, _), w)| *k == kind && w.expires > now);
            let start = (Vec::new(), now, Timestamp::EPOCH);
            let (beginnings, until, cutoff) = live.fold(
                start,
                |(mut all, until, cutoff), ((_, beginning), window)| {
                    all.push(format!("{beginning}*"));
                    (all, until.max(window.expires), cutoff.max(window.cutoff))
                },
            );
            if !beginnings.is_empty() {
                let before = iam_time(cutoff);
                let condition = json!({
                    "StringLike": {kind.condition_key(): beginnings},
                    "DateLessThan": {"aws:TokenIssueTime": before},
                });
                statements.push(deny(kind.sid(true), until, &condition));
            }
        }
        if statements.is_empty() {
            // A policy needs a statement, and deleting it would need one more permission. No task
            // has this id.
            let condition = json!({"StringEquals": {Kind::Task.condition_key(): ["none"]}});
            statements.push(deny("TaskpassNobody", Timestamp::EPOCH, &condition));
        }
        json!({"Version": "2012-10-17", "Statement": statements}).to_string()
    }
}

fn deny(sid: &str, until: Timestamp, condition: &Value) -> Value {
    let stamp: String = iam_time(until.plus(Duration::from_millis(999)))
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    json!({"Sid": format!("{sid}{stamp}"), "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
}

fn shortened(
    windows: &BTreeMap<(Kind, String), Window>,
    characters: usize,
) -> BTreeMap<(Kind, String), Window> {
    let mut shorter = BTreeMap::new();
    for ((kind, beginning), window) in windows {
        let key = (*kind, beginning.chars().take(characters).collect());
        widen(&mut shorter, key, *window);
    }
    shorter
}

fn widen(windows: &mut BTreeMap<(Kind, String), Window>, key: (Kind, String), more: Window) {
    let window = windows.entry(key).or_insert(more);
    window.expires = window.expires.max(more.expires);
    window.cutoff = window.cutoff.max(more.cutoff);
}

/// The statements of a policy document; `None` if the text is no policy document.
fn statements(document: &str) -> Option<Vec<Value>> {
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
fn values(conditions: Option<&Value>, operator: &str, key: &str) -> BTreeSet<String> {
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

/// The time at the end of a `Sid` such as `TaskpassTasksUntil20261122T101500Z`.
fn sid_until(statement: &Value) -> Option<Timestamp> {
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

#[cfg(test)]
mod tests;
