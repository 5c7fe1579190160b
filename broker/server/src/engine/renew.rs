//! Renewing a credential: the ledger knows how long it may live before the provider does.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use taskpass_core::{Credential, CredentialId, CredentialState, Event, TaskState, Timestamp, Ttl};
use taskpass_policy::{Action, Resource};
use taskpass_provider::RenewOrder;
use taskpass_store::Guard;

use crate::failpoint;

use super::{Call, Engine, Error, error::InField};

/// A credential to renew.
#[derive(Debug, Clone)]
pub struct RenewCredential {
    /// Which.
    pub credential_id: String,
    /// Seconds from now; as long as possible when 0.
    pub ttl_seconds: u32,
}

impl Engine {
    /// Extends a credential, at most to its task's deadline. Returns until when it lives now.
    pub async fn renew_credential(
        self: &Arc<Self>,
        call: &Call,
        request: &RenewCredential,
    ) -> Result<(CredentialId, Timestamp), Error> {
        let now = self.require_sane_clock()?;
        let id: CredentialId = request.credential_id.parse().in_field("credential_id")?;
        let credential = self
            .reachable_credential(call, Action::CredentialRenew, id)
            .await?;
        if call.agent().is_none() {
            return Err(self
                .refuse_kind(
                    call,
                    Action::CredentialRenew,
                    "only the agent itself renews",
                )
                .await);
        }
        let task = self
            .store
            .task(credential.task)
            .await?
            .ok_or_else(|| Error::no_task(credential.task))?;
        let (backend, spec) = self.role(&credential.role)?;
        let ttl = if request.ttl_seconds == 0 {
            spec.max_ttl
        } else {
            Ttl::from_seconds(u64::from(request.ttl_seconds))
                .in_field("ttl_seconds")?
                .min(spec.max_ttl)
        };
        let until = now.plus(ttl.duration()).min(task.deadline);
        self.rates.admit_draw(task.id)?;
        let draw = self.draw(&task, &credential.scope, until, now).await?;
        let resource = Resource::Credential {
            credential: &credential,
            role: Some(spec),
        };
        let allowed = self
            .authorize(call, Action::CredentialRenew, resource, Some(draw))
            .await?;
        if task.state != TaskState::Open || task.deadline <= now {
            return Err(Error::TaskEnded(task.id));
        }
        if !spec.renewable
            || credential.state != CredentialState::Active
            || credential.expires_at <= now
        {
            return Err(Error::Precondition(format!(
                "credential `{id}` cannot be renewed: it is {}{}; issue a new one",
                credential.shown_state(),
                if spec.renewable {
                    ""
                } else {
                    " and of a kind that has a fixed life"
                }
            )));
        }
        backend.admit()?;
        let running = self.renewals.begin(id).ok_or_else(|| {
            Error::Precondition(format!(
                "credential `{id}` is just being renewed; try again"
            ))
        })?;
        let intent = Event::CredentialRenewIntended {
            credential: id,
            until,
        };
        let guards = vec![
            Guard::SvidLive(call.caller.serial().to_owned()),
            Guard::TaskOpen(task.id),
            Guard::CredentialState(id, &[CredentialState::Active]),
        ];
        self.commit(vec![allowed.into_event(), intent], guards)
            .await?;
        failpoint::reached("renew.intended");
        let expires_at = self.extend(&credential, until, running).await?;
        Ok((id, expires_at))
    }

    /// Calls the provider apart from the request, so that its outcome is recorded whatever the caller does.
    async fn extend(
        self: &Arc<Self>,
        credential: &Credential,
        until: Timestamp,
        running: Renewing,
    ) -> Result<Timestamp, Error> {
        let (backend, _) = self.role(&credential.role)?;
        let backend = Arc::clone(backend);
        let anchor = match credential.anchor {
            None => None,
            Some(id) => {
                let anchors = self.store.anchors_of_task(credential.task).await?;
                anchors
                    .iter()
                    .find(|anchor| anchor.id == id)
                    .map(|anchor| anchor.handle.clone())
            }
        };
        let order = RenewOrder {
            credential: credential.id,
            task: credential.task,
            role: credential.role.clone(),
            handle: credential.handle.clone(),
            anchor,
            until,
        };
        let engine = Arc::clone(self);
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.tasks.spawn(async move {
            let result = backend.issue(backend.provider().renew(&order)).await;
            failpoint::reached("renew.extended");
            let outcome = match result {
                Ok(renewed) => {
                    // Later than asked for when the provider gave more: the ledger says what is so.
                    let expires_at = renewed.expires_at;
                    let event = Event::CredentialRenewed {
                        credential: order.credential,
                        expires_at,
                    };
                    engine
                        .commit_release(vec![event], Vec::new())
                        .await
                        .map(|_| expires_at)
                }
                // The intent stands: the ledger goes on saying the later time, which is the safe one.
                Err(error) => Err(backend.error(error)),
            };
            failpoint::reached("renew.recorded");
            drop(running);
            if answer.send(outcome).is_err() {
                tracing::debug!(credential = %order.credential, "nobody waited for the renewal");
            }
        });
        answered
            .await
            .unwrap_or_else(|_| Err(Error::Store("the broker is stopping; ask again".to_owned())))
    }
}

/// Credentials that are being renewed. One renewal of each at a time: the answers of two could be recorded in another
/// order than the provider carried them out, and the ledger would let a credential expire that lives on.
#[derive(Debug, Default)]
pub(super) struct Renewals(Arc<Mutex<HashSet<CredentialId>>>);

impl Renewals {
    /// Begins a renewal; `None` while another one runs.
    fn begin(&self, credential: CredentialId) -> Option<Renewing> {
        let renewals = Arc::clone(&self.0);
        renewals.lock().insert(credential).then_some(())?;
        Some(Renewing {
            renewals,
            credential,
        })
    }
}

/// A renewal that runs; it ends on drop.
#[derive(Debug)]
struct Renewing {
    renewals: Arc<Mutex<HashSet<CredentialId>>>,
    credential: CredentialId,
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.renewals.lock().remove(&self.credential);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_renewal_of_a_credential_at_a_time() {
        let (renewals, id) = (
            Renewals::default(),
            CredentialId::first_at(Timestamp::EPOCH),
        );
        let running = renewals.begin(id);
        assert!(running.is_some());
        assert!(renewals.begin(id).is_none());
        let other = CredentialId::first_at(Timestamp::from_millis(1));
        assert!(renewals.begin(other).is_some());
        drop(running);
        assert!(renewals.begin(id).is_some());
    }
}
