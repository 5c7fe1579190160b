//! The ledger as an auditor keeps it: every entry is checked against the entries before it.

use std::collections::BTreeMap;

use taskpass_core::{
    AgentName, AnchorId, AnchorStep, CredentialId, CredentialState, CredentialStep, DecisionRecord,
    Event, Identity, Outcome, RoleName, Scope, Svid, SvidOrigin, SvidStep, Task, TaskId, TaskState,
    TaskStep, Timestamp, Topic,
};
use taskpass_store::Entry;

use super::{super::provider::number, LIVE_PER_AGENT, LIVE_PER_TASK, OPEN_TASKS};

type Checked = Result<(), String>;

/// The content of the ledger so far.
#[derive(Debug, Default)]
pub(super) struct Book {
    index: u64,
    /// Milliseconds.
    time: i64,
    /// The wall clock was wrong at some time by less than the broker notices. A receipt may then
    /// name a wrong end, and the ledger's time stands still while the broker counts on. A clock
    /// that runs further away excuses nothing.
    pub(super) clock_was_wrong: bool,
    pub(super) tasks: BTreeMap<TaskId, TaskPage>,
    pub(super) credentials: BTreeMap<CredentialId, CredentialPage>,
    pub(super) svids: BTreeMap<String, SvidPage>,
    pub(super) anchors: BTreeMap<AnchorId, AnchorPage>,
    /// The tasks of intents that are in order and need not be in the ledger yet.
    in_order: BTreeMap<CredentialId, TaskId>,
    /// The entry of the first use of each agent's newest login.
    logins: BTreeMap<AgentName, u64>,
    /// Permissions since the last entry that was not one.
    pub(super) allowed: Vec<DecisionRecord>,
}

#[derive(Debug)]
pub(super) struct TaskPage {
    pub(super) task: Task,
    pub(super) state: TaskState,
    /// The entry that started it.
    pub(super) started: u64,
    /// The entry that ended it.
    pub(super) ending: Option<u64>,
}

#[derive(Debug)]
pub(super) struct CredentialPage {
    pub(super) agent: AgentName,
    pub(super) task: TaskId,
    pub(super) state: CredentialState,
    pub(super) intended: (u64, Timestamp),
    pub(super) issued_at: Option<u64>,
    /// The entry that began to revoke it.
    pub(super) revoking: Option<u64>,
    pub(super) attempts: u32,
    pub(super) renewals: u32,
    pub(super) may_live_until: Option<Timestamp>,
}

#[derive(Debug)]
pub(super) struct AnchorPage {
    pub(super) task: TaskId,
    pub(super) is_live: bool,
    session: Option<usize>,
}

#[derive(Debug)]
pub(super) struct SvidPage {
    pub(super) svid: Svid,
    origin: Option<SvidOrigin>,
    /// The entry that issued it.
    issued: u64,
    used: bool,
    /// The entry after which it no longer counts.
    pub(super) superseded: Option<u64>,
}

impl CredentialPage {
    /// Whether the renewal fits the state. No intent is needed: the broker calls no provider when
    /// the credential already lives long enough.
    pub(super) const fn is_renewed(&mut self, before: CredentialState) -> bool {
        self.renewals = self.renewals.saturating_sub(1);
        matches!(before, CredentialState::Active | CredentialState::Revoking)
    }
}

impl Book {
    pub(super) fn credential(&self, id: CredentialId) -> Option<&CredentialPage> {
        self.credentials.get(&id)
    }

    pub(super) fn task_state(&self, id: TaskId) -> Option<TaskState> {
        self.tasks.get(&id).map(|page| page.state)
    }

    /// An intent is in order.
    pub(super) fn put_in_order(&mut self, id: CredentialId, task: TaskId) {
        self.in_order.insert(id, task);
    }

    /// Whether a credential whose intent may never reach the ledger is found by a live anchor of
    /// its task that is in the ledger.
    pub(super) fn hangs_on(&self, id: CredentialId, session: usize) -> bool {
        let task = self.in_order.get(&id);
        let mut anchors = self.anchors.values();
        anchors.any(|a| a.is_live && a.session == Some(session) && task == Some(&a.task))
    }

    /// Uses up an intent to renew.
    pub(super) fn take_renewal(&mut self, id: CredentialId) -> bool {
        let page = self.credentials.get_mut(&id);
        page.is_some_and(|page| {
            let intended = page.renewals > 0;
            page.renewals = page.renewals.saturating_sub(1);
            intended
        })
    }

    /// Enters one ledger entry. Returns a short text of it for the trace.
    pub(super) fn enter(&mut self, bytes: &[u8]) -> Result<String, String> {
        let entry = Entry::parse(bytes).map_err(|e| format!("unreadable entry: {e}"))?;
        if entry.time.millis() < self.time {
            return Err("the ledger's time goes back".to_owned());
        }
        self.time = entry.time.millis();
        self.index += 1;
        let line = self.line(&entry.event);
        self.record(&entry.event, entry.time)?;
        Ok(line)
    }

