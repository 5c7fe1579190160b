//! The times at which issuing authorities are made, published, put to work and retired.
//!
//! [`next_move`] looks at the state and the time and names one move. The caller makes it durable
//! and asks again until there is none. Each move is complete in itself, so a crash between two of
//! them only delays the next.

use taskpass_core::Timestamp;

use crate::{CaRecord, Stage, state::State};

/// One step of rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Move {
    /// Make a new issuing authority.
    Prepare,
    /// Put the authority with this serial into that stage.
    Advance(String, Stage),
    /// Put this one to work and retire the other.
    Replace { next: String, old: String },
    /// Drop an authority that has expired: nothing it signed can be valid.
    Forget(String),
}

/// The move that is due at `now`, if any. `longest_end` is the latest end that a new authority
/// could have: its own lifetime from now, or the root's end if that is sooner.
pub(crate) fn next_move(state: &State, now: Timestamp, longest_end: Timestamp) -> Option<Move> {
    for ca in &state.authorities {
        if ca.not_after <= now {
            return Some(match ca.stage {
                Stage::Retired => Move::Forget(ca.serial.clone()),
                _ => Move::Advance(ca.serial.clone(), Stage::Retired),
            });
        }
    }
    if let Some(prepared) = state.in_stage(Stage::Prepared) {
        return Some(Move::Advance(prepared.serial.clone(), Stage::Published));
    }
    let next = state.in_stage(Stage::Published);
    match (state.active(), next) {
        (None, None) => Some(Move::Prepare),
        (None, Some(next)) => Some(Move::Advance(next.serial.clone(), Stage::Active)),
        (Some(active), Some(next)) if activate_at(active) <= now => Some(Move::Replace {
            next: next.serial.clone(),
            old: active.serial.clone(),
        }),
        // Near the root's own end a new authority would live no longer than the present one.
        (Some(active), None) if prepare_at(active) <= now && active.not_after < longest_end => {
            Some(Move::Prepare)
        }
        (Some(_), _) => None,
    }
}

/// When the next move will be due.
pub(crate) fn next_at(state: &State, now: Timestamp, root_end: Timestamp) -> Timestamp {
    let work = match (state.active(), state.in_stage(Stage::Published)) {
        (Some(active), Some(_)) => activate_at(active),
        (Some(active), None) if active.not_after < root_end => prepare_at(active),
        (Some(_), None) => root_end,
        (None, _) => now,
    };
    let first_end = state.authorities.iter().map(|ca| ca.not_after).min();
    first_end.map_or(work, |end| end.min(work))
}

/// Half of its life before its end, so that verifiers have time to learn of the next one.
fn prepare_at(ca: &CaRecord) -> Timestamp {
    ca.not_after.minus(ca.not_after.since(ca.not_before) / 2)
}

/// A sixth of the authority's life before its end, so that the SVIDs that it signs can live for
/// that long.
fn activate_at(ca: &CaRecord) -> Timestamp {
    ca.not_after.minus(ca.not_after.since(ca.not_before) / 6)
}

/// The state after `step`, other than [`Move::Prepare`], and the records that changed stage.
pub(crate) fn apply(state: &State, step: &Move) -> (State, Vec<CaRecord>) {
    let mut after = state.clone();
    let mut changed = Vec::new();
    let mut set = |serial: &str, stage: Stage| {
        for ca in &mut after.authorities {
            if ca.serial == serial {
                ca.stage = stage;
                changed.push(ca.clone());
            }
        }
    };
    match step {
        Move::Prepare => {}
        Move::Advance(serial, stage) => set(serial, *stage),
        Move::Replace { next, old } => {
            set(next, Stage::Active);
            set(old, Stage::Retired);
        }
        Move::Forget(serial) => after.authorities.retain(|ca| ca.serial != *serial),
    }
    (after, changed)
}
