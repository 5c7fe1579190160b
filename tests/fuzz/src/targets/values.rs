//! The small types that are written as text: names, ids, times, lifetimes. The first byte chooses
//! the type.

use std::{
    fmt::{Debug, Display},
    str::FromStr,
};

use taskpass_core::{
    Actor, AgentName, CredentialId, Digest, Impact, InvalidValue, LabelKey, Labels, Owner,
    ParamName, ParamRule, RoleName, TaskId, Text, Timestamp, Ttl,
};

use crate::{
    input,
    wording::{VALUE_CHARS_MAX, one_line},
};

pub(crate) fn run(data: &[u8]) {
    let (which, rest) = input::choice(data);
    let Some(text) = input::text(rest) else {
        return;
    };
    match which % 13 {
        0 => canonical::<AgentName>(text),
        1 => canonical::<Owner>(text),
        2 => canonical::<LabelKey>(text),
        3 => canonical::<Text>(text),
        4 => canonical::<RoleName>(text),
        5 => canonical::<ParamName>(text),
        6 => canonical::<TaskId>(text),
        7 => canonical::<CredentialId>(text),
        8 => canonical::<Actor>(text),
        9 => timestamp(text),
        10 => ttl(text),
        11 => labels(text),
        _ => rule(text),
    }
    if let Ok(number) = u8::from_str(text) {
        assert_eq!(Impact::try_from(number).is_ok(), number <= 3);
    }
    assert_eq!(Digest::of(rest).to_string().len(), 64);
}

/// Asserts that a value has one spelling: an accepted text is printed unchanged and can be read
/// again from JSON.
fn canonical<T>(text: &str)
where
    T: FromStr<Err = InvalidValue> + Display + Debug + PartialEq,
{
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string(), text);
            one_line(&value, 2048);
        }
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}

fn timestamp(text: &str) {
    match text.parse::<Timestamp>() {
        Ok(time) => {
            let shown = time.to_string();
            assert_eq!(shown.len(), "2026-11-22T10:00:00.000Z".len());
            assert_eq!(shown.parse(), Ok(time));
            assert!(time <= Timestamp::MAX && time.floor_to_second() <= time);
            assert_eq!(Timestamp::from(time.to_offset_date_time()), time);
        }
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}

fn ttl(text: &str) {
    match text.parse::<Ttl>() {
        Ok(ttl) => {
            assert_eq!(ttl.to_string().parse(), Ok(ttl));
            assert!((1..=Ttl::MAX.seconds()).contains(&ttl.seconds()));
        }
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}

fn labels(text: &str) {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    match Labels::from_pairs(pairs) {
        Ok(labels) => {
            let again: Vec<_> = labels.iter().collect();
            assert_eq!(Labels::from_pairs(again), Ok(labels));
        }
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}

fn rule(text: &str) {
    match ParamRule::pattern(text) {
        Ok(rule) => drop(rule.to_string()),
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}