    fn record(&mut self, event: &Event, time: Timestamp) -> Checked {
        if let Topic::Decision(decision) = event.topic() {
            if decision.outcome == Outcome::Allow {
                self.allowed.push(decision.clone());
            }
            return Ok(());
        }
        let checked = match event.topic() {
            Topic::Installation(_) | Topic::Decision(_) | Topic::Agent(_) | Topic::JoinToken(_) => {
                Ok(())
            }
            Topic::Svid(SvidStep::Issued { svid, origin, .. }) => self.svid_issued(svid, origin),
            Topic::Svid(SvidStep::Activated { serial }) => {
                self.svid_activated(serial);
                Ok(())
            }
            Topic::Svid(
                SvidStep::OperatorIssued { .. }
                | SvidStep::OperatorWithdrawn { .. }
                | SvidStep::Conflict { .. },
            ) => Ok(()),
            Topic::Task(_, TaskStep::Started { task, .. }) => self.task_started(task, time),
            Topic::Task(task, TaskStep::Ending { .. }) => self.task_ending(task),
            Topic::Task(task, TaskStep::Ended) => self.task_ended(task),
            Topic::Anchor(id, AnchorStep::Recorded(anchor)) => {
                let session = number(&anchor.handle.to_json(), "session");
                let page = AnchorPage {
                    task: anchor.task,
                    is_live: true,
                    session,
                };
                self.anchors.insert(id, page);
                Ok(())
            }
            Topic::Anchor(id, AnchorStep::Gone) => {
                self.anchors.entry(id).and_modify(|a| a.is_live = false);
                Ok(())
            }
            Topic::Credential(_, CredentialStep::Intended { credential, .. }) => {
                self.intended(credential, time)
            }
            Topic::Credential(id, step) => self.credential_step(id, &step, time),
        };
        // A task's own SVID is issued in the same batch, after the task.
        if !matches!(event, Event::TaskStarted { .. }) {
            self.allowed.clear();
        }
        checked
    }

    fn svid_issued(&mut self, svid: &Svid, origin: Option<SvidOrigin>) -> Checked {
        let page = SvidPage {
            svid: svid.clone(),
            origin,
            issued: self.index,
            used: false,
            superseded: None,
        };
        let is_first = self.index < 20 && self.allowed.is_empty();
        if !is_first && self.allowed.is_empty() {
            return Err(format!(
                "4: SVID `{}` was issued without a decision",
                svid.serial
            ));
        }
        self.svids.insert(svid.serial.clone(), page);
        Ok(())
    }

    fn svid_activated(&mut self, serial: &str) {
        let index = self.index;
        let Some(page) = self.svids.get_mut(serial) else {
            return;
        };
        page.used = true;
        let (identity, origin, issued) = (page.svid.identity(), page.origin, page.issued);
        let login = Some(SvidOrigin::Login);
        if origin == login {
            self.logins.insert(page.svid.agent.clone(), index);
        }
        for (other, page) in &mut self.svids {
            let is_same: bool = page.svid.identity() == identity;
            // A login waits for its first use, whatever is renewed meanwhile.
            let waits = page.origin == login && !page.used;
            let stays = waits && (origin != login || page.issued > issued);
            if is_same && other != serial && !stays {
                page.superseded.get_or_insert(index);
            }
        }
    }

    /// Whether the SVID counted when entry `index` was made.
    pub(super) fn counted(&self, serial: &str, index: u64, time: Timestamp) -> bool {
        self.svids.get(serial).is_some_and(|page| {
            let task = match page.svid.identity() {
                Identity::AgentTask(_, task) => self.tasks.get(&task),
                _ => None,
            };
            page.superseded.is_none_or(|at| at > index)
                && page.svid.not_after > time
                && task.is_none_or(|task| task.ending.is_none_or(|at| at > index))
        })
    }

