//! Renewal of SVIDs: a caller with an identity that counts gets a new certificate for a new key.

use taskpass_ca::{IssueOptions, PublicKey};
use taskpass_core::{
    Agent, AgentName, Event, Identity, OperatorName, SpiffeId, SvidOrigin, SvidState, Task, TaskId,
    Ttl,
};
use taskpass_policy::{Action, Resource};
use taskpass_store::SvidRecord;

use crate::{Call, Caller, Engine, Error, IssuedSvid, budgets::Spending};

impl Engine {
    /// Signs a new SVID for the caller, over `key`. The old one counts until the new one is first
    /// used, so that a lost answer locks no caller out.
    pub async fn renew_svid(&self, call: &Call, key: &PublicKey) -> Result<IssuedSvid, Error> {
        self.require_sound()?;
        let (decided, issued, event) = match &call.caller {
            Caller::Agent {
                agent,
                serial,
                bound_to,
                ..
            } => {
                let resource = bound_to
                    .as_ref()
                    .map_or(Resource::Agent(agent), |task| Resource::Task(task));
                let allowed = self
                    .authorize(call, Action::SvidRenew, resource, None)
                    .await
                    .granted()?;
                let (issued, event) = self.renew_agent(agent, bound_to.as_deref(), key, serial)?;
                (allowed.into_event(), issued, event)
            }
            Caller::Operator { name, id, serial } => {
                let allowed = self
                    .authorize(call, Action::SvidRenew, Resource::Installation, None)
                    .await
                    .granted()?;
                let (issued, event) = self.renew_operator(name, id, key, serial)?;
                (allowed.into_event(), issued, event)
            }
        };
        // The renewed certificate must still count when the new one is recorded: a stolen and
        // superseded one cannot be renewed.
        let events = vec![decided, event];
        self.commit_for(call, Spending::SvidRenewal, events, Vec::new())
            .await?;
        Ok(issued)
    }

    fn renew_agent(
        &self,
        agent: &Agent,
        bound_to: Option<&Task>,
        key: &PublicKey,
        before: &str,
    ) -> Result<(IssuedSvid, Event), Error> {
        let (identity, ttl) = match bound_to {
            None => (Identity::Agent(agent.name.clone()), None),
            Some(task) => (
                Identity::AgentTask(agent.name.clone(), task.id),
                self.life_left(task)?,
            ),
        };
        let options = IssueOptions {
            ttl,
            ..IssueOptions::default()
        };
        let (issued, svid) = self.sign(&identity, key, &options)?;
        let event = Event::SvidIssued {
            svid,
            join_token: None,
            evidence: None,
            renews: Some(before.to_owned()),
            origin: Some(SvidOrigin::Renewal),
        };
        Ok((issued, event))
    }

    fn renew_operator(
        &self,
        name: &OperatorName,
        id: &SpiffeId,
        key: &PublicKey,
        before: &str,
    ) -> Result<(IssuedSvid, Event), Error> {
        let signed = self
            .context
            .authority
            .issue_operator(name, key)
            .map_err(Error::authority)?;
        let event = Event::OperatorSvidIssued {
            operator: name.clone(),
            serial: signed.serial.clone(),
            key_sha256: signed.key_sha256.clone(),
            not_after: signed.not_after,
            renews: Some(before.to_owned()),
            origin: Some(SvidOrigin::Renewal),
            local: false,
            root: signed.root,
        };
        let id = id.clone();
        Ok((IssuedSvid { id, signed }, event))
    }

    /// Notes the first use of an SVID: from now on the others of its identity do not count. After a
    /// login with a join token the store also ends every task of the earlier identity. It may use
    /// the reserve of a full disk, since it ends more than it gives; a full disk refuses the issue
    /// that comes before each first use, so no caller can use up the reserve with it.
    pub(crate) async fn activate_svid(&self, svid: &SvidRecord) -> Result<(), Error> {
        let serial = &svid.serial;
        let login = match (&svid.holder, svid.origin) {
            (Identity::Agent(name), Some(SvidOrigin::Login)) => {
                let open = self.context.store.open_tasks_of_agent(name).await?;
                Some((name, open))
            }
            _ => None,
        };
        let event = Event::SvidActivated {
            serial: serial.clone(),
        };
        match self.commit_reserved(vec![event], Vec::new()).await {
            Ok(_) => match login {
                Some((name, open)) => self.identity_replaced(name, open).await,
                None => Ok(()),
            },
            // A concurrent first request has recorded it.
            Err(error) => match self.context.store.svid(serial).await? {
                Some(svid) if svid.state == SvidState::Active => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Cancels the calls for the tasks that a login ended.
    async fn identity_replaced(&self, name: &AgentName, open: Vec<TaskId>) -> Result<(), Error> {
        if open.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            agent = %name, tasks = open.len(),
            "an agent logged in anew: the tasks and credentials of its earlier identity end"
        );
        self.stop_tasks_of(name, open).await.map(drop)
    }

    /// An SVID bound to a task never outlives it.
    pub(crate) fn life_left(&self, task: &Task) -> Result<Option<Ttl>, Error> {
        let seconds = task.remaining(self.now()).as_secs();
        if seconds == 0 {
            return Err(Error::TaskEnded(task.id));
        }
        let longest = u64::from(Ttl::MAX.seconds());
        Ttl::from_seconds(seconds.min(longest))
            .map(Some)
            .map_err(Error::authority)
    }
}

#[cfg(test)]
mod tests;
