//! Between the messages of the protocol and the types of the library: times, ids, pairs, waits.

use std::time::Duration;

use prost_types::Timestamp as WireTime;
use taskpass_core::{InvalidValue, Scope, Timestamp};

use crate::{Error, RPC_TIMEOUT, WAIT_TIMEOUT};

/// Reads a time of a reply.
pub(crate) fn timestamp(wire: &WireTime) -> Timestamp {
    let millis = wire
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(wire.nanos) / 1_000_000);
    Timestamp::from_millis(millis)
}

/// A value that is unspecified (0) while there is none.
pub(crate) fn optional<T: From<i32>>(number: i32) -> Option<T> {
    (number != 0).then(|| number.into())
}

/// A text that is empty while there is none.
pub(crate) fn optional_text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
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

/// The parameters of a scope, for a request.
pub(crate) fn pairs<M: FromIterator<(String, String)>>(scope: &Scope) -> M {
    scope
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_owned()))
        .collect()
}

/// How long the broker waits for revocation, for a request: its own default when `wait` is `None`.
pub(crate) fn wait_ms(wait: Option<Duration>) -> u32 {
    wait.map_or(0, |wait| {
        u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)
    })
}

/// How long the call may take in which the broker waits so.
pub(crate) fn wait_limit(wait: Option<Duration>) -> Duration {
    wait.map_or(WAIT_TIMEOUT, |wait| wait + RPC_TIMEOUT)
}
