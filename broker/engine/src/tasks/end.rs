//! Ending a task: the broker issues no more credentials for it, and revokes the issued ones.

use std::time::Duration;

use taskpass_core::{
    Actor, Credential, CredentialId, CredentialState, EndCause, Event, RevocationClass, RoleName,
    ShownState, Task, TaskId, TaskState, Timestamp,
};
use taskpass_policy::{Action, Resource};

use crate::{Call, Engine, Error, credentials::Reader, failpoint};

/// A task to end.
#[derive(Debug, Clone)]
pub struct EndTask {
    /// Which.
    pub task: TaskId,
    /// How its agent says that it ends.
    pub how: Ending,
    /// How long to wait for revocation; the configured time when the caller does not say.
    pub wait: Option<Duration>,
}

/// How an agent ends its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The work is done.
    Complete,
    /// The work is stopped before its end.
    Cancel,
}

/// How ending went.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The task as it is now.
    pub task: Task,
    /// One receipt for each credential of the task and of everything below it.
    pub receipts: Vec<Receipt>,
}

/// The result of revoking one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The credential.
    pub credential: CredentialId,
    /// Its role.
    pub role: RoleName,
    /// Its state, in the words of the API.
    pub state: ShownState,
    /// How far revoking truly goes.
    pub revocation_class: RevocationClass,
    /// From the decision to revoke to the final state, or until now.
    pub took: Duration,
    /// Until when it may still be usable; `None` when it is proven dead or was never minted.
    pub may_live_until: Option<Timestamp>,
    /// Until when the back end may still tell others who its holder is, although it denies access.
    pub identity_until: Option<Timestamp>,
    /// How it was proved, or why it is not.
    pub proof: String,
}

impl Receipt {
    /// The receipt of a credential as it stands at `now`.
    pub(crate) fn of(credential: &Credential, now: Timestamp, reader: Reader) -> Self {
        let revocation = credential.revocation.as_ref();
        let took = revocation.map_or(Duration::ZERO, |r| r.done_at.unwrap_or(now).since(r.since));
        let may_live_until = match credential.state {
            CredentialState::RevokedVerified
            | CredentialState::Abandoned
            | CredentialState::Expired => None,
            CredentialState::RevokedUnverified => revocation.and_then(|r| r.may_live_until),
            CredentialState::Intended | CredentialState::Active | CredentialState::Revoking => {
                let forever = credential.revocation_class == RevocationClass::None;
                Some(if forever {
                    Timestamp::MAX
                } else {
                    credential.expires_at
                })
            }
        };
        let proof = revocation
            .and_then(|r| {
                r.proof.clone().or_else(|| {
                    r.last_error
                        .as_ref()
                        .map(|e| format!("not yet: {}", reader.failure(e)))
                })
            })
            .unwrap_or_default();
        Self {
            credential: credential.id,
            role: credential.role.clone(),
            state: credential.shown(),
            revocation_class: credential.revocation_class,
            took,
            may_live_until,
            identity_until: revocation.and_then(|r| r.identity_until),
            proof,
        }
    }
}

impl Engine {
    /// Ends a task and waits for its receipts up to a deadline. The receipts of credentials without
    /// a proof by then say so, and revoking goes on in the background. Ending a task twice gives
    /// the same receipts.
    pub async fn end_task(&self, call: &Call, request: &EndTask) -> Result<Ended, Error> {
        let id = request.task;
        let task = self.reachable_task(call, Action::TaskEnd, id).await?;
        let allowed = self
            .authorize(call, Action::TaskEnd, Resource::Task(&task), None)
            .await
            .granted()?;
        let mut family = vec![id];
        family.extend(self.context.store.descendants(id).await?);
        let cause = if request.how == Ending::Cancel || call.agent().is_none() {
            EndCause::Cancelled
        } else {
            EndCause::Completed
        };
        let by = Actor::Caller(call.caller.id().clone());
        if task.state == TaskState::Open {
            let ending = Event::TaskEnding {
                task: id,
                cause,
                by,
            };
            match self
                .commit_reserved(vec![allowed.into_event(), ending], Vec::new())
                .await
            {
                Ok(_) => {}
                // Another caller ended it meanwhile.
                Err(error) if !self.is_open(id).await? => {
                    tracing::debug!(error = %error.message(), task = %id, "ended meanwhile")
                }
                Err(error) => return Err(error),
            }
        } else {
            self.commit_ended_before(call, allowed).await?;
        }
        failpoint::reached("end.intended");
        self.stop_tasks(&family);
        self.all_ended(&family, Self::wait_for(call, request.wait))
            .await?;
        self.ended(id, &family, Reader::of(call)).await
    }

    /// Ends a task on the broker's own account: deadline, lost heartbeat.
    pub(crate) async fn end_by_broker(&self, id: TaskId, cause: EndCause) -> Result<(), Error> {
        let mut family = vec![id];
        family.extend(self.context.store.descendants(id).await?);
        if self.is_open(id).await? {
            self.commit_reserved(
                vec![Event::TaskEnding {
                    task: id,
                    cause,
                    by: Actor::Broker,
                }],
                Vec::new(),
            )
            .await?;
            failpoint::reached("end.by_broker");
        }
        self.stop_tasks(&family);
        Ok(())
    }

    async fn is_open(&self, id: TaskId) -> Result<bool, Error> {
        let task = self.context.store.task(id).await?;
        Ok(task.is_some_and(|task| task.state == TaskState::Open))
    }

    /// Cancels the calls that run for these tasks, so that revoking need not wait for them.
    pub(crate) fn stop_tasks(&self, tasks: &[TaskId]) {
        for task in tasks {
            self.heartbeats.stop(*task);
            self.in_flight.cancel(*task);
        }
    }

    async fn ended(&self, id: TaskId, family: &[TaskId], reader: Reader) -> Result<Ended, Error> {
        let now = self.now();
        let mut receipts = Vec::new();
        for task in family {
            let credentials = self.context.store.credentials_of_task(*task).await?;
            receipts.extend(credentials.iter().map(|c| Receipt::of(c, now, reader)));
        }
        let task = self.existing_task(id).await?;
        Ok(Ended {
            task: task.as_ref().clone(),
            receipts,
        })
    }
}
