//! Renewing a credential: the ledger knows how long it may live before the provider does.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use serde::Serialize;
use taskpass_core::{
    Credential, CredentialId, CredentialState, Event, Handle, IdempotencyKey, RoleName, RoleSpec,
    Task, TaskState, Timestamp, Ttl,
};
use taskpass_policy::{Action, Resource};
use taskpass_provider::{ProviderError, RenewOrder};
use taskpass_store::{Guard, Subject};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::failpoint;

use super::{
    Call, Engine, Error, RequestKey,
    backend::{Backend, IssuePlace},
};

/// A credential to renew.
#[derive(Debug, Clone, Serialize)]
pub struct RenewCredential {
    /// Which.
    pub credential: CredentialId,
    /// How long it is to live from now on; as long as possible when the caller does not say.
    pub ttl: Option<Ttl>,
}

/// How long a renewed credential lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewedCredential {
    /// Which.
    pub credential: CredentialId,
    /// Until when.
    pub expires_at: Timestamp,
}

impl Engine {
    /// Extends a credential, at most to its task's deadline. Returns until when it lives now. One that has more left than is
    /// asked for keeps it.
    pub async fn renew_credential(
        self: &Arc<Self>,
        call: &Call,
        key: Option<&RequestKey>,
        request: &RenewCredential,
    ) -> Result<RenewedCredential, Error> {
        let id = request.credential;
        let renewed = |expires_at| RenewedCredential {
            credential: id,
            expires_at,
        };
        let (task, role) = self.own_task_and_role(call, id).await?;
        let (backend, spec) = call.snapshot.backends().role(&role)?;
        let ttl = request
            .ttl
            .map_or(spec.max_ttl, |ttl| ttl.min(spec.max_ttl));
        let idempotency = Self::idempotency_key(call, key, request)?;
        let running = self.begin_renewal(id, idempotency.as_ref()).await?;
        // What follows is as it is when no other renewal can change it any more.
        let now = self.require_sane_clock()?;
        if let Some(answer) = self
            .renewed_before(backend, id, idempotency.as_ref())
            .await?
        {
            return Ok(renewed(answer));
        }
        // Its agent may know how it stands; policy would only say that it does not permit it.
        if task.state != TaskState::Open || task.deadline <= now {
            return Err(Error::TaskEnded(task.id));
        }
        let credential = self.context.store.credential(id).await?;
        let credential = credential.ok_or_else(|| Error::no_credential(id))?;
        let until = now.plus(ttl.duration()).min(task.deadline);
        let until = not_before_its_end(&credential, until, task.deadline);
        renewable(&credential, spec, now)?;
        self.rates.check_task(call.snapshot.settings(), task.id)?;
        let draw = self.draw(&task, &credential.scope, until, now).await?;
        let resource = Resource::Credential {
            credential: &credential,
            role: Some(spec),
        };
        let allowed = self
            .authorize(call, Action::CredentialRenew, resource, Some(draw))
            .await?;
        let intent = Event::CredentialRenewIntended {
            credential: id,
            until,
            idempotency: idempotency.clone(),
        };
        let guards = self.renewal_guards(call, &credential, idempotency.as_ref());
        let mut events = vec![allowed.into_event(), intent];
        if has_left(&credential, until) {
            events.push(Event::CredentialRenewed {
                credential: id,
                expires_at: credential.expires_at,
                idempotency,
            });
            self.commit(events, guards).await?;
            return Ok(renewed(self.lives_until(id).await?));
        }
        let place = backend.admit()?;
        self.commit(events, guards).await?;
        failpoint::reached("renew.intended");
        let running = Renewal {
            place,
            running,
            idempotency,
        };
        let expires_at = self.extend(backend, &credential, until, running).await?;
        Ok(renewed(expires_at))
    }

