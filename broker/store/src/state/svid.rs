//! SVIDs that count. An agent's and an operator's count alike: once on record, until their end, and
//! until another SVID of the same holder is used, or is made for an operator on the broker's own
//! machine.

mod admit;
mod effects;

use std::sync::Arc;

use taskpass_core::{Identity, TaskId, Timestamp};

use super::{
    Change, State,
    count::{Count, put},
    table::Table,
};
use crate::{
    GuardFailure, SvidRecord,
    index::{IndexError, LiveRows, Rows, Value, record},
};

/// Where the index keeps the SVIDs that count, by serial number.
const SVID: &str = "s/";

/// SVIDs by serial number.
pub(crate) enum Svids {}

impl Table for Svids {
    type Key = String;
    type Record = SvidRecord;

    const ROWS: Option<&'static str> = Some(SVID);

    fn set(
        state: &mut State,
        serial: &String,
        svid: Option<&Arc<SvidRecord>>,
    ) -> Option<Arc<SvidRecord>> {
        let before = put(&mut state.svids, serial.clone(), svid.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (svid, Count::Up)] {
            let Some(record) = record else { continue };
            let by_end = (record.not_after, serial.clone());
            count.member(&mut state.svids_by_end, by_end);
            let of_holder = state.svids_of.entry(record.holder.clone()).or_default();
            count.member(of_holder, (record.entry, serial.clone()));
            if of_holder.is_empty() {
                state.svids_of.remove(&record.holder);
            }
        }
        before
    }

    fn rows<'a>(serial: &'a String, svid: Option<&'a SvidRecord>, rows: &mut Rows<'a>) {
        rows.put(record(SVID, serial), Value::of(svid));
    }

    fn all(state: &State) -> impl Iterator<Item = (String, Arc<SvidRecord>)> {
        let all = state.svids.iter();
        all.map(|(key, record)| (key.clone(), Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        rows.each_record(SVID, |_, svid: Arc<SvidRecord>| {
            state.set(&Change::Svid(svid.serial.clone(), Some(svid)));
            Ok(())
        })
    }
}

impl State {
    /// The SVID if it counts at `now`.
    pub(crate) fn live_svid(&self, serial: &str, now: Timestamp) -> Option<&Arc<SvidRecord>> {
        let open = |task: TaskId| self.task_open(task, now).is_ok();
        self.svids
            .get(serial)
            .filter(|svid| svid.not_after > now && svid.task().is_none_or(open))
    }

    pub(super) fn svid_live(
        &self,
        serial: &str,
        now: Timestamp,
    ) -> Result<&SvidRecord, GuardFailure> {
        self.live_svid(serial, now)
            .map(Arc::as_ref)
            .ok_or_else(|| GuardFailure::SvidNotLive(serial.to_owned()))
    }

    /// How many SVIDs of a holder count at `now`.
    pub(crate) fn live_svids_of(&self, holder: &Identity, now: Timestamp) -> usize {
        let counts = |serial: &&str| self.live_svid(serial, now).is_some();
        self.serials_of(holder).filter(counts).count()
    }

    /// Takes out all SVIDs of a holder but one, and remembers them as superseded.
    pub(super) fn superseded_svids(&self, holder: &Identity, but: &str) -> Vec<Change> {
        let gone: Vec<Arc<SvidRecord>> = self
            .serials_of(holder)
            .filter(|serial| *serial != but)
            .filter_map(|serial| self.svids.get(serial).cloned())
            .collect();
        self.supersede(holder, &gone)
    }

    /// Takes out SVIDs of a holder, and remembers them as superseded.
    pub(super) fn supersede(&self, holder: &Identity, gone: &[Arc<SvidRecord>]) -> Vec<Change> {
        let serials = gone.iter().map(|svid| svid.serial.clone());
        let mut changes: Vec<Change> = serials.map(|serial| Change::Svid(serial, None)).collect();
        changes.extend(self.remember_superseded(holder, gone));
        changes
    }

    /// Takes out all SVIDs of a holder but one.
    pub(super) fn other_svids(&self, holder: &Identity, but: &str) -> Vec<Change> {
        self.serials_of(holder)
            .filter(|serial| *serial != but)
            .map(|serial| Change::Svid(serial.to_owned(), None))
            .collect()
    }

    pub(super) fn serials_of(&self, holder: &Identity) -> impl Iterator<Item = &str> {
        let of_holder = self.svids_of.get(holder);
        of_holder
            .into_iter()
            .flatten()
            .map(|(_, serial)| serial.as_str())
    }

    /// SVIDs past their end.
    pub(super) fn expired_svids(&self, now: Timestamp) -> impl Iterator<Item = Change> {
        self.svids_by_end
            .iter()
            .take_while(move |(end, _)| *end <= now)
            .map(|(_, serial)| Change::Svid(serial.clone(), None))
    }
}
