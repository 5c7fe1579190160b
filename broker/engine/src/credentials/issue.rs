//! Issuing a credential: decide, record the intent, call the provider, record the outcome, deliver.
//!
//! The intent is durable before the call, except where the credential will hang on an anchor that
//! is durable: then the intent is in order before the call and durable before the outcome (see
//! `ahead.rs`).
//!
//! The provider call runs in a task of its own, not in the request, so a caller that goes away
//! cannot leave a call half done. If the secret cannot be delivered any more, the credential is
//! revoked at once (see `delivery.rs`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use taskpass_core::{
    Credential, CredentialId, CredentialIntent, CredentialState, EnvName, Event, Handle,
    IdempotencyKey, RevocationClass, RevokeCause, RoleName, RoleSpec, Scope, SecretFields, Task,
    TaskId, TaskState, Timestamp, Ttl, is_hidden, limits,
};
use taskpass_policy::{Action, Resource};
use taskpass_provider::{IssueOrder, Issued, ProviderError};
use taskpass_store::{Batch, Guard, Subject};
use tracing::Instrument as _;

use crate::{
    Call, Delivery, Engine, Error, Field, RequestKey,
    budgets::Spending,
    failpoint,
    providers::{Backend, IssuePermit},
};

use super::{
    ahead::{IntentRecord, nothing_in_doubt},
    anchors::AnchorRecorder,
    in_flight::{AheadOf, InFlightCall},
    told::told,
};

/// How long a provider call may run on after its task ended. A call that ends by itself has a known
/// outcome, and a credential with a known outcome is revoked more surely than one in doubt.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// How often policy decides anew because other requests of the agent changed the counts that it
/// reads. Each time at least one of them was issued.
const DECISIONS_MAX: u32 = 64;

/// A credential to issue.
#[derive(Debug, Clone, Serialize)]
pub struct IssueCredential {
    /// From which task.
    pub task: TaskId,
    /// Which role.
    pub role: RoleName,
    /// What to narrow it to.
    pub scope: Scope,
    /// Its life; as long as role and task allow when the caller does not say.
    pub ttl: Option<Ttl>,
}

/// A request that is ready for policy.
#[derive(Debug)]
struct Wanted<'a> {
    spec: &'a RoleSpec,
    task: &'a Task,
    scope: &'a Scope,
    ttl: Ttl,
    now: Timestamp,
    expires_at: Timestamp,
    idempotency: Option<IdempotencyKey>,
}

/// A credential whose intent is in order, with the right to call its provider.
#[derive(Debug)]
struct Intended {
    credential: Credential,
    permit: IssuePermit,
    running: InFlightCall,
    intent: IntentRecord,
}

/// An issued credential. This is the only place where a secret leaves the broker.
#[derive(Debug)]
pub struct IssuedCredential {
    /// Names the credential.
    pub id: CredentialId,
    /// The role.
    pub role: RoleName,
    /// When it expires.
    pub expires_at: Timestamp,
    /// What revoking it can truly do.
    pub revocation_class: RevocationClass,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// The secret parts.
    pub data: SecretFields,
    /// The environment variables that the role declares for its parts, by the part's name.
    pub env: BTreeMap<String, EnvName>,
    /// Revokes the credential unless delivery is confirmed.
    pub delivery: Delivery,
}

