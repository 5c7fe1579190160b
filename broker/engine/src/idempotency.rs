//! Idempotency: a repeated request gets the result of the first one, also when both run at once.

use std::str::FromStr;

use serde::Serialize;
use taskpass_core::{Digest, IdempotencyKey, InvalidValue, JoinTokenId, TaskId, limits};
use taskpass_store::{CommitError, Conflict, Guard, IdempotencyRecord, Subject};

use crate::{Call, Engine, Error, Field};

/// The key by which a caller repeats a request: 1 to 128 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey(String);

impl FromStr for RequestKey {
    type Err = InvalidValue;

    fn from_str(key: &str) -> Result<Self, InvalidValue> {
        let fits = (1..=limits::IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len());
        if fits && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(key.to_owned()));
        }
        Err(InvalidValue::new(
            "an idempotency key is 1 to 128 printable ASCII characters without spaces",
        ))
    }
}

impl Engine {
    /// Binds the caller's key to the digest of the typed request's canonical JSON; `None` without a
    /// key.
    pub(crate) fn idempotency_key<R: Serialize>(
        call: &Call,
        key: Option<&RequestKey>,
        request: &R,
    ) -> Result<Option<IdempotencyKey>, Error> {
        let Some(key) = key else { return Ok(None) };
        let canonical =
            serde_json::to_vec(request).map_err(|e| Error::invalid(Field::Request, e))?;
        Ok(Some(IdempotencyKey {
            caller: call.caller.id().clone(),
            key: key.0.clone(),
            request_sha256: Digest::of(&canonical).to_string(),
        }))
    }

    /// The product of an earlier request with the same key, if there was one and it was the same
    /// request.
    pub(crate) async fn earlier(
        &self,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Subject>, Error> {
        let Some(key) = key else { return Ok(None) };
        match self.context.store.idempotent(&key.caller, &key.key).await? {
            Some(record) => Self::same_request(key, record).map(Some),
            None => Ok(None),
        }
    }

    /// The guard for one more key: no caller fills the memory with keys, and no task takes all keys
    /// of its caller. `task` is the task of the request.
    pub(crate) fn share_of_keys(
        call: &Call,
        key: Option<&IdempotencyKey>,
        task: Option<TaskId>,
    ) -> Option<Guard> {
        key.map(|key| Guard::IdempotencyKeysWithin {
            caller: key.caller.clone(),
            task,
            limit: call
                .snapshot
                .settings()
                .requests
                .idempotency_keys_per_caller,
        })
    }

    fn same_request(key: &IdempotencyKey, record: IdempotencyRecord) -> Result<Subject, Error> {
        if record.request_sha256 == key.request_sha256 {
            Ok(record.subject)
        } else {
            Err(Error::KeyReused)
        }
    }
}

impl Error {
    /// A repeated request for a join token.
    pub(crate) fn join_token_made(id: JoinTokenId) -> Self {
        Self::AlreadyExists(format!(
            "join token `{id}` was already made for this idempotency key, and its text was in that reply only; make another with a new key"
        ))
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::DiskFull => Self::DiskFull,
            CommitError::Guard(failure) => Self::from_guard(&failure),
            CommitError::Duplicate {
                record,
                same_request,
            } => match record.subject {
                _ if !same_request => Self::KeyReused,
                Subject::Credential(credential) => Self::AlreadyIssued { credential },
                Subject::JoinToken(id) => Self::join_token_made(id),
                Subject::Renewal { credential, .. } => Self::AlreadyExists(format!(
                    "this request was already made to renew credential `{credential}`; see `taskpass credential show {credential}`"
                )),
                Subject::Task(id) => {
                    Self::AlreadyExists(format!("task `{id}` was already started by this request"))
                }
                Subject::Agent(name) => {
                    Self::AlreadyExists(format!("agent `{name}` was already registered"))
                }
            },
            CommitError::Conflict(conflict) => match conflict {
                Conflict::WiderThanParent { .. } => Self::Denied {
                    reason: conflict.to_string(),
                    policies: vec!["taskpass.delegation".to_owned()],
                },
                Conflict::Exists(_) => Self::AlreadyExists(conflict.to_string()),
                Conflict::Missing(_) | Conflict::WrongState { .. } | Conflict::Invalid { .. } => {
                    Self::Precondition(conflict.to_string())
                }
            },
            CommitError::TooLarge(message) => Self::invalid(Field::Request, message),
            CommitError::Unavailable(message) => Self::Store(message.into()),
        }
    }
}
