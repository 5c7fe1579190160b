//! Identifiers: a letter for the kind and 80 bits in Crockford's base32, lower case, ordered by
//! time of making.
//!
//! 48 bits of milliseconds and 32 random bits: `t01hx3k9m2q7v4d8e` sorts after every identifier
//! made before it, is short enough for a deny list in a cloud's policy, and is a legal SPIFFE path
//! segment. Identifiers are names, not secrets; the store refuses the second use of one.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use crate::{Clock, Entropy, EntropyError, InvalidValue, Timestamp, excerpt};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: usize = 16;

/// 80 bits as 16 base32 digits, most significant first.
fn encode(millis: u64, random: u32) -> [u8; DIGITS] {
    let value = (u128::from(millis & 0xffff_ffff_ffff) << 32) | u128::from(random);
    let mut digits = [0_u8; DIGITS];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        let index = usize::try_from((value >> (5 * place)) & 31).unwrap_or(0);
        *digit = ALPHABET.get(index).copied().unwrap_or(b'0');
    }
    digits
}

fn digits(bytes: &[u8]) -> Option<[u8; DIGITS]> {
    let digits = <[u8; DIGITS]>::try_from(bytes).ok()?;
    digits.iter().copied().all(is_digit).then_some(digits)
}

/// Whether a byte is in [`ALPHABET`]. A start asks millions of times.
const fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'h' | b'j' | b'k' | b'm' | b'n' | b'p'..=b't' | b'v'..=b'z')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; DIGITS]);

        impl $name {
            /// A new identifier from the time and fresh randomness.
            pub fn generate(clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
                let millis = u64::try_from(clock.now().millis()).unwrap_or(0);
                let random = u32::try_from(entropy.next_u64()? >> 32).unwrap_or(0);
                Ok(Self(encode(millis, random)))
            }

            /// The smallest identifier that can be made at `time`: where a listing by time begins.
            pub fn first_at(time: Timestamp) -> Self {
                Self(encode(u64::try_from(time.millis()).unwrap_or(0), 0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                // INVARIANT: only ASCII digits of ALPHABET are ever stored.
                f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.strip_prefix($prefix)
                    .and_then(|text| digits(text.as_bytes()))
                    .map(Self)
                    .ok_or_else(|| {
                        InvalidValue(format!(
                            "`{}` is not a {}: expected `{}` and 16 of the characters 0-9 a-z without i, l, o, u",
                            excerpt(s), $what, $prefix
                        ))
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Printed;

                impl Visitor<'_> for Printed {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a ", $what))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        let digits = digits(bytes).map($name);
                        digits.ok_or_else(|| E::custom(concat!("not the digits of a ", $what)))
                    }
                }

                // A tagged enum asks for the text in a binary format, too, and finds the digits.
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Printed)
                } else {
                    deserializer.deserialize_bytes(Printed)
                }
            }
        }
    };
}

id!(
    /// Names a task: `t…`.
    TaskId, "t", "task id"
);
id!(
    /// Names a credential: `c…`.
    CredentialId, "c", "credential id"
);
id!(
    /// Names a join token (not the token itself, which is a secret): `j…`.
    JoinTokenId, "j", "join token id"
);
id!(
    /// Names an anchor: `a…`.
    AnchorId, "a", "anchor id"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, SeededEntropy};

    #[test]
    fn ids_parse_as_printed_and_sort_by_time() {
        let (clock, entropy) = (
            ManualClock::new(Timestamp::from_millis(1_700_000_000_000)),
            SeededEntropy::new(1),
        );
        let first = TaskId::generate(&clock, &entropy).unwrap();
        clock.advance(std::time::Duration::from_millis(1));
        let second = TaskId::generate(&clock, &entropy).unwrap();
        assert!(first < second && first.to_string() < second.to_string());
        assert_eq!(first.to_string().parse::<TaskId>().unwrap(), first);
        assert_eq!(first.to_string().len(), 17);
        assert!(TaskId::first_at(Timestamp::from_millis(1_700_000_000_000)) <= first);
    }

    #[test]
    fn the_digits_are_the_alphabet() {
        for byte in 0..=u8::MAX {
            assert_eq!(is_digit(byte), ALPHABET.contains(&byte), "{byte}");
        }
    }

    #[test]
    fn foreign_spellings_are_refused() {
        for bad in [
            "",
            "t",
            "c0000000000000000",
            "t000000000000000",
            "t000000000000000O",
            "T0000000000000000",
            "t000000000000000\u{e9}",
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }
}
