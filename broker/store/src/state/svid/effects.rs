//! Which SVIDs stop counting when another one is recorded or used.

use std::sync::Arc;

use taskpass_core::{Identity, OperatorOrigin, SvidState, SvidStep, limits};

use crate::{
    Conflict, SvidRecord,
    state::{Change, Effects, State, refusal::missing},
};

impl State {
    /// The changes by the issue or the first use of an SVID.
    pub(in crate::state) fn svid_effects(&self, step: &SvidStep<'_>) -> Result<Effects, Conflict> {
        match step {
            SvidStep::Issued {
                svid, join_token, ..
            } => {
                let mut changes = self.token_used(*join_token)?;
                changes.extend(self.svid_recorded(SvidRecord {
                    serial: svid.serial.clone(),
                    holder: svid.identity(),
                    key_sha256: svid.key_sha256.clone(),
                    not_after: svid.not_after,
                    state: svid.state,
                    entry: self.next(),
                }));
                Ok(Effects::of(changes).about(svid.task))
            }
            SvidStep::OperatorIssued {
                operator,
                serial,
                key_sha256,
                not_after,
                origin,
                ..
            } => {
                let record = SvidRecord {
                    serial: (*serial).to_owned(),
                    holder: Identity::Operator((*operator).clone()),
                    key_sha256: (*key_sha256).to_owned(),
                    not_after: *not_after,
                    state: SvidState::Pending,
                    entry: self.next(),
                };
                Ok(Effects::of(match origin {
                    OperatorOrigin::Broker => self.svid_recorded(record),
                    // A thief may hold any of the operator's other SVIDs, so they stop counting
                    // before this one is used.
                    OperatorOrigin::Local => self.svid_alone(record),
                }))
            }
            SvidStep::Activated { serial } => self.svid_activated(serial),
        }
    }

    /// Puts an SVID on record. The oldest SVIDs that wait for their first use make room for it.
    fn svid_recorded(&self, svid: SvidRecord) -> Vec<Change> {
        if svid.state == SvidState::Active {
            return self.svid_alone(svid);
        }
        let is_pending = |serial: &&str| {
            let record = self.svids.get(*serial);
            record.is_some_and(|record| record.state == SvidState::Pending)
        };
        let pending: Vec<&str> = self.serials_of(&svid.holder).filter(is_pending).collect();
        let surplus = (pending.len() + 1).saturating_sub(limits::PENDING_SVIDS_PER_IDENTITY_MAX);
        let oldest = pending.into_iter().take(surplus);
        oldest
            .map(|serial| Change::Svid(serial.to_owned(), None))
            .chain([Change::Svid(svid.serial.clone(), Some(Arc::new(svid)))])
            .collect()
    }

    /// Puts an SVID on record as the only one of its holder.
    fn svid_alone(&self, svid: SvidRecord) -> Vec<Change> {
        let mut changes = self.other_svids(&svid.holder, &svid.serial);
        changes.push(Change::Svid(svid.serial.clone(), Some(Arc::new(svid))));
        changes
    }

    fn svid_activated(&self, serial: &str) -> Result<Effects, Conflict> {
        let svid = self.svids.get(serial);
        let svid = svid.ok_or_else(|| missing("SVID", &serial))?;
        let mut active = svid.as_ref().clone();
        active.state = SvidState::Active;
        let mut effects = Effects::of(self.other_svids(&svid.holder, serial));
        effects
            .changes
            .push(Change::Svid(serial.to_owned(), Some(Arc::new(active))));
        Ok(effects.about(svid.task()))
    }
}