impl Engine {
    /// Issues one credential from an open task.
    pub async fn issue_credential(
        self: &Arc<Self>,
        call: &Call,
        key: Option<&RequestKey>,
        request: &IssueCredential,
    ) -> Result<IssuedCredential, Error> {
        let now = self.require_sound()?;
        let (task, pins) = self.task_and_pins(call, request, now).await?;
        let (backend, spec) = call.snapshot.backends().role(&request.role)?;
        let idempotency = Self::idempotency_key(call, key, request)?;
        if let Some(Subject::Credential(earlier)) = self.earlier(idempotency.as_ref()).await? {
            return Err(self.repeated(backend, earlier).await?);
        }
        self.rates.check_task(call.snapshot.settings(), task.id)?;
        self.require_budget(call, Spending::Issue, 0)?;
        let scope = requested_scope(&pins, &request.scope)?;
        let ttl = request.ttl.unwrap_or(spec.max_ttl);
        let expires_at = now.plus(ttl.duration()).min(task.deadline);
        let wanted = Wanted {
            spec,
            task: &task,
            scope: &scope,
            ttl,
            now,
            expires_at,
            idempotency,
        };
        let mut decisions = 1;
        let intended = loop {
            match self.decide_and_intend(call, backend, &wanted).await {
                Err(Error::CountsGrew { .. }) if decisions < DECISIONS_MAX => decisions += 1,
                intended => break intended?,
            }
        };
        failpoint::reached("issue.intended");
        let issued = self
            .mint(Arc::clone(backend), &task, spec.clone(), intended)
            .await?;
        if issued
            .revocation_class
            .is_weaker_than(spec.revocation_class)
        {
            self.decide_again(call, &wanted, issued.revocation_class)
                .await?;
        }
        Ok(issued)
    }

    /// Has policy decide, and records the decision together with the intent.
    async fn decide_and_intend(
        self: &Arc<Self>,
        call: &Call,
        backend: &Arc<Backend>,
        wanted: &Wanted<'_>,
    ) -> Result<Intended, Error> {
        let Wanted { spec, task, .. } = *wanted;
        let request = self
            .policy_request(task, wanted.scope, wanted.expires_at, wanted.now)
            .await?;
        let allowed = self
            .authorize(
                call,
                Action::CredentialIssue,
                Resource::Role(spec),
                Some(request),
            )
            .await
            .granted()?;
        // Policy decides first: the parameters of a role are not told to callers whom policy
        // refuses.
        fits(spec, wanted.scope, wanted.ttl)?;
        let permit = backend.acquire(&task.agent, &spec.name)?;
        let credential = self.intent_of(backend, wanted)?;
        let ahead = self.may_run_ahead(backend, &credential).await?;
        // Before an anchor ends, the broker looks for registered calls. A call that registers later
        // is refused by its guards.
        let registered = ahead.is_some().then(|| AheadOf::of(&credential));
        let running = self.in_flight.enter(credential.id, task.id, registered);
        let mut guards = Self::intent_guards(call, &credential, wanted.idempotency.as_ref());
        guards.extend(Self::counts_guard(call, &request));
        let allowed = allowed.into_event();
        let again = ahead
            .is_some()
            .then(|| Self::lost_intent(call, &allowed, &credential));
        guards.extend(ahead);
        let intent = Event::CredentialIntended {
            credential: Box::new(credential.clone()),
            idempotency: wanted.idempotency.clone(),
        };
        let events = vec![allowed, intent];
        let intent = match again {
            Some(again) => {
                self.commit_for_ahead(call, Spending::Issue, (events, guards), again)
                    .await?
            }
            None => {
                self.commit_for(call, Spending::Issue, events, guards)
                    .await?;
                IntentRecord::Durable
            }
        };
        Ok(Intended {
            credential,
            permit,
            running,
            intent,
        })
    }

    /// A new credential, as its intent says.
    fn intent_of(&self, backend: &Backend, wanted: &Wanted<'_>) -> Result<Credential, Error> {
        let Wanted { spec, task, .. } = *wanted;
        let id =
            CredentialId::generate(self.context.clock.as_ref(), self.context.entropy.as_ref())?;
        let provider = backend.provider();
        Ok(Credential::from(CredentialIntent {
            id,
            task: task.id,
            agent: task.agent.clone(),
            role: spec.name.clone(),
            scope: wanted.scope.clone(),
            revocation_class: spec.revocation_class,
            intended_at: wanted.now,
            expires_at: wanted.expires_at,
            anchor_key: provider.anchor_key(&spec.name, wanted.scope, id),
            handle: provider.locator(&spec.name, wanted.scope).map(Handle::from),
        }))
    }