    fn line(&self, event: &Event) -> String {
        match event.topic() {
            Topic::Decision(decision) => format!(
                "decided {} {} {} {:?}",
                decision.principal, decision.action, decision.resource, decision.outcome
            ),
            Topic::Task(id, TaskStep::Started { .. }) => format!("task {id} started"),
            Topic::Task(id, TaskStep::Ending { cause, .. }) => {
                format!("task {id} ending {cause:?}")
            }
            Topic::Task(id, TaskStep::Ended) => format!("task {id} ended"),
            Topic::Anchor(id, AnchorStep::Recorded(anchor)) => {
                format!("anchor {id} {}", anchor.handle)
            }
            Topic::Anchor(id, AnchorStep::Gone) => format!("anchor {id} gone"),
            Topic::Credential(_, CredentialStep::Intended { credential: c, .. }) => {
                format!("credential {} intended {} {}", c.id, c.task, c.role)
            }
            Topic::Svid(SvidStep::Issued { svid, .. }) => format!("svid {}", svid.serial),
            Topic::Svid(SvidStep::Activated { serial }) => format!("svid {serial} activated"),
            Topic::Installation(_)
            | Topic::Agent(_)
            | Topic::JoinToken(_)
            | Topic::Svid(
                SvidStep::OperatorIssued { .. }
                | SvidStep::OperatorWithdrawn { .. }
                | SvidStep::Conflict { .. },
            )
            | Topic::Credential(..) => {
                let json = serde_json::to_string(event).unwrap_or_default();
                format!("{json} at {}", self.index)
            }
        }
    }

    /// The time of the newest entry.
    pub(super) const fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.time)
    }

    pub(super) const fn index(&self) -> u64 {
        self.index
    }

    /// Checks the rules that hold after every commit.
    pub(super) fn structure(&self) -> Checked {
        for page in self.tasks.values() {
            let parent = page.task.parent.and_then(|id| self.tasks.get(&id));
            if page.state == TaskState::Open && parent.is_some_and(|p| p.state != TaskState::Open) {
                return Err(format!(
                    "8: task `{}` is open below an ended one",
                    page.task.id
                ));
            }
            let login = self.logins.get(&page.task.agent);
            if page.state == TaskState::Open && login.is_some_and(|at| *at > page.started) {
                return Err(format!(
                    "16: task `{}` of an earlier identity is open after a login",
                    page.task.id
                ));
            }
        }
        for (id, page) in &self.credentials {
            let alive = matches!(
                page.state,
                CredentialState::Intended | CredentialState::Active
            );
            if alive && self.task_state(page.task) != Some(TaskState::Open) {
                return Err(format!(
                    "7: `{id}` is not revoked although its task has ended"
                ));
            }
        }
        self.limits()
    }

    fn limits(&self) -> Checked {
        let mut of_agent: BTreeMap<&AgentName, (u32, u32)> = BTreeMap::new();
        let mut of_task: BTreeMap<TaskId, u32> = BTreeMap::new();
        for page in self.tasks.values().filter(|p| p.state == TaskState::Open) {
            of_agent.entry(&page.task.agent).or_default().0 += 1;
        }
        for page in self.credentials.values().filter(|c| !c.state.is_final()) {
            of_agent.entry(&page.agent).or_default().1 += 1;
            let mut at = Some(page.task);
            while let Some(task) = at.and_then(|id| self.tasks.get(&id)) {
                *of_task.entry(task.task.id).or_default() += 1;
                at = task.task.parent;
            }
        }
        for (agent, (tasks, credentials)) in of_agent {
            if tasks > OPEN_TASKS || credentials > LIVE_PER_AGENT {
                return Err(format!(
                    "12: agent `{agent}` has {tasks} open tasks and {credentials} live credentials"
                ));
            }
        }
        for (task, live) in of_task {
            let limit = self.tasks[&task].task.max_credentials.min(LIVE_PER_TASK);
            if live > limit {
                return Err(format!(
                    "12: task `{task}` has {live} live credentials of {limit}"
                ));
            }
        }
        Ok(())
    }

    /// A task or credential that is not over yet.
    pub(super) fn pending(&self) -> Option<String> {
        let task = self.tasks.values().find(|t| t.state != TaskState::Ended);
        let credential = self.credentials.iter().find(|(_, c)| !c.state.is_final());
        match (credential, task) {
            (Some((id, page)), _) => Some(format!("credential `{id}` ({})", page.state.as_str())),
            (None, Some(page)) => {
                Some(format!("task `{}` ({})", page.task.id, page.state.as_str()))
            }
            (None, None) => None,
        }
    }
}

/// Whether a permission is about this action of this agent.
pub(super) fn permits(decision: &DecisionRecord, action: &str, agent: &AgentName) -> bool {
    let of_agent = format!("/agent/{agent}");
    let is_agents = decision.principal.ends_with(&of_agent)
        || decision.principal.contains(&format!("{of_agent}/"));
    decision.action == action && (is_agents || decision.principal.contains("/operator/"))
}

/// Whether a permission names the role.
pub(super) fn names(decision: &DecisionRecord, role: &RoleName) -> bool {
    decision.resource.contains(&role.to_string())
}

/// Whether the scope below fixes every parameter of the scope above to the same value.
pub(super) fn keeps(below: &Scope, above: &Scope) -> bool {
    above
        .iter()
        .all(|(name, value)| below.value(name.as_str()) == Some(value))
}
