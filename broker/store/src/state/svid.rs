//! SVIDs: which of them count. An agent's and an operator's count alike: once on record, until their end, and until
//! another one of the same holder is used, or made for an operator on the broker's own machine.

use std::sync::Arc;

use taskpass_core::{Event, Identity, JoinTokenId, Svid, SvidState, Timestamp, limits};

use super::{
    Change, Effects, State,
    admit::{exists, gone, invalid, kind, wrong},
    apply::missing,
};
use crate::{CommitError, Conflict, JoinTokenRecord, SvidRecord};

/// Where the ledger of a new installation names its first operator.
const FIRST_OPERATOR_ENTRY: u64 = 1;

impl State {
    /// Whether an SVID may be issued or activated now.
    pub(super) fn admit_svid_event(
        &self,
        event: &Event,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        match event {
            Event::SvidIssued {
                svid,
                join_token,
                renews,
                ..
            } => {
                self.admit_agents_svid(svid, *join_token, now)?;
                self.admit_renewal(event, &svid.identity(), renews.as_deref(), now)?;
                self.admit_certificate(event, &svid.serial, svid.not_after, now)
            }
            Event::OperatorSvidIssued {
                operator,
                serial,
                not_after,
                renews,
                local,
                ..
            } => {
                self.admit_origin(event, renews.is_some(), *local)?;
                let holder = Identity::Operator(operator.clone());
                self.admit_renewal(event, &holder, renews.as_deref(), now)?;
                self.admit_certificate(event, serial, *not_after, now)
            }
            Event::SvidActivated { serial } => {
                let svid = self.svid_live(serial, now).map_err(CommitError::Guard)?;
                if svid.state == SvidState::Pending {
                    return Ok(());
                }
                Err(wrong(event, format!("SVID `{serial}`"), "active"))
            }
            _ => Ok(()),
        }
    }

    fn admit_agents_svid(
        &self,
        svid: &Svid,
        join_token: Option<JoinTokenId>,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        let refuse = |reason| Err(invalid("svid_issued", reason));
        if !self.knows_agent(&svid.agent) {
            return Err(gone("agent", &svid.agent));
        }
        if let Some(task) = svid.task {
            self.task_open(task, now).map_err(CommitError::Guard)?;
            let node = self.tasks.get(&task);
            if node.is_none_or(|node| node.task.agent != svid.agent) {
                return refuse("the task is another agent's");
            }
        }
        if let Some(id) = join_token {
            self.token_unused(id, now).map_err(CommitError::Guard)?;
            let record = self.tokens.get(&id);
            if record.is_none_or(|record| record.token.agent != svid.agent) {
                return refuse("the join token is another agent's");
            }
        }
        if svid.not_before > svid.not_after {
            return refuse("it ends before it begins");
        }
        Ok(())
    }

    /// While the broker serves, nobody but its holder can vouch for an operator. The others say in the ledger where
    /// they come from: the making of the installation, or a command on the machine that has its keys.
    fn admit_origin(&self, event: &Event, renewal: bool, local: bool) -> Result<(), CommitError> {
        let reason = match (renewal, local) {
            (true, false) | (false, true) => return Ok(()),
            (false, false) if self.next() == FIRST_OPERATOR_ENTRY => return Ok(()),
            (false, false) => "it neither renews another one nor was made on the broker's machine",
            (true, true) => "it cannot both renew another one and be made on the broker's machine",
        };
        Err(invalid(kind(event), reason))
    }

    /// A renewal is for the holder of an SVID that counts.
    fn admit_renewal(
        &self,
        event: &Event,
        holder: &Identity,
        renews: Option<&str>,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        let Some(serial) = renews else { return Ok(()) };
        let before = self.svid_live(serial, now).map_err(CommitError::Guard)?;
        if before.holder != *holder {
            return Err(invalid(
                kind(event),
                "the SVID it renews is another holder's",
            ));
        }
        Ok(())
    }

    fn admit_certificate(
        &self,
        event: &Event,
        serial: &str,
        not_after: Timestamp,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        if self.svids.contains_key(serial) {
            return Err(exists("SVID", &serial));
        }
        if not_after <= now {
            return Err(invalid(kind(event), "it has expired"));
        }
        Ok(())
    }

    /// What the issue or the first use of an SVID changes.
    pub(super) fn svid_event(&self, event: &Event) -> Result<Effects, Conflict> {
        match event {
            Event::SvidIssued {
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
                let effects = Effects::of(changes);
                Ok(match svid.task {
                    Some(task) => effects.about(task),
                    None => effects,
                })
            }
            Event::OperatorSvidIssued {
                operator,
                serial,
                key_sha256,
                not_after,
                local,
                ..
            } => Ok(Effects::of(self.operator_svid_recorded(
                *local,
                SvidRecord {
                    serial: serial.clone(),
                    holder: Identity::Operator(operator.clone()),
                    key_sha256: key_sha256.clone(),
                    not_after: *not_after,
                    state: SvidState::Pending,
                    entry: self.next(),
                },
            ))),
            Event::SvidActivated { serial } => self.svid_activated(serial),
            _ => Ok(Effects::default()),
        }
    }

    fn token_used(&self, id: Option<JoinTokenId>) -> Result<Vec<Change>, Conflict> {
        let Some(id) = id else { return Ok(Vec::new()) };
        let token = self.tokens.get(&id);
        let used = JoinTokenRecord {
            token: token
                .ok_or_else(|| missing("join token", &id))?
                .token
                .clone(),
            used: true,
        };
        Ok(vec![Change::Token(id, Some(Arc::new(used)))])
    }

    /// One that was made on the broker's machine takes the place of all others at once: a thief may hold any of them.
    fn operator_svid_recorded(&self, local: bool, svid: SvidRecord) -> Vec<Change> {
        if !local {
            return self.svid_recorded(svid);
        }
        let mut changes = self.other_svids(&svid.holder, &svid.serial);
        changes.push(Change::Svid(svid.serial.clone(), Some(Arc::new(svid))));
        changes
    }

    /// Puts an SVID on record. Of those that wait for their first use, the oldest make room.
    fn svid_recorded(&self, svid: SvidRecord) -> Vec<Change> {
        let mut changes = match svid.state {
            SvidState::Active => self.other_svids(&svid.holder, &svid.serial),
            SvidState::Pending => {
                let is_pending = |serial: &&str| {
                    let record = self.svids.get(*serial);
                    record.is_some_and(|record| record.state == SvidState::Pending)
                };
                let pending: Vec<&str> = self.serials_of(&svid.holder).filter(is_pending).collect();
                let surplus =
                    (pending.len() + 1).saturating_sub(limits::PENDING_SVIDS_PER_IDENTITY_MAX);
                let oldest = pending.into_iter().take(surplus);
                oldest
                    .map(|serial| Change::Svid(serial.to_owned(), None))
                    .collect()
            }
        };
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
        effects.about.extend(svid.task());
        Ok(effects)
    }

    /// Takes out all SVIDs of a holder but one.
    pub(super) fn other_svids(&self, holder: &Identity, but: &str) -> Vec<Change> {
        self.serials_of(holder)
            .filter(|serial| *serial != but)
            .map(|serial| Change::Svid(serial.to_owned(), None))
            .collect()
    }

    fn serials_of(&self, holder: &Identity) -> impl Iterator<Item = &str> {
        let of_holder = self.svids_of.get(holder);
        of_holder
            .into_iter()
            .flatten()
            .map(|(_, serial)| serial.as_str())
    }
}