    /// Has policy decide on the class that the provider found while it minted. Policy saw a
    /// stronger class before. If policy refuses, the secret is dropped, which revokes the
    /// credential.
    async fn decide_again(
        &self,
        call: &Call,
        wanted: &Wanted<'_>,
        class: RevocationClass,
    ) -> Result<(), Error> {
        let spec = RoleSpec {
            revocation_class: class,
            ..wanted.spec.clone()
        };
        let mut request = self
            .policy_request(wanted.task, wanted.scope, wanted.expires_at, wanted.now)
            .await?;
        // By now the counts include this credential.
        request.live_in_task = request.live_in_task.saturating_sub(1);
        request.live_of_agent = request.live_of_agent.saturating_sub(1);
        let resource = Resource::Role(&spec);
        let verdict = self.authorize(call, Action::CredentialIssue, resource, Some(request));
        let allowed = verdict.await.granted()?;
        self.commit(vec![allowed.into_event()], Vec::new()).await?;
        Ok(())
    }

    /// The caller's open task, and the parameters that it fixes for the role.
    async fn task_and_pins(
        &self,
        call: &Call,
        request: &IssueCredential,
        now: Timestamp,
    ) -> Result<(Arc<Task>, Scope), Error> {
        const ACTION: Action = Action::CredentialIssue;
        let (id, role) = (request.task, &request.role);
        let task = self.reachable_task(call, ACTION, id).await?;
        if call.agent().is_none() {
            let why = "only agents request credentials";
            return Err(self.refuse_kind(call, ACTION, why).await);
        }
        if task.state != TaskState::Open || task.deadline <= now {
            return Err(Error::TaskEnded(id));
        }
        // A role that does not exist and a role that the task lacks are refused in the same words.
        let Some(pins) = task.roles.get(role).cloned() else {
            let reason = format!("task `{id}` was not started with role `{role}`");
            let resource = role.to_string();
            return Err(self.refuse_by_rule(call, ACTION, &resource, &reason).await);
        };
        Ok((task, pins))
    }

    /// The answer to a repeated request. Where the provider never answered there is no secret that
    /// could have been lost, and `AlreadyIssued` would send the caller after a credential that it
    /// cannot have.
    async fn repeated(&self, backend: &Backend, earlier: CredentialId) -> Result<Error, Error> {
        let recorded = self.context.store.credential(earlier).await?;
        if recorded.is_some_and(|c| c.came_to_nothing()) {
            return Ok(backend.error(ProviderError::retryable(format!(
                "the first attempt with this idempotency key gave no credential (`{earlier}`); try again with a new key"
            ))));
        }
        Ok(Error::AlreadyIssued {
            credential: earlier,
        })
    }

    fn intent_guards(
        call: &Call,
        credential: &Credential,
        key: Option<&IdempotencyKey>,
    ) -> Vec<Guard> {
        let mut guards = vec![
            Guard::AgentActive(credential.agent.clone()),
            Guard::SvidLive(call.caller.serial().to_owned()),
            Guard::TaskOpen(credential.task),
            nothing_in_doubt(credential),
        ];
        guards.extend(Self::limits_of(call, credential));
        guards.extend(Self::share_of_keys(call, key, Some(credential.task)));
        guards
    }

    /// How many live credentials there may be.
    fn limits_of(call: &Call, credential: &Credential) -> [Guard; 2] {
        let of_agent = call.snapshot.settings().credentials.live_per_agent;
        [
            Guard::AgentLiveCredentialsBelow(credential.agent.clone(), of_agent),
            Guard::TaskCredentialsWithin(credential.task),
        ]
    }

    /// How an intent is recorded that did not reach the disk in time for its call. The idempotency
    /// key is left out: the request failed, and may be made again.
    fn lost_intent(call: &Call, allowed: &Event, credential: &Credential) -> Batch {
        let intent = Event::CredentialIntended {
            credential: Box::new(credential.clone()),
            idempotency: None,
        };
        Batch {
            guards: Self::limits_of(call, credential).into(),
            ..Batch::reserved([allowed.clone(), intent])
        }
    }

