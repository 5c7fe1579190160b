//! When the disk will be full, at the rate at which ledger and index grew in the last day.

use std::{fs, io, ops::ControlFlow, path::Path, time::Duration};

use taskpass_core::Timestamp;
use taskpass_ledger::recent_entries;
use taskpass_store::Entry;

use super::Diagnosis;
use crate::{config::Config, init::quoted};

/// How far back the rate is measured.
const WINDOW: Duration = Duration::from_secs(86_400);
/// A younger history says nothing about a day.
const WINDOW_MIN: Duration = Duration::from_secs(3600);
/// `doctor` warns when the disk is full within so many days.
const WARN_DAYS: u64 = 30;
/// `doctor` fails when the disk is full within so many days.
const FAIL_DAYS: u64 = 7;

/// The newest part of the ledger.
#[derive(Debug, Default, PartialEq, Eq)]
struct Recent {
    entries: u64,
    bytes: u64,
    /// The time of the oldest entry that was seen.
    since: Option<Timestamp>,
}

/// How fast the disk fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// The ledger is younger than an hour.
    Unknown,
    /// So many bytes each day.
    PerDay(u64),
}

pub(super) fn check(config: &Config, now: Timestamp, entries: u64, diagnosis: &mut Diagnosis) {
    let Ok(volume) = rustix::fs::statvfs(&config.data_dir) else {
        // Another check reports that the directory is missing.
        return;
    };
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    let Ok(recent) = recent(&config.ledger_dir(), now) else {
        // The ledger was verified a moment ago; another check says why it cannot be read.
        return;
    };
    // The index keeps all of history, so its share of one entry is its length over all entries.
    let index = bytes_below(&config.data_dir.join("index")).unwrap_or(0);
    report(
        growth(&recent, now, index, entries),
        free,
        config,
        diagnosis,
    );
}

fn report(growth: Growth, free: u64, config: &Config, diagnosis: &mut Diagnosis) {
    let per_day = match growth {
        Growth::Unknown => {
            let message = "the ledger is too young to say when the disk will be full";
            return diagnosis.ok("growth", message);
        }
        Growth::PerDay(bytes) => bytes,
    };
    let rate = format!(
        "ledger and index grow by {} KiB a day",
        per_day.div_ceil(1024)
    );
    let Some(days) = free.checked_div(per_day) else {
        return diagnosis.ok("growth", "nothing was recorded in the last day");
    };
    let message = format!("{rate}; at this rate the disk is full in {days} days");
    let advice = format!(
        "move old segments to another disk with `taskpassd ledger archive --config {} --before TIME --to DIR`, or have the broker do it with `[ledger] keep`",
        quoted(&config.path)
    );
    match days {
        days if days < FAIL_DAYS => diagnosis.fail("growth", message, advice),
        days if days < WARN_DAYS => diagnosis.warn("growth", message, advice),
        _ => diagnosis.ok("growth", message),
    }
}

/// Reads the entries of the last day, and some that are older.
fn recent(ledger: &Path, now: Timestamp) -> Result<Recent, taskpass_ledger::Error> {
    let from = now.minus(WINDOW);
    let mut recent = Recent::default();
    recent_entries(ledger, &mut |entry, bytes| {
        let Ok(entry) = Entry::parse(entry) else {
            return ControlFlow::Continue(());
        };
        recent.since = Some(recent.since.map_or(entry.time, |it| it.min(entry.time)));
        if entry.time < from {
            return ControlFlow::Break(());
        }
        recent.entries += 1;
        recent.bytes += bytes;
        ControlFlow::Continue(())
    })?;
    Ok(recent)
}

fn growth(recent: &Recent, now: Timestamp, index: u64, entries: u64) -> Growth {
    let seen = recent
        .since
        .map_or(Duration::ZERO, |since| now.since(since));
    let window = seen.min(WINDOW);
    if window < WINDOW_MIN {
        return Growth::Unknown;
    }
    let of_index = u128::from(index) * u128::from(recent.entries);
    let of_index = of_index.checked_div(entries.into()).unwrap_or(0);
    let grown = u128::from(recent.bytes) + of_index;
    let per_day = grown * u128::from(WINDOW.as_secs()) / u128::from(window.as_secs());
    Growth::PerDay(u64::try_from(per_day).unwrap_or(u64::MAX))
}

/// The length of all files below a directory.
fn bytes_below(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => bytes_below(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-28T10:00:00Z";

    fn at(before: u64) -> Timestamp {
        now().minus(Duration::from_secs(before))
    }

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    #[test]
    fn a_day_is_taken_from_the_time_that_was_seen() {
        let table = [
            (None, Growth::Unknown),
            (Some(3599), Growth::Unknown),
            // 100 entries with 1,000 bytes, and 50 bytes of index for each.
            (Some(3600), Growth::PerDay(6000 * 24)),
            (Some(43_200), Growth::PerDay(12_000)),
            (Some(86_400), Growth::PerDay(6000)),
            (Some(9_000_000), Growth::PerDay(6000)),
        ];
        for (since, expected) in table {
            let recent = Recent {
                entries: 100,
                bytes: 1000,
                since: since.map(at),
            };
            assert_eq!(growth(&recent, now(), 50_000, 1000), expected, "{since:?}");
        }
        assert_eq!(
            growth(
                &Recent {
                    since: Some(at(90_000)),
                    ..Recent::default()
                },
                now(),
                1,
                0
            ),
            Growth::PerDay(0)
        );
    }
}
