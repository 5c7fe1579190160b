//! What an event does to the state. No rule is checked here: history is applied as it was recorded.

use std::sync::Arc;

use taskpass_core::{
    AgentName, Anchor, AnchorState, CredentialState, EndCause, Event, IdempotencyKey, Identity,
    Task, TaskId, TaskState, Timestamp, limits,
};

use super::{Change, KeyHash, Remembered, State, key_hash, owner_hash};
use crate::{Conflict, JoinTokenRecord, Subject};

/// What an event does.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// The records it sets, in this order.
    pub(crate) changes: Vec<Change>,
    /// A task in its final form; it leaves the state and is history from now on.
    pub(crate) ended: Option<Arc<Task>>,
    /// The tasks it is about.
    pub(crate) about: Vec<TaskId>,
}

impl Effects {
    pub(super) fn of(changes: impl Into<Vec<Change>>) -> Self {
        Self {
            changes: changes.into(),
            ..Self::default()
        }
    }

    pub(super) fn about(mut self, task: TaskId) -> Self {
        self.about.push(task);
        self
    }

    /// Remembers what the request of this key made.
    pub(super) fn remember(
        self,
        key: Option<&IdempotencyKey>,
        time: Timestamp,
        subject: Subject,
    ) -> Self {
        self.remember_in(None, key, time, subject)
    }

    /// The same of a request that named a task.
    pub(super) fn remember_in(
        mut self,
        task: Option<TaskId>,
        key: Option<&IdempotencyKey>,
        time: Timestamp,
        subject: Subject,
    ) -> Self {
        if let Some(key) = key {
            let remembered = Remembered {
                owner: owner_hash(&key.caller),
                task,
                time,
                request_sha256: key.request_sha256.as_str().into(),
                subject,
            };
            let hash = key_hash(&key.caller, &key.key);
            self.changes
                .push(Change::Key(hash, Some(Arc::new(remembered))));
        }
        self
    }
}

impl State {
    /// The changes that `event`, recorded at `time`, makes. Fails only when what it is about is not there.
    pub(crate) fn effects(&self, event: &Event, time: Timestamp) -> Result<Effects, Conflict> {
        Ok(match event {
            Event::Initialized { trust_domain, .. } => {
                Effects::of([Change::TrustDomain(Some(trust_domain.clone()))])
            }
            Event::BrokerStarted { .. }
            | Event::BrokerStopped {}
            | Event::IndexRebuilt { .. }
            | Event::CaChanged { .. } => Effects::default(),
            Event::Decided { decision } => Effects {
                about: mentioned(&[&decision.resource, &decision.principal]),
                ..Effects::default()
            },
            Event::AgentRegistered { agent, idempotency } => Effects::of([Change::Agent(
                agent.name.clone(),
                Some(Arc::new(agent.clone())),
            )])
            .remember(
                idempotency.as_ref(),
                time,
                Subject::Agent(agent.name.clone()),
            ),
            Event::JoinTokenCreated { token, idempotency } => Effects::of([Change::Token(
                token.id,
                Some(Arc::new(JoinTokenRecord {
                    token: token.clone(),
                    used: false,
                })),
            )])
            .remember(idempotency.as_ref(), time, Subject::JoinToken(token.id)),
            Event::SvidIssued { .. }
            | Event::OperatorSvidIssued { .. }
            | Event::SvidActivated { .. } => self.svid_event(event)?,
            Event::TaskStarted { .. } | Event::TaskEnding { .. } | Event::TaskEnded { .. } => {
                self.task_event(event, time)?
            }
            Event::AnchorRecorded { anchor } => anchor_recorded(anchor, time),
            Event::AnchorGone { anchor: id } => {
                let anchor = self.anchors.get(id).ok_or_else(|| missing("anchor", id))?;
                let mut gone = anchor.as_ref().clone();
                gone.state = AnchorState::Gone;
                Effects::of([Change::Anchor(*id, Some(Arc::new(gone)))]).about(anchor.task)
            }
            Event::CredentialIntended {
                credential,
                idempotency,
            } => Effects::of([Change::Credential(
                credential.id,
                Some(Arc::new(credential.as_ref().clone())),
            )])
            .about(credential.task)
            .remember_in(
                Some(credential.task),
                idempotency.as_ref(),
                time,
                Subject::Credential(credential.id),
            ),
            Event::CredentialIssued { credential, .. }
            | Event::CredentialAbandoned { credential, .. }
            | Event::CredentialRenewIntended { credential, .. }
            | Event::CredentialRenewed { credential, .. }
            | Event::CredentialRevoking { credential, .. }
            | Event::RevokeFailed { credential, .. }
            | Event::CredentialRevoked { credential, .. }
            | Event::CredentialExpired { credential } => {
                self.credential_event(*credential, event, time)?
            }
        })
    }

