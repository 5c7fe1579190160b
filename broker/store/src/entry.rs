//! How an event stands in the ledger: `{"time":"…","event":{"type":…}}`, one entry per event.

use serde::{Deserialize, Serialize};
use taskpass_core::{Event, Timestamp};
use taskpass_ledger::ENTRY_BYTES_MAX;

use crate::CommitError;

/// A ledger entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When the store recorded it; never earlier than the entry before.
    pub time: Timestamp,
    /// The event.
    pub event: Event,
}

/// The time of an entry alone, for searching.
#[derive(Deserialize)]
struct Dated {
    time: Timestamp,
}

/// Bytes around the event: the names, the time and the braces.
const FRAME: usize = 64;

impl Entry {
    /// Reads an entry as it stands in the ledger.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// The time of an entry, without reading the event.
pub(crate) fn time_of(bytes: &[u8]) -> Result<Timestamp, serde_json::Error> {
    serde_json::from_slice::<Dated>(bytes).map(|dated| dated.time)
}

/// The event as JSON; checked for size, so that it fits with the time around it.
pub(crate) fn encode(event: &Event) -> Result<Vec<u8>, CommitError> {
    let json = serde_json::to_vec(event)
        .map_err(|e| CommitError::TooLarge(format!("an event cannot be written as JSON: {e}")))?;
    if json.len() > ENTRY_BYTES_MAX - FRAME {
        return Err(CommitError::TooLarge(format!(
            "an event of {} bytes is larger than a ledger entry may be, {ENTRY_BYTES_MAX}",
            json.len()
        )));
    }
    Ok(json)
}

/// Appends the whole entry to `buffer`.
pub(crate) fn frame(time: &str, event: &[u8], buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(b"{\"time\":\"");
    buffer.extend_from_slice(time.as_bytes());
    buffer.extend_from_slice(b"\",\"event\":");
    buffer.extend_from_slice(event);
    buffer.push(b'}');
}