    /// Of a credential that the caller may renew.
    async fn own_task_and_role(
        &self,
        call: &Call,
        id: CredentialId,
    ) -> Result<(Arc<Task>, RoleName), Error> {
        const ACTION: Action = Action::CredentialRenew;
        let credential = self.reachable_credential(call, ACTION, id).await?;
        if call.agent().is_none() {
            let why = "only the agent itself renews";
            return Err(self.refuse_kind(call, ACTION, why).await);
        }
        let task = self.context.store.task(credential.task).await?;
        let task = task.ok_or_else(|| Error::no_task(credential.task))?;
        Ok((task, credential.role.clone()))
    }

    fn renewal_guards(
        &self,
        call: &Call,
        credential: &Credential,
        key: Option<&IdempotencyKey>,
    ) -> Vec<Guard> {
        let mut guards = vec![
            Guard::SvidLive(call.caller.serial().to_owned()),
            Guard::TaskOpen(credential.task),
            Guard::CredentialState(credential.id, &[CredentialState::Active]),
        ];
        guards.extend(Self::share_of_keys(call, key, Some(credential.task)));
        guards
    }

    /// One renewal of a credential at a time. A repeated request waits for the one that runs, which may be its first.
    async fn begin_renewal(
        &self,
        id: CredentialId,
        key: Option<&IdempotencyKey>,
    ) -> Result<Renewing, Error> {
        if key.is_some() {
            self.renewals.over(id).await;
        }
        self.renewals.begin(id).ok_or_else(|| {
            Error::Precondition(format!(
                "credential `{id}` is just being renewed; try again"
            ))
        })
    }

    /// The answer to a request that was made before: never a second extension.
    async fn renewed_before(
        &self,
        backend: &Backend,
        id: CredentialId,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(Subject::Renewal { expires_at, .. }) = self.earlier(key).await? else {
            return Ok(None);
        };
        let ends_at = self.lives_until(id).await?;
        match expires_at {
            Some(expires_at) => Ok(Some(ends_at.min(expires_at))),
            None => Err(backend.error(ProviderError::retryable(format!(
                "whether the first attempt with this idempotency key renewed it is not known; it lives until {ends_at} at most; try again with a new key"
            )))),
        }
    }

    /// Until when a credential lives; an error when it was revoked meanwhile, or is over. What stands in an earlier
    /// answer does not matter then.
    async fn lives_until(&self, id: CredentialId) -> Result<Timestamp, Error> {
        let recorded = self.context.store.credential(id).await?;
        let recorded = recorded.ok_or_else(|| Error::no_credential(id))?;
        alive(&recorded, self.now())?;
        Ok(recorded.ends_at())
    }

    /// Calls the provider apart from the request, so that its outcome is recorded whatever the caller does.
    async fn extend(
        self: &Arc<Self>,
        backend: &Arc<Backend>,
        credential: &Credential,
        until: Timestamp,
        renewal: Renewal,
    ) -> Result<Timestamp, Error> {
        let backend = Arc::clone(backend);
        let anchor = match credential.anchor {
            None => None,
            Some(id) => {
                let anchors = self.context.store.anchors_of_task(credential.task).await?;
                anchors
                    .iter()
                    .find(|anchor| anchor.id == id)
                    .map(|anchor| anchor.handle.to_json())
            }
        };
        let order = RenewOrder {
            credential: credential.id,
            task: credential.task,
            role: credential.role.clone(),
            handle: credential.handle.as_ref().map(Handle::to_json),
            anchor,
            until,
        };
        let engine = Arc::clone(self);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let calling = async move {
            let Renewal {
                place,
                running,
                idempotency,
            } = renewal;
            let result = backend.issue(place, backend.provider().renew(&order)).await;
            failpoint::reached("renew.extended");
            let outcome = match result {
                Ok(renewed) => {
                    // Later than asked for when the provider gave more: the ledger says what is so.
                    let event = Event::CredentialRenewed {
                        credential: order.credential,
                        expires_at: renewed.expires_at,
                        idempotency,
                    };
                    match engine.commit_reserved(vec![event], Vec::new()).await {
                        Ok(_) => engine.lives_until(order.credential).await,
                        Err(error) => Err(error),
                    }
                }
                // The intent stands: the ledger says the later time, and that this one is not answered.
                Err(error) => Err(backend.error(error)),
            };
            failpoint::reached("renew.recorded");
            drop(running);
            if answer.send(outcome).is_err() {
                tracing::debug!(credential = %order.credential, "nobody waited for the renewal");
            }
        };
        // The call may outlive its request; its log lines carry the request's id all the same.
        self.context.tasks.spawn(calling.in_current_span());
        answered
            .await
            .unwrap_or_else(|_| Err(Error::Store("the broker is stopping; ask again".to_owned())))
    }
}