    fn task_event(&self, event: &Event, time: Timestamp) -> Result<Effects, Conflict> {
        let node = |id: &TaskId| self.tasks.get(id).ok_or_else(|| missing("task", id));
        Ok(match event {
            Event::TaskStarted { task, idempotency } => {
                let effects = Effects::of([Change::Task(task.id, Some(Arc::new(task.clone())))])
                    .about(task.id)
                    .remember_in(
                        task.parent,
                        idempotency.as_ref(),
                        time,
                        Subject::Task(task.id),
                    );
                match task.parent {
                    Some(parent) => effects.about(parent),
                    None => effects,
                }
            }
            Event::TaskEnding {
                task: id, cause, ..
            } => {
                let task = &node(id)?.task;
                let mut ending = task.as_ref().clone();
                ending.state = TaskState::Ending;
                ending.end_cause = Some(*cause);
                ending.ending_at = Some(time);
                let identity = Identity::AgentTask(task.agent.clone(), *id);
                let mut changes = self.other_svids(&identity, "");
                changes.push(Change::Task(*id, Some(Arc::new(ending))));
                Effects::of(changes).about(*id)
            }
            Event::TaskEnded { task: id } => {
                let node = node(id)?;
                let mut ended = node.task.as_ref().clone();
                ended.state = TaskState::Ended;
                ended.ended_at = Some(time);
                let credentials = node
                    .credentials
                    .iter()
                    .map(|c| Change::Credential(*c, None));
                let anchors = node.anchors.iter().map(|a| Change::Anchor(*a, None));
                let keys = node.keys.iter().map(|(_, hash)| Change::Key(*hash, None));
                let mut changes: Vec<Change> = credentials.chain(anchors).chain(keys).collect();
                changes.push(Change::Task(*id, None));
                Effects {
                    ended: Some(Arc::new(ended)),
                    ..Effects::of(changes).about(*id)
                }
            }
            _ => Effects::default(),
        })
    }

    /// The events that the end of a task brings along: the end of all tasks below, and the revoking of everything
    /// that is alive in any of them. They follow the first [`Event::TaskEnding`] in the same batch.
    pub(crate) fn cascade(&self, event: &Event) -> Vec<Event> {
        let Event::TaskEnding { task, cause, by } = event else {
            return Vec::new();
        };
        let mut events = Vec::new();
        for id in std::iter::once(*task).chain(self.descendants(*task)) {
            let Some(node) = self
                .tasks
                .get(&id)
                .filter(|n| n.task.state == TaskState::Open)
            else {
                continue;
            };
            let cause = if id == *task {
                *cause
            } else {
                events.push(Event::TaskEnding {
                    task: id,
                    cause: EndCause::ParentEnded,
                    by: by.clone(),
                });
                EndCause::ParentEnded
            };
            let alive = node.credentials.iter().filter(|c| {
                self.credentials.get(c).is_some_and(|c| {
                    matches!(c.state, CredentialState::Intended | CredentialState::Active)
                })
            });
            events.extend(alive.map(|credential| Event::CredentialRevoking {
                credential: *credential,
                cause: taskpass_core::RevokeCause::TaskEnded(cause),
                by: by.clone(),
            }));
        }
        events
    }

    /// What has no meaning any more at `now` and only takes room. Admission looks at the times itself, so pruning
    /// early or late never changes an answer.
    pub(crate) fn stale(&self, now: Timestamp) -> Vec<Change> {
        let kept = limits::IDEMPOTENCY_KEPT;
        let svids = self.svids_by_end.iter().take_while(|(end, _)| *end <= now);
        let tokens = self
            .tokens_by_end
            .iter()
            .take_while(|(end, _)| end.plus(kept) <= now);
        let of_owners = self.keys_of.values();
        let keys = of_owners.flat_map(|keys| {
            let forgotten = |(time, _): &&(Timestamp, KeyHash)| time.plus(kept) <= now;
            keys.iter().take_while(forgotten)
        });
        svids
            .map(|(_, serial)| Change::Svid(serial.clone(), None))
            .chain(tokens.map(|(_, id)| Change::Token(*id, None)))
            .chain(keys.map(|(_, hash)| Change::Key(*hash, None)))
            .collect()
    }

    /// Whether the agent is registered.
    pub(crate) fn knows_agent(&self, name: &AgentName) -> bool {
        self.agents.contains_key(name)
    }
}

fn anchor_recorded(anchor: &Anchor, time: Timestamp) -> Effects {
    let recorded = Anchor {
        // By the ledger's clock, as the beginning of a doubt that it is compared with.
        recorded_at: time,
        ..anchor.clone()
    };
    Effects::of([Change::Anchor(anchor.id, Some(Arc::new(recorded)))]).about(anchor.task)
}

/// The tasks that texts name, each once.
fn mentioned(texts: &[&str]) -> Vec<TaskId> {
    let mut tasks: Vec<TaskId> = texts
        .iter()
        .flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric()))
        .filter_map(|word| word.parse().ok())
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    tasks
}

pub(super) fn missing(what: &str, id: &dyn std::fmt::Display) -> Conflict {
    Conflict::Missing(format!("{what} `{id}`"))
}
