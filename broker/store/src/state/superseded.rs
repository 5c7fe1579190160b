//! SVIDs that another one of the same identity took the place of. They are remembered until their
//! end, or the end of their task, since their use means that two parties hold the identity.

use std::sync::Arc;

use taskpass_core::{Identity, Timestamp, limits};

use super::{
    Change, State,
    count::{Count, put},
    refusal::{Refusal, missing, wrong},
    table::Table,
};
use crate::{
    SupersededSvid, SvidRecord,
    index::{IndexError, LiveRows, Rows, Value, record},
};

/// Where the index keeps superseded SVIDs, by serial number.
const SUPERSEDED: &str = "sx/";

/// Superseded SVIDs by serial number.
pub(crate) enum SupersededSvids {}

impl Table for SupersededSvids {
    type Key = String;
    type Record = SupersededSvid;

    const ROWS: Option<&'static str> = Some(SUPERSEDED);

    fn set(
        state: &mut State,
        serial: &String,
        svid: Option<&Arc<SupersededSvid>>,
    ) -> Option<Arc<SupersededSvid>> {
        let before = put(&mut state.superseded, serial.clone(), svid.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (svid, Count::Up)] {
            let Some(record) = record.map(|record| &record.svid) else {
                continue;
            };
            let by_end = (record.not_after, serial.clone());
            count.member(&mut state.superseded_by_end, by_end);
            let of_holder = state.superseded_of.entry(record.holder.clone());
            let of_holder = of_holder.or_default();
            count.member(of_holder, (record.entry, serial.clone()));
            if of_holder.is_empty() {
                state.superseded_of.remove(&record.holder);
            }
        }
        before
    }

    fn rows<'a>(serial: &'a String, svid: Option<&'a SupersededSvid>, rows: &mut Rows<'a>) {
        rows.put(record(SUPERSEDED, serial), Value::of(svid));
    }

    fn all(state: &State) -> impl Iterator<Item = (String, Arc<SupersededSvid>)> {
        let all = state.superseded.iter();
        all.map(|(key, record)| (key.clone(), Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        rows.each_record(SUPERSEDED, |_, svid: Arc<SupersededSvid>| {
            state.set(&Change::Superseded(svid.svid.serial.clone(), Some(svid)));
            Ok(())
        })
    }
}

impl State {
    /// The superseded SVID, if it has not expired.
    pub(crate) fn superseded(&self, serial: &str, now: Timestamp) -> Option<&Arc<SupersededSvid>> {
        let svid = self.superseded.get(serial);
        svid.filter(|superseded| superseded.svid.not_after > now)
    }

    /// Admits the first use of a superseded SVID, and no further one: a caller that repeats it
    /// adds nothing to the ledger.
    pub(super) fn admit_conflict(&self, serial: &str, now: Timestamp) -> Result<(), Refusal> {
        match self.superseded(serial, now) {
            None => Err(missing("superseded SVID", &serial).into()),
            Some(svid) if svid.noticed => wrong(format!("SVID `{serial}`"), "noticed already"),
            Some(_) => Ok(()),
        }
    }

    /// Notes the first use. There is nothing to note in a ledger of an earlier version, which
    /// remembered the SVIDs of ended tasks as well.
    pub(super) fn conflict_noticed(&self, serial: &str) -> Option<Change> {
        let noticed = SupersededSvid {
            svid: self.superseded.get(serial)?.svid.clone(),
            noticed: true,
        };
        Some(Change::Superseded(
            serial.to_owned(),
            Some(Arc::new(noticed)),
        ))
    }

    /// Remembers SVIDs of one holder that stop counting because of another one. They are in the
    /// order of their entries.
    pub(super) fn remember_superseded(
        &self,
        holder: &Identity,
        svids: &[Arc<SvidRecord>],
    ) -> Vec<Change> {
        // An index of an earlier version has no superseded SVIDs, and the ledger of that version
        // must still give the same state.
        let svids = svids.iter().filter(|svid| svid.origin.is_some());
        let known = self.superseded_of.get(holder);
        let mut serials: Vec<(u64, &str)> = known
            .into_iter()
            .flatten()
            .map(|(entry, serial)| (*entry, serial.as_str()))
            .chain(svids.clone().map(|svid| (svid.entry, svid.serial.as_str())))
            .collect();
        serials.sort_unstable();
        serials.dedup();
        let surplus = serials
            .len()
            .saturating_sub(limits::SUPERSEDED_SVIDS_PER_IDENTITY_MAX);
        let oldest = limits::SUPERSEDED_SVIDS_PER_IDENTITY_MAX / 2;
        let forgotten: Vec<&str> = serials
            .into_iter()
            .skip(oldest)
            .take(surplus)
            .map(|(_, serial)| serial)
            .collect();
        let remembered = svids
            .filter(|svid| !forgotten.contains(&svid.serial.as_str()))
            .map(|svid| {
                let superseded = SupersededSvid {
                    svid: svid.as_ref().clone(),
                    noticed: false,
                };
                Change::Superseded(svid.serial.clone(), Some(Arc::new(superseded)))
            });
        let dropped = forgotten
            .iter()
            .filter(|serial| self.superseded.contains_key(**serial))
            .map(|serial| Change::Superseded((*serial).to_owned(), None));
        remembered.chain(dropped).collect()
    }

    /// The superseded SVIDs of a task that ends. The memory of them is bounded for each task, and
    /// so for each agent by the number of its open tasks.
    pub(super) fn forgotten_superseded(
        &self,
        holder: &Identity,
    ) -> impl Iterator<Item = Change> + use<'_> {
        let of_holder = self.superseded_of.get(holder);
        of_holder
            .into_iter()
            .flatten()
            .map(|(_, serial)| Change::Superseded(serial.clone(), None))
    }

    /// Superseded SVIDs past their end.
    pub(super) fn expired_superseded(&self, now: Timestamp) -> impl Iterator<Item = Change> {
        self.superseded_by_end
            .iter()
            .take_while(move |(end, _)| *end <= now)
            .map(|(_, serial)| Change::Superseded(serial.clone(), None))
    }
}
