//! Which SVIDs stop counting when another one is recorded or used.

use std::sync::Arc;

use taskpass_core::{
    Actor, EndCause, Event, Identity, OperatorOrigin, SvidOrigin, SvidState, SvidStep, Timestamp,
    limits,
};

use crate::{
    Conflict, SvidRecord,
    state::{Change, Effects, State, refusal::missing},
};

impl State {
    /// The changes by the issue or the first use of an SVID.
    pub(in crate::state) fn svid_effects(
        &self,
        step: &SvidStep<'_>,
        time: Timestamp,
    ) -> Result<Effects, Conflict> {
        match step {
            SvidStep::Issued {
                svid,
                join_token,
                origin,
                ..
            } => {
                let mut changes = self.token_used(*join_token)?;
                changes.extend(self.svid_recorded(SvidRecord {
                    serial: svid.serial.clone(),
                    holder: svid.identity(),
                    key_sha256: svid.key_sha256.clone(),
                    not_after: svid.not_after,
                    state: svid.state,
                    entry: self.next(),
                    origin: *origin,
                    recorded_at: origin.map(|_| time),
                    root: svid.root,
                }));
                Ok(Effects::of(changes).about(svid.task))
            }
            SvidStep::OperatorIssued {
                operator,
                serial,
                key_sha256,
                not_after,
                place,
                origin,
                root,
                ..
            } => {
                let record = SvidRecord {
                    serial: (*serial).to_owned(),
                    holder: Identity::Operator((*operator).clone()),
                    key_sha256: (*key_sha256).to_owned(),
                    not_after: *not_after,
                    state: SvidState::Pending,
                    entry: self.next(),
                    origin: *origin,
                    recorded_at: origin.map(|_| time),
                    root: *root,
                };
                Ok(Effects::of(match place {
                    OperatorOrigin::Broker => self.svid_recorded(record),
                    // A thief may hold any of the operator's other SVIDs, so they stop counting
                    // before this one is used.
                    OperatorOrigin::Local => self.svid_alone(record),
                }))
            }
            SvidStep::OperatorWithdrawn { operator } => {
                // No serial is the empty one.
                let holder = Identity::Operator((*operator).clone());
                Ok(Effects::of(self.superseded_svids(&holder, "")))
            }
            SvidStep::Activated { serial } => self.svid_activated(serial),
            SvidStep::Conflict { serial } => {
                let noticed: Vec<Change> = self.conflict_noticed(serial).into_iter().collect();
                Ok(Effects::of(noticed))
            }
        }
    }

    /// Puts an SVID on record. The oldest SVIDs that wait for their first use make room for it:
    /// renewed ones for a renewed one only, so that a thief who renews cannot push out the SVID of
    /// its victim's login.
    fn svid_recorded(&self, svid: SvidRecord) -> Vec<Change> {
        if svid.state == SvidState::Active {
            return self.svid_alone(svid);
        }
        let is_pending = |serial: &&str| {
            let record = self.svids.get(*serial);
            record.is_some_and(|r| r.state == SvidState::Pending && r.origin == svid.origin)
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
        let mut changes = self.superseded_svids(&svid.holder, &svid.serial);
        changes.push(Change::Svid(svid.serial.clone(), Some(Arc::new(svid))));
        changes
    }

    fn svid_activated(&self, serial: &str) -> Result<Effects, Conflict> {
        let svid = self.svids.get(serial);
        let svid = svid.ok_or_else(|| missing("SVID", &serial))?;
        let mut active = svid.as_ref().clone();
        active.state = SvidState::Active;
        let others: Vec<Arc<SvidRecord>> = self
            .serials_of(&svid.holder)
            .filter(|other| *other != serial)
            .filter_map(|other| self.svids.get(other))
            .filter(|other| !outlives_activation(other, svid))
            .cloned()
            .collect();
        let mut effects = Effects::of(self.supersede(&svid.holder, &others));
        effects
            .changes
            .push(Change::Svid(serial.to_owned(), Some(Arc::new(active))));
        Ok(effects.about(svid.task()))
    }

    /// The events that the first use of an SVID brings along. After a login with a join token the
    /// tasks that the earlier identity had end with all their credentials: a thief of that identity
    /// may have opened any of them. A renewal brings nothing along.
    pub(in crate::state) fn login_cascade(&self, serial: &str) -> Vec<Event> {
        let login = self.svids.get(serial);
        let Some(login) = login.filter(|svid| svid.origin == Some(SvidOrigin::Login)) else {
            return Vec::new();
        };
        let Identity::Agent(agent) = &login.holder else {
            return Vec::new();
        };
        let domain = self.trust_domain.as_ref();
        let id = domain.and_then(|domain| login.holder.spiffe_id(domain).ok());
        let by = id.map_or(Actor::Broker, Actor::Caller);
        self.tasks_ending(agent, EndCause::IdentityReplaced, &by)
    }
}

/// Whether an SVID goes on counting after the first use of another one of its holder. The SVID of a
/// login that waits for its first use does: otherwise a thief that goes on renewing could end it
/// before its owner uses it. Only a later login ends it.
fn outlives_activation(other: &SvidRecord, activated: &SvidRecord) -> bool {
    let login = Some(SvidOrigin::Login);
    let waits = other.state == SvidState::Pending && other.origin == login;
    waits && (activated.origin != login || other.entry > activated.entry)
}
