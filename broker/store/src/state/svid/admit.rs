//! Which SVIDs may be recorded and activated.

use taskpass_core::{
    Identity, JoinTokenId, OperatorOrigin, Svid, SvidOrigin, SvidState, SvidStep, TaskId, Timestamp,
};

use crate::state::{
    State,
    refusal::{Refusal, exists, invalid, wrong},
};

/// Where the ledger of a new installation names its first operator.
const FIRST_OPERATOR_ENTRY: u64 = 1;

impl State {
    /// Checks whether an SVID may be issued or activated at `now`.
    pub(in crate::state) fn admit_svid(
        &self,
        step: &SvidStep<'_>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        match step {
            SvidStep::Issued {
                svid,
                join_token,
                renews,
                origin,
            } => {
                let own = svid_origin(*join_token, *renews, svid.task);
                admit_named_origin(*origin, own)?;
                self.admit_agents_svid(svid, *join_token, now)?;
                self.admit_renewal(&svid.identity(), *renews, now)?;
                self.root_not_retired(svid.root)?;
                self.admit_certificate(&svid.serial, svid.not_after, now)
            }
            SvidStep::OperatorIssued {
                operator,
                serial,
                not_after,
                renews,
                place,
                origin,
                root,
                ..
            } => {
                self.root_not_retired(*root)?;
                self.admit_origin(renews.is_some(), *place)?;
                let own = match renews {
                    Some(_) => SvidOrigin::Renewal,
                    None => SvidOrigin::Machine,
                };
                admit_named_origin(*origin, Some(own))?;
                let holder = Identity::Operator((*operator).clone());
                self.admit_renewal(&holder, *renews, now)?;
                self.admit_certificate(serial, *not_after, now)
            }
            SvidStep::Activated { serial } => match self.svid_live(serial, now)?.state {
                SvidState::Pending => Ok(()),
                SvidState::Active => wrong(format!("SVID `{serial}`"), "active"),
            },
            // An operator may have none: the person wants to be sure, and the entry says so.
            SvidStep::OperatorWithdrawn { .. } => Ok(()),
            SvidStep::Conflict { serial } => self.admit_conflict(serial, now),
        }
    }

    fn admit_agents_svid(
        &self,
        svid: &Svid,
        join_token: Option<JoinTokenId>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.agent_active(&svid.agent)?;
        if let Some(task) = svid.task {
            self.task_open(task, now)?;
            let node = self.tasks.get(&task);
            if node.is_none_or(|node| node.task.agent != svid.agent) {
                return invalid("the task is another agent's");
            }
        }
        if let Some(id) = join_token {
            self.token_unused(id, now)?;
            let record = self.tokens.get(&id);
            if record.is_none_or(|record| record.token.agent != svid.agent) {
                return invalid("the join token is another agent's");
            }
        }
        if svid.not_before > svid.not_after {
            return invalid("it ends before it begins");
        }
        Ok(())
    }

    /// While a broker serves, an operator gets an SVID only by renewing an SVID that counts. There
    /// are two other origins: `taskpassd init` makes the second entry of the ledger, and `taskpassd
    /// operator issue` sets `local`.
    fn admit_origin(&self, is_renewal: bool, origin: OperatorOrigin) -> Result<(), Refusal> {
        match (is_renewal, origin) {
            (true, OperatorOrigin::Broker) | (false, OperatorOrigin::Local) => Ok(()),
            (false, OperatorOrigin::Broker) if self.next() == FIRST_OPERATOR_ENTRY => Ok(()),
            (false, OperatorOrigin::Broker) => {
                invalid("it neither renews another one nor was made on the broker's machine")
            }
            (true, OperatorOrigin::Local) => {
                invalid("it cannot both renew another one and be made on the broker's machine")
            }
        }
    }

    /// Only the holder of an SVID that counts renews it.
    fn admit_renewal(
        &self,
        holder: &Identity,
        renews: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(serial) = renews else { return Ok(()) };
        if self.svid_live(serial, now)?.holder != *holder {
            return invalid("the SVID it renews is another holder's");
        }
        Ok(())
    }

    fn admit_certificate(
        &self,
        serial: &str,
        not_after: Timestamp,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.svids.contains_key(serial) || self.superseded.contains_key(serial) {
            return Err(exists("SVID", &serial));
        }
        if not_after <= now {
            return invalid("it has expired");
        }
        Ok(())
    }
}

/// The only origin that an agent's SVID can have; `None` where the event leaves it open.
const fn svid_origin(
    join_token: Option<JoinTokenId>,
    renews: Option<&str>,
    task: Option<TaskId>,
) -> Option<SvidOrigin> {
    match (join_token, renews, task) {
        (Some(_), ..) => Some(SvidOrigin::Login),
        (None, Some(_), _) => Some(SvidOrigin::Renewal),
        (None, None, Some(_)) => Some(SvidOrigin::Task),
        (None, None, None) => None,
    }
}

/// Refuses an event that names another origin than its own. Without its origin a login would end
/// nothing that the earlier identity has.
fn admit_named_origin(named: Option<SvidOrigin>, own: Option<SvidOrigin>) -> Result<(), Refusal> {
    if own.is_none() || named == own {
        return Ok(());
    }
    invalid("it does not say how its holder came to it")
}
