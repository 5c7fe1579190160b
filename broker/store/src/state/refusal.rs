//! Why the state does not admit an event, said without the event's name; [`Refusal::of`] adds the
//! name.

use std::fmt::Display;

use taskpass_core::{Event, Handle, limits};

use super::table::{UsedId, UsedIds};
use crate::{CommitError, Conflict, GuardFailure};

/// Why an event is not admitted.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The event cannot happen in this state.
    WrongState { what: String, state: &'static str },
    /// The event contradicts itself or the record it is about.
    Invalid(&'static str),
    /// Anything that needs no event's name.
    Other(CommitError),
}

impl Refusal {
    /// The error of a commit with this event.
    pub(crate) fn of(self, event: &Event) -> CommitError {
        let conflict = match self {
            Self::WrongState { what, state } => Conflict::WrongState {
                what,
                state,
                event: event.kind(),
            },
            Self::Invalid(reason) => Conflict::Invalid {
                event: event.kind(),
                reason: reason.to_owned(),
            },
            Self::Other(error) => return error,
        };
        CommitError::Conflict(conflict)
    }
}

impl From<GuardFailure> for Refusal {
    fn from(failure: GuardFailure) -> Self {
        Self::Other(CommitError::Guard(failure))
    }
}

impl From<Conflict> for Refusal {
    fn from(conflict: Conflict) -> Self {
        Self::Other(CommitError::Conflict(conflict))
    }
}

pub(super) fn exists(what: &str, id: &dyn Display) -> Refusal {
    Conflict::Exists(format!("{what} `{id}`")).into()
}

pub(super) fn missing(what: &str, id: &dyn Display) -> Conflict {
    Conflict::Missing(format!("{what} `{id}`"))
}

pub(super) fn wrong<T>(what: String, state: &'static str) -> Result<T, Refusal> {
    Err(Refusal::WrongState { what, state })
}

pub(super) const fn invalid<T>(reason: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Invalid(reason))
}

/// Refuses an id that named another record before, whether that record is alive or gone.
pub(super) fn unused(
    what: &str,
    id: &UsedId,
    is_alive: bool,
    used: &dyn UsedIds,
) -> Result<(), Refusal> {
    let unavailable = |reason| Refusal::Other(CommitError::Unavailable(reason));
    if is_alive || used.knew(id).map_err(unavailable)? {
        return Err(exists(what, &id.id));
    }
    Ok(())
}

/// Refuses a provider's handle that would take too much room in every record.
pub(super) fn small_handle(handle: Option<&Handle>) -> Result<(), Refusal> {
    if handle.is_none_or(|handle| handle.bytes() <= limits::HANDLE_BYTES_MAX) {
        return Ok(());
    }
    Err(Refusal::Other(CommitError::TooLarge(format!(
        "the provider's handle has more than {} bytes",
        limits::HANDLE_BYTES_MAX
    ))))
}
