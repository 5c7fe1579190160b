//! Times between the messages of the protocol and the command line.

use prost_types::Timestamp as WireTime;
use taskpass_core::Timestamp;

/// Reads a time of a reply.
pub(crate) fn time(wire: Option<WireTime>) -> Option<Timestamp> {
    let wire = wire?;
    let millis = wire
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(wire.nanos) / 1_000_000);
    Some(Timestamp::from_millis(millis))
}

/// Writes a time for a request.
pub(crate) fn from_time(time: Timestamp) -> WireTime {
    let millis = i32::try_from(time.millis().rem_euclid(1000)).unwrap_or(0);
    WireTime {
        seconds: time.seconds(),
        nanos: millis * 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wire() {
        for millis in [0, 1, 999, 1_700_000_000_123, -1, -1001] {
            let moment = Timestamp::from_millis(millis);
            assert_eq!(time(Some(from_time(moment))), Some(moment), "{millis}");
        }
    }
}