/// While a renewal is not answered, the next one asks for no less than what is on record: whatever else came of the request to
/// issue, or of one to renew, must not outlive the record of this one.
fn not_before_its_end(credential: &Credential, until: Timestamp, deadline: Timestamp) -> Timestamp {
    if credential.renewals_unanswered == 0 {
        return until;
    }
    until.max(credential.expires_at.min(deadline))
}

/// Whether it has what is asked for. Then nobody is asked: whoever wants it to end earlier revokes it, since of a request to
/// issue that was carried out twice only one product would be shortened, and the other one would outlive the record.
fn has_left(credential: &Credential, until: Timestamp) -> bool {
    until < credential.expires_at && credential.renewals_unanswered == 0
}

/// Whether there is something to extend.
fn renewable(credential: &Credential, spec: &RoleSpec, now: Timestamp) -> Result<(), Error> {
    if spec.renewable {
        return alive(credential, now);
    }
    Err(Error::Precondition(format!(
        "credential `{}` cannot be renewed: it is of a kind that has a fixed life; issue a new one",
        credential.id
    )))
}

fn alive(credential: &Credential, now: Timestamp) -> Result<(), Error> {
    let state = match credential.state {
        CredentialState::Active if credential.ends_at() > now => return Ok(()),
        CredentialState::Active => CredentialState::Expired.as_str(),
        _ => credential.shown_state(),
    };
    Err(Error::Precondition(format!(
        "credential `{}` cannot be renewed: it is {state}; issue a new one",
        credential.id
    )))
}

/// A renewal on its way.
struct Renewal {
    place: IssuePlace,
    running: Renewing,
    idempotency: Option<IdempotencyKey>,
}

/// Credentials that are being renewed. One renewal of each at a time: the answers of two could be recorded in another
/// order than the provider carried them out, and the ledger would let a credential expire that lives on.
#[derive(Debug, Default)]
pub(super) struct Renewals(Arc<Mutex<HashMap<CredentialId, CancellationToken>>>);

impl Renewals {
    /// Begins a renewal; `None` while another one runs.
    fn begin(&self, credential: CredentialId) -> Option<Renewing> {
        let renewals = Arc::clone(&self.0);
        {
            let mut running = renewals.lock();
            if running.contains_key(&credential) {
                return None;
            }
            running.insert(credential, CancellationToken::new());
        }
        Some(Renewing {
            renewals,
            credential,
        })
    }

    /// Ends when no renewal of the credential runs that runs now.
    async fn over(&self, credential: CredentialId) {
        let running = self.0.lock().get(&credential).cloned();
        if let Some(running) = running {
            running.cancelled().await;
        }
    }
}

/// A renewal that runs; it ends on drop.
#[derive(Debug)]
struct Renewing {
    renewals: Arc<Mutex<HashMap<CredentialId, CancellationToken>>>,
    credential: CredentialId,
}

impl Drop for Renewing {
    fn drop(&mut self) {
        let over = self.renewals.lock().remove(&self.credential);
        if let Some(over) = over {
            over.cancel();
        }
    }
}