    /// Calls the provider in a task of its own and waits for the outcome.
    async fn mint(
        self: &Arc<Self>,
        backend: Arc<Backend>,
        task: &Task,
        spec: RoleSpec,
        intended: Intended,
    ) -> Result<IssuedCredential, Error> {
        let credential = &intended.credential;
        let order = IssueOrder {
            credential: credential.id,
            task: task.id,
            agent: task.agent.clone(),
            task_deadline: task.deadline,
            role: credential.role.clone(),
            scope: credential.scope.clone(),
            expires_at: credential.expires_at,
        };
        let (answer, answered) = tokio::sync::oneshot::channel();
        let engine = Arc::clone(self);
        let calling = async move {
            let outcome = engine.call_and_record(&backend, &order, &spec, intended);
            // If the request is gone, the answer is dropped here, which revokes the credential.
            drop(answer.send(outcome.await));
        };
        // The call may outlive its request; its log lines carry the request's id all the same.
        self.context.tasks.spawn(calling.in_current_span());
        answered
            .await
            .unwrap_or_else(|_stopped| Err(Error::stopping()))
    }

    /// Calls the provider, and records its answer behind the intent.
    async fn call_and_record(
        self: &Arc<Self>,
        backend: &Backend,
        order: &IssueOrder,
        spec: &RoleSpec,
        intended: Intended,
    ) -> Result<IssuedCredential, Error> {
        let Intended {
            credential,
            permit,
            running,
            intent,
        } = intended;
        let anchors = AnchorRecorder {
            engine: self,
            task: order.task,
            credential: order.credential,
            provider: backend.provider().name().clone(),
            key: credential.anchor_key,
            intent: &intent,
        };
        let began = self.context.clock.monotonic();
        // An answer that is ready counts, even if the task ended in the same moment.
        let result = tokio::select! {
            biased;
            result = backend.issue(permit, backend.provider().issue(order, &anchors)) => result,
            () = self.cancelled(&running) => Err(ProviderError::retryable("the task ended meanwhile")),
        };
        failpoint::reached("issue.minted");
        let took = self.context.clock.monotonic().saturating_sub(began);
        let outcome = match intent.durable().await {
            Ok(()) => {
                self.commit_outcome(backend, order, result, took, spec)
                    .await
            }
            Err(lost) => {
                let result = result.and_then(with_handle);
                self.record_lost(&credential, intent, result, took).await;
                Err(lost.into())
            }
        };
        failpoint::reached("issue.recorded");
        drop(running);
        outcome
    }

    /// Ends [`CANCEL_GRACE`] after the task did.
    async fn cancelled(&self, running: &InFlightCall) {
        running.cancelled().await;
        self.context.timer.sleep(CANCEL_GRACE).await;
    }

    /// Records the provider's answer. The secret is only passed on when the record is durable and
    /// the credential is active.
    async fn commit_outcome(
        self: &Arc<Self>,
        backend: &Backend,
        order: &IssueOrder,
        result: Result<Issued, ProviderError>,
        took: Duration,
        spec: &RoleSpec,
    ) -> Result<IssuedCredential, Error> {
        let (issued, handle) = match result.and_then(with_handle) {
            Ok(issued) => issued,
            Err(error) => {
                self.commit_failure(order.credential, &error).await;
                return Err(backend.error(told(order.credential, error)));
            }
        };
        let event = Event::CredentialIssued {
            credential: order.credential,
            expires_at: issued.expires_at,
            revocation_class: issued.revocation_class,
            anchor: issued.anchor,
            handle,
            took_ms: millis(took),
        };
        let answered = self.context.clock.monotonic();
        self.lives
            .record(order.credential, issued.lives_for, answered);
        // If this fails the credential stays intended, and the reconcilers revoke it.
        self.commit_reserved(vec![event], Vec::new()).await?;
        let recorded = self.context.store.credential(order.credential).await?;
        let Some(recorded) = recorded.filter(|c| c.state == CredentialState::Active) else {
            return Err(self.revoked_meanwhile(backend, order.task).await);
        };
        Ok(IssuedCredential {
            id: order.credential,
            role: order.role.clone(),
            expires_at: recorded.ends_at(),
            revocation_class: issued.revocation_class,
            renewable: spec.renewable,
            env: variables(spec, &issued.data),
            data: issued.data,
            delivery: Delivery::new(self, order.credential),
        })
    }

