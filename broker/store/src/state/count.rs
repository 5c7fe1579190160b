//! Keeping derived numbers and orders right while a record changes.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// Whether a record begins or ceases to count. A change of a record is both: the record before
/// ceases, the new one begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Up,
    Down,
}

impl Count {
    pub(super) const fn on(self, number: &mut u32) {
        *number = match self {
            Self::Up => number.saturating_add(1),
            Self::Down => number.saturating_sub(1),
        };
    }

    pub(super) fn member<T: Ord>(self, set: &mut BTreeSet<T>, value: T) {
        match self {
            Self::Up => set.insert(value),
            Self::Down => set.remove(&value),
        };
    }
}

/// Sets a value or takes it out, and returns the value before.
pub(super) fn put<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}
