//! Messages to typed commands: each value is read here, under the name of its field, and nowhere
//! else.

use std::{collections::HashMap, fmt, net::IpAddr, str::FromStr, time::Duration};

use prost_types::Timestamp as WireTime;
use taskpass_ca::PublicKey;
use taskpass_core::{InvalidValue, Labels, Scope, TaskState, Timestamp, Ttl, excerpt, is_hidden};
use taskpass_engine::{Evidence, JoinTokenText, RequestKey};
use taskpass_proto::v1::{self as pb, attest_request};
use taskpass_store::Page;

use super::status::Refusal;

/// Names the field of a value that could not be read.
pub(super) trait InField<T> {
    fn in_field(self, field: &'static str) -> Result<T, Refusal>;
}

impl<T, E: fmt::Display> InField<T> for Result<T, E> {
    fn in_field(self, field: &'static str) -> Result<T, Refusal> {
        self.map_err(|error| Refusal::field(field, error))
    }
}

/// A value that must be there.
pub(super) fn value<T: FromStr<Err = InvalidValue>>(
    field: &'static str,
    text: &str,
) -> Result<T, Refusal> {
    let value = text.parse().in_field(field)?;
    visible(text).in_field(field)?;
    Ok(value)
}

/// Refuses characters that people do not see, so that a purpose or a reason reads as it is. The
/// types themselves take them, because older ledgers have such texts.
fn visible(text: &str) -> Result<(), InvalidValue> {
    match text.chars().position(is_hidden) {
        None => Ok(()),
        Some(before) => Err(InvalidValue::new(format!(
            "character {} of `{}` is invisible or changes how the text is shown; leave it out",
            before + 1,
            excerpt(text)
        ))),
    }
}

/// A value that may be left out, which protobuf shows as an empty text.
pub(super) fn optional<T: FromStr<Err = InvalidValue>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    value(field, text).map(Some)
}

/// An IP address that may be left out.
pub(super) fn address(field: &'static str, text: &str) -> Result<Option<IpAddr>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().in_field(field).map(Some)
}

/// A lifetime or an interval; 0 means that the caller does not say.
pub(super) fn ttl(field: &'static str, seconds: u32) -> Result<Option<Ttl>, Refusal> {
    if seconds == 0 {
        return Ok(None);
    }
    Ttl::from_seconds(u64::from(seconds))
        .in_field(field)
        .map(Some)
}

/// How long a caller waits; 0 means that it does not say.
pub(super) fn wait(millis: u32) -> Option<Duration> {
    (millis != 0).then(|| Duration::from_millis(u64::from(millis)))
}

pub(super) fn key(text: &str) -> Result<Option<RequestKey>, Refusal> {
    optional("idempotency_key", text)
}

pub(super) fn scope(field: &'static str, pairs: HashMap<String, String>) -> Result<Scope, Refusal> {
    let scope = Scope::from_pairs(sorted(pairs)).in_field(field)?;
    for (_, value) in scope.iter() {
        visible(value).in_field(field)?;
    }
    Ok(scope)
}

pub(super) fn labels(pairs: HashMap<String, String>) -> Result<Labels, Refusal> {
    let labels = Labels::from_pairs(sorted(pairs)).in_field("labels")?;
    for (_, value) in labels.iter() {
        visible(value).in_field("labels")?;
    }
    Ok(labels)
}

/// Sorts the pairs, so that a request with several mistakes gets the same complaint each time.
fn sorted(pairs: HashMap<String, String>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_unstable();
    pairs
}

/// The evidence of an agent. A kind that this broker's version does not know reads as none.
pub(super) fn evidence(shown: Option<attest_request::Evidence>) -> Result<Evidence, Refusal> {
    match shown {
        Some(attest_request::Evidence::JoinToken(text)) => JoinTokenText::parse(&text)
            .in_field("join_token")
            .map(Evidence::JoinToken),
        None => {
            Err("there is no evidence that this broker knows; give a join token in `join_token`")
                .in_field("evidence")
        }
    }
}

/// The public key in a certificate signing request.
pub(super) fn csr(request: &[u8]) -> Result<PublicKey, Refusal> {
    PublicKey::from_csr(request).in_field("csr")
}

/// A time from the wire; refuses a time that no calendar has.
pub(super) fn time(field: &'static str, at: WireTime) -> Result<Timestamp, Refusal> {
    let millis = at
        .seconds
        .checked_mul(1000)
        .and_then(|ms| ms.checked_add(i64::from(at.nanos) / 1_000_000));
    let time = millis
        .map(Timestamp::from_millis)
        .filter(|t| Some(t.millis()) == millis);
    time.filter(|_| (0..1_000_000_000).contains(&at.nanos))
        .ok_or("this is not a time between the years 1 and 9999")
        .in_field(field)
}

pub(super) fn page(request: Option<pb::PageRequest>) -> Result<Page, Refusal> {
    let request = request.unwrap_or_default();
    let size = usize::try_from(request.page_size).unwrap_or(usize::MAX);
    Page::new(size, "").in_field("page.page_size")?;
    Page::new(size, &request.page_token).in_field("page.page_token")
}

/// The state that a listing is narrowed to; unspecified for any.
pub(super) fn task_state(state: i32) -> Result<Option<TaskState>, Refusal> {
    match pb::TaskState::try_from(state) {
        Ok(pb::TaskState::Unspecified) => Ok(None),
        Ok(pb::TaskState::Open) => Ok(Some(TaskState::Open)),
        Ok(pb::TaskState::Ending) => Ok(Some(TaskState::Ending)),
        Ok(pb::TaskState::Ended) => Ok(Some(TaskState::Ended)),
        Err(_unknown) => Err("the states are open, ending and ended").in_field("state"),
    }
}