    /// Why a credential was marked to be revoked while the provider minted it: its task ended, or
    /// another credential of the same anchor is in doubt.
    async fn revoked_meanwhile(&self, backend: &Backend, task: TaskId) -> Error {
        match self.context.store.task(task).await {
            Ok(Some(recorded)) if recorded.state == TaskState::Open => {
                backend.error(ProviderError::retryable(
                    "another credential of the task is in doubt, and the anchor this one was issued through ends with it",
                ))
            }
            _ => Error::TaskEnded(task),
        }
    }

    /// After an error either nothing exists, and the credential is abandoned, or its outcome is
    /// unknown, and it is revoked.
    async fn commit_failure(&self, credential: CredentialId, error: &ProviderError) {
        let event = if error.nothing_was_minted() {
            Event::CredentialAbandoned {
                credential,
                reason: shortened(&error.to_string()),
            }
        } else {
            Event::CredentialRevoking {
                credential,
                cause: RevokeCause::OutcomeUnknown,
                by: taskpass_core::Actor::Broker,
            }
        };
        // It may be `revoking` already, because its task ended; and if the ledger cannot be written
        // it stays intended. The reconcilers take care of both.
        if let Err(error) = self.commit_reserved(vec![event], Vec::new()).await {
            tracing::warn!(%credential, error = %error.message(), "the outcome of a request in doubt is left to the reconcilers");
        }
    }

    /// Marks an undelivered credential to be revoked.
    pub(crate) async fn revoke_undelivered(&self, credential: CredentialId) {
        let event = Event::CredentialRevoking {
            credential,
            cause: RevokeCause::NotDelivered,
            by: taskpass_core::Actor::Broker,
        };
        if let Err(error) = self.commit_reserved(vec![event], Vec::new()).await {
            tracing::warn!(%credential, error = %error.message(), "an undelivered credential could not be marked; it ends with its task");
        }
    }
}

/// The scope of the request together with the parameters that the task fixes.
fn requested_scope(pins: &Scope, asked: &Scope) -> Result<Scope, Error> {
    pins.merged_with(asked).map_err(|param| {
        Error::invalid(
            Field::Scope,
            format!("the task fixes parameter `{param}`; no request can change it"),
        )
    })
}

/// Checks scope and lifetime against the role.
fn fits(spec: &RoleSpec, scope: &Scope, ttl: Ttl) -> Result<(), Error> {
    spec.check_scope(scope).map_err(|e| Error::scope(&e))?;
    if ttl > spec.max_ttl {
        let message = format!(
            "credentials of role `{}` live at most {}",
            spec.name, spec.max_ttl
        );
        return Err(Error::invalid(Field::Ttl, message));
    }
    Ok(())
}

/// The environment variable of each part of a credential for which the role declares one.
fn variables(role: &RoleSpec, data: &SecretFields) -> BTreeMap<String, EnvName> {
    data.iter()
        .filter_map(|(field, _)| Some((field.to_owned(), role.variable(field)?.clone())))
        .collect()
}

/// The credential and its handle. If the handle cannot go on record, the credential could not be
/// found again, so its outcome counts as unknown.
fn with_handle(mut issued: Issued) -> Result<(Issued, Option<Handle>), ProviderError> {
    let handle = issued.handle.take().map(Handle::recordable).transpose();
    let handle = handle.map_err(|e| ProviderError::retryable(e.to_string()))?;
    Ok((issued, handle))
}

/// A span as the ledger has it.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A provider's text, shortened for the ledger.
pub(crate) fn shortened(text: &str) -> String {
    text.chars()
        .take(limits::ERROR_TEXT_CHARS_MAX)
        .map(|c| if is_hidden(c) { ' ' } else { c })
        .collect()
}
