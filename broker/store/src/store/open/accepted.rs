//! The times that persons accepted, which a replay has to know before it comes to them.
//!
//! The entries before an accepted time may have later times than the entries after it. A replay
//! that pruned by the later times would forget records that the entries after it still need.

use taskpass_core::{Event, Timestamp};

use crate::{
    Entry,
    log::{Log, LogError, Position},
};

/// How the entry of an accepted time can be told, without reading every entry as JSON.
const NAME: &str = r#""type":"clock_accepted""#;

/// The accepted times and their entries, oldest first.
#[derive(Debug)]
pub(super) struct AcceptedTimes(Vec<(u64, Timestamp)>);

impl AcceptedTimes {
    /// Reads the log from `known` to its end.
    pub(super) fn read(log: &mut dyn Log, known: Position) -> Result<Self, LogError> {
        let mut found = Vec::new();
        let mut known = known;
        loop {
            let news = log.news(known)?;
            let Some(last) = news.last() else {
                return Ok(Self(found));
            };
            known = last.end();
            let entries = news.iter().flat_map(|news| news.iter());
            found.extend(entries.filter_map(|(index, entry)| Some((index, accepted_in(entry)?))));
        }
    }

    /// The earliest time that a person accepted from `position` on; the end of time where there is
    /// none.
    pub(super) fn earliest_since(&self, position: Position) -> Timestamp {
        let Position(from) = position;
        let later = self.0.iter().filter(|(index, _)| *index >= from);
        later.map(|(_, time)| *time).min().unwrap_or(Timestamp::MAX)
    }
}

/// The accepted time in an entry. An entry that cannot be read is reported by the replay.
fn accepted_in(entry: &[u8]) -> Option<Timestamp> {
    let text = str::from_utf8(entry).ok()?;
    if !text.contains(NAME) {
        return None;
    }
    if let Event::ClockAccepted { accepted, .. } = Entry::parse(entry).ok()?.event {
        return Some(accepted);
    }
    None
}
