//! Anchors: the records of the things at a back end through which a task's credentials are issued.

use std::sync::Arc;

use taskpass_core::{
    Anchor, AnchorId, AnchorKey, AnchorState, AnchorStep, ProviderName, TaskId, Timestamp,
};

use super::{
    Change, Effects, Node, State,
    count::{Count, put},
    refusal::{Refusal, invalid, missing, small_handle, unused, wrong},
    table::{Table, UsedId, UsedIds},
};
use crate::{
    Conflict, GuardFailure,
    index::{Index, IndexError, LiveRows, Rows, Value, record},
};

/// Where the index keeps the task of an anchor, by the anchor's id.
const ANCHOR: &str = "x/";

/// Where the index keeps all anchors of a task: the record under this and the anchor's id.
pub(super) fn of_task(task: TaskId) -> String {
    format!("tx/{task}/")
}

/// Anchors by id.
pub(crate) enum Anchors {}

impl Table for Anchors {
    type Key = AnchorId;
    type Record = Anchor;

    const IDS: Option<&'static str> = Some(ANCHOR);
    const ROWS: Option<&'static str> = None;

    fn set(state: &mut State, id: &AnchorId, anchor: Option<&Arc<Anchor>>) -> Option<Arc<Anchor>> {
        let before = put(&mut state.anchors, *id, anchor.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (anchor, Count::Up)] {
            let Some(record) = record else { continue };
            if let Some(node) = state.tasks.get_mut(&record.task) {
                count.member(&mut node.anchors, *id);
                if record.state == AnchorState::Live {
                    count.on(&mut node.live_anchors);
                }
            }
            state.recheck(record.task);
        }
        before
    }

    fn rows<'a>(id: &'a AnchorId, anchor: Option<&'a Anchor>, rows: &mut Rows<'a>) {
        let Some(anchor) = anchor else { return };
        rows.put(record(ANCHOR, id), Value::Under(anchor.task));
        rows.put(
            record(&of_task(anchor.task), id),
            Value::OfTask(anchor.task, anchor),
        );
    }

    fn all(state: &State) -> impl Iterator<Item = (AnchorId, Arc<Anchor>)> {
        let all = state.anchors.iter();
        all.map(|(key, record)| (*key, Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        let tasks: Vec<_> = state.tasks.keys().copied().collect();
        rows.each_under(&tasks, of_task, |anchor: Arc<Anchor>| {
            state.set(&Change::Anchor(anchor.id, Some(anchor)));
        })
    }

    fn used(id: &AnchorId) -> Option<UsedId> {
        Some(UsedId::new(ANCHOR, id))
    }
}

impl Index {
    /// The anchors of a task, by id.
    pub(crate) fn anchors_of(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, IndexError> {
        self.records(&of_task(task))
    }
}

impl State {
    pub(super) fn admit_anchor(
        &self,
        id: AnchorId,
        step: &AnchorStep<'_>,
        used: &dyn UsedIds,
    ) -> Result<(), Refusal> {
        match step {
            AnchorStep::Recorded(anchor) => {
                // An ending task takes anchors too: an anchor that was made must be on record to be
                // revoked.
                if !self.tasks.contains_key(&anchor.task) {
                    return Err(missing("task", &anchor.task).into());
                }
                let is_alive = self.anchors.contains_key(&id);
                unused("anchor", &UsedId::new(ANCHOR, &id), is_alive, used)?;
                if anchor.state != AnchorState::Live {
                    return invalid("a new anchor is live");
                }
                small_handle(Some(&anchor.handle))
            }
            AnchorStep::Gone => match self.recorded_anchor(id)?.state {
                AnchorState::Live => Ok(()),
                AnchorState::Gone => wrong(format!("anchor `{id}`"), "gone"),
            },
        }
    }

    pub(super) fn anchor_effects(
        &self,
        id: AnchorId,
        step: &AnchorStep<'_>,
        time: Timestamp,
    ) -> Result<Effects, Conflict> {
        let anchor = match step {
            AnchorStep::Recorded(anchor) => Anchor {
                // The ledger's time, since it is compared with the ledger's time of outcomes that
                // are unknown.
                recorded_at: time,
                ..(*anchor).clone()
            },
            AnchorStep::Gone => Anchor {
                state: AnchorState::Gone,
                ..self.recorded_anchor(id)?.as_ref().clone()
            },
        };
        let task = anchor.task;
        Ok(Effects::of([Change::Anchor(id, Some(Arc::new(anchor)))]).about([task]))
    }

    /// Whether credentials of the task with this key may be issued through the anchor.
    pub(super) fn anchor_live(
        &self,
        id: AnchorId,
        task: TaskId,
        provider: &ProviderName,
        key: Option<AnchorKey>,
    ) -> Result<(), GuardFailure> {
        let fits = |anchor: &&Arc<Anchor>| {
            anchor.state == AnchorState::Live
                && anchor.task == task
                && anchor.provider == *provider
                && anchor.key == key
        };
        match self.anchors.get(&id).filter(fits) {
            Some(_) => Ok(()),
            None => Err(GuardFailure::AnchorNotLive {
                anchor: id,
                provider: provider.clone(),
            }),
        }
    }

    fn recorded_anchor(&self, id: AnchorId) -> Result<&Arc<Anchor>, Conflict> {
        let anchor = self.anchors.get(&id);
        anchor.ok_or_else(|| missing("anchor", &id))
    }

    /// The anchors of a task that has not ended, by id.
    pub(crate) fn anchors_of(&self, node: &Node) -> Vec<Arc<Anchor>> {
        let ids = node.anchors.iter();
        ids.filter_map(|id| self.anchors.get(id).cloned()).collect()
    }

    /// The anchors of a task that still exist at the back end.
    pub(super) fn live_anchors_of<'a>(
        &'a self,
        node: &'a Node,
    ) -> impl Iterator<Item = &'a Arc<Anchor>> {
        let anchors = node.anchors.iter().filter_map(|id| self.anchors.get(id));
        anchors.filter(|anchor| anchor.state == AnchorState::Live)
    }
}
