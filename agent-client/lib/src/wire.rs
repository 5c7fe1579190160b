//! From the words of the protocol to those of the library: times and ids.

use prost_types::Timestamp as WireTime;
use taskpass_core::{InvalidValue, Timestamp};

use crate::Error;

/// Reads a time of a reply.
pub fn timestamp(wire: &WireTime) -> Timestamp {
    let millis = wire
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(wire.nanos) / 1_000_000);
    Timestamp::from_millis(millis)
}

/// Writes a time for a request.
pub fn to_wire(time: Timestamp) -> WireTime {
    let millis = i32::try_from(time.millis().rem_euclid(1000)).unwrap_or(0);
    WireTime {
        seconds: time.seconds(),
        nanos: millis * 1_000_000,
    }
}

/// A time that a reply must have.
pub(crate) fn required_timestamp(
    wire: Option<&WireTime>,
    field: &'static str,
) -> Result<Timestamp, Error> {
    wire.map(timestamp)
        .ok_or_else(|| Error::Reply(format!("`{field}` is missing")))
}

/// A message that a reply must have.
pub(crate) fn required<T>(part: Option<T>, field: &'static str) -> Result<T, Error> {
    part.ok_or_else(|| Error::Reply(format!("`{field}` is missing")))
}

/// A value of a reply that must follow the rules of its type.
pub(crate) fn parsed<T: std::str::FromStr<Err = InvalidValue>>(text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|e: InvalidValue| Error::Reply(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wire() {
        for millis in [0, 1, 999, 1_700_000_000_123, -1, -1001] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(timestamp(&to_wire(time)), time, "{millis}");
        }
    }
}
