//! Points in time (milliseconds, UTC) and lifetimes (seconds).

use std::{fmt, str::FromStr, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    InvalidValue, excerpt,
    text::{Parses, prints_as_text},
};

/// A point in time in UTC with millisecond resolution, printed as RFC 3339 with exactly three
/// decimals. The default is the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);
    /// The last time that this type can hold: the end of the year 9999, as far as RFC 3339 goes.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The time `millis` milliseconds after the Unix epoch, held within year 0001 … 9999.
    pub const fn from_millis(millis: i64) -> Self {
        const MIN: i64 = -62_135_596_800_000;
        if millis < MIN {
            Self(MIN)
        } else if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time, rounded down to a whole second, as X.509 and IAM conditions need it.
    pub const fn floor_to_second(self) -> Self {
        Self(self.seconds() * 1000)
    }

    /// This time plus `span`; stops at [`Timestamp::MAX`].
    pub fn plus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// This time minus `span`.
    pub fn minus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(millis))
    }

    /// How long after `earlier` this is; zero if it is earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same time in the calendar of the `time` crate.
    pub fn to_offset_date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(value: OffsetDateTime) -> Self {
        let millis = value.unix_timestamp_nanos().div_euclid(1_000_000);
        Self::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.to_offset_date_time();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        )
    }
}

impl FromStr for Timestamp {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(s, &Rfc3339)
            .map(Self::from)
            .map_err(|e| {
                InvalidValue(format!(
                    "`{}` is not an RFC 3339 time like 2026-11-22T10:00:00Z: {e}",
                    excerpt(s)
                ))
            })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Parses::new())
        } else {
            i64::deserialize(deserializer).map(Self::from_millis)
        }
    }
}

/// A lifetime in whole seconds, at least 1 s and at most 366 days.
///
/// It is written as people do: `90s`, `15m`, `8h`, `2d`, or a sum such as `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

impl Ttl {
    /// The longest lifetime anything may have: 366 days.
    pub const MAX: Self = Self(366 * 86_400);

    /// A lifetime of `seconds`; fails outside 1 s … 366 d.
    pub fn from_seconds(seconds: u64) -> Result<Self, InvalidValue> {
        match u32::try_from(seconds) {
            Ok(s) if (1..=Self::MAX.0).contains(&s) => Ok(Self(s)),
            _ => Err(InvalidValue(format!(
                "`{seconds}s` is not a lifetime between 1s and 366d"
            ))),
        }
    }

    /// The lifetime in seconds.
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// The lifetime as a [`Duration`].
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, seconds) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
            if rest >= seconds {
                write!(f, "{}{unit}", rest / seconds)?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

impl FromStr for Ttl {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || {
            InvalidValue(format!(
                "`{}` is not a lifetime like 90s, 15m, 8h or 1h30m",
                excerpt(s)
            ))
        };
        let mut total: u64 = 0;
        let mut number: Option<u64> = None;
        for c in s.chars() {
            if let Some(digit) = c.to_digit(10) {
                let grown = number
                    .unwrap_or(0)
                    .checked_mul(10)
                    .and_then(|n| n.checked_add(u64::from(digit)));
                number = Some(grown.ok_or_else(bad)?);
                continue;
            }
            let unit = match c {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                _ => return Err(bad()),
            };
            let part = number
                .take()
                .and_then(|n| n.checked_mul(unit))
                .ok_or_else(bad)?;
            total = total.checked_add(part).ok_or_else(bad)?;
        }
        if number.is_some() || s.is_empty() {
            return Err(bad());
        }
        Self::from_seconds(total)
    }
}

prints_as_text!(Ttl);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_and_parse_the_same() {
        for millis in [0, 1, 1_700_000_000_123, -1, Timestamp::MAX.millis()] {
            let t = Timestamp::from_millis(millis);
            assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
        }
        assert_eq!(
            Timestamp::from_millis(1_700_000_000_120).to_string(),
            "2023-11-14T22:13:20.120Z"
        );
        assert!("2023-11-14".parse::<Timestamp>().is_err());
    }

    #[test]
    fn ttl_table() {
        for (text, seconds) in [
            ("90s", 90),
            ("15m", 900),
            ("1h30m", 5400),
            ("2d", 172_800),
            ("366d", 31_622_400),
        ] {
            assert_eq!(text.parse::<Ttl>().unwrap().seconds(), seconds, "{text}");
        }
        for text in [
            "",
            "0s",
            "15",
            "m",
            "-1s",
            "1.5h",
            "367d",
            "99999999999999999999s",
            "1h 30m",
            "1H",
        ] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
        assert_eq!(Ttl::from_seconds(5400).unwrap().to_string(), "1h30m");
    }
}
