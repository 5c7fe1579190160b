//! The seal of the index: a code over the records that a start loads, which only the holder of the
//! ledger's key can make.
//!
//! Another program that writes the files could otherwise give an agent another class, make a used
//! join token new, revive a certificate, or hide a credential from revoking. The seal is written in
//! the same atomic batch as the rows. An older index with its older seal is genuine, too: the start
//! replays the entries behind it, and compares each with the tree.
//!
//! The records are a set that changes all the time, so the seal stands over the XOR of one code for
//! each record: a change costs two codes, however many records there are. The XOR itself is never
//! written in the clear. Codes that were known could be combined into another set with the same
//! XOR. A start from an image does not read the records, so the XOR stands beside the seal, masked
//! with a code of the seal. The seal follows from the XOR, so no two of them have the same mask.

use std::{collections::HashSet, fmt, num::ParseIntError, str::FromStr};

use parking_lot::Mutex;
use ring::hmac;
use taskpass_core::{TaskId, hex};

use super::rows::{Row, Standing};
use crate::{
    history::{History, IndexError, Order},
    state::rows_of_task,
};

/// Seals one index.
#[derive(Debug)]
pub(super) struct Seal {
    rows: hmac::Key,
    heads: hmac::Key,
    masks: hmac::Key,
    /// Over the records that are alive now.
    tally: Mutex<Tally>,
}

/// The XOR of the codes of a set of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally(u128);

impl Tally {
    /// Of no records.
    pub(super) const EMPTY: Self = Self(0);

    /// Puts a record in, or takes it out again.
    pub(super) const fn toggle(self, code: u128) -> Self {
        Self(self.0 ^ code)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Tally {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl Seal {
    pub(super) fn new(key: &hmac::Key) -> Self {
        let derived = |purpose: &[u8]| {
            let tag = hmac::sign(key, purpose);
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        Self {
            rows: derived(b"rows"),
            heads: derived(b"heads"),
            masks: derived(b"masks"),
            tally: Mutex::default(),
        }
    }

    /// The code of one record under its key. Half of a SHA-256 keeps the index of a million records
    /// as safe as its key.
    pub(super) fn code(&self, key: &[u8], record: &[u8]) -> u128 {
        let mut context = hmac::Context::with_key(&self.rows);
        context.update(&(key.len() as u64).to_be_bytes());
        context.update(key);
        context.update(record);
        let tag = context.sign();
        let half = tag.as_ref().first_chunk().copied().unwrap_or_default();
        u128::from_be_bytes(half)
    }

    /// The seal of a head and the records that belong to it.
    pub(super) fn of(&self, head: &[u8], tally: Tally) -> String {
        let mut context = hmac::Context::with_key(&self.heads);
        context.update(&tally.0.to_be_bytes());
        context.update(head);
        hex(context.sign().as_ref())
    }

    /// Masks the tally that `seal` was made of, or takes the mask off again.
    pub(super) fn mask(&self, tally: Tally, seal: &str) -> Tally {
        let tag = hmac::sign(&self.masks, seal.as_bytes());
        let mask = tag.as_ref().first_chunk().copied().unwrap_or_default();
        tally.toggle(u128::from_be_bytes(mask))
    }

    /// Whether the index had these records when it was written last.
    pub(super) fn has(&self, tally: Tally) -> bool {
        *self.tally.lock() == tally
    }

    /// The index has these records now.
    pub(super) fn begin_at(&self, tally: Tally) {
        *self.tally.lock() = tally;
    }

    /// The tally once `rows` are written over what `history` has.
    pub(super) fn after(&self, rows: &[Row], history: &dyn History) -> Result<Tally, IndexError> {
        let ended: HashSet<TaskId> = rows.iter().filter_map(Row::ends).collect();
        let mut written_last = HashSet::new();
        let mut tally = *self.tally.lock();
        for row in rows {
            let leaves = match row.standing {
                Standing::Aside | Standing::Ended(_) => continue,
                Standing::Live => false,
                Standing::OfTask(task) => ended.contains(&task),
            };
            if let Some(before) = history.get(&row.key)? {
                tally = tally.toggle(self.code(&row.key, &before));
            }
            if leaves {
                written_last.insert(row.key.as_slice());
            } else if let Some(record) = &row.value {
                tally = tally.toggle(self.code(&row.key, record));
            }
        }
        for task in ended {
            for prefix in rows_of_task(task) {
                let (from, to) = super::read::range_from(prefix);
                history.walk(&from, &to, Order::Forward, &mut |key, record| {
                    if !written_last.contains(key) {
                        tally = tally.toggle(self.code(key, record));
                    }
                    Ok(std::ops::ControlFlow::Continue(()))
                })?;
            }
        }
        Ok(tally)
    }
}

impl Row {
    const fn ends(&self) -> Option<TaskId> {
        match self.standing {
            Standing::Ended(task) => Some(task),
            Standing::Aside | Standing::Live | Standing::OfTask(_) => None,
        }
    }
}
