//! The types a key of the configuration can have: how each is written, read and shown.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use taskpass_core::{AgentName, TrustDomain, Ttl, excerpt};
use toml::de::DeValue;

/// A type that a key can have.
pub(crate) trait Value: Sized + PartialOrd {
    /// What is written there, in words.
    const EXPECTS: &'static str;

    /// Reads it. The message says what is wrong with the value and goes behind the name of its key.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;

    /// As it is written in the file.
    fn show(&self) -> String;
}

impl Value for bool {
    const EXPECTS: &'static str = "true or false";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wrong_type::<Self>(value))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const EXPECTS: &'static str = "a whole number";

            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                let number = value.as_integer().ok_or_else(|| wrong_type::<Self>(value))?;
                Self::from_str_radix(number.as_str(), number.radix()).map_err(|_unfit| {
                    let shown = excerpt(number.as_str());
                    format!("is `{shown}`: it must be from 0 to {}", Self::MAX)
                })
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

number!(u32, usize);

impl Value for Ttl {
    const EXPECTS: &'static str = "a lifetime in quotes, like \"15m\"";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        parsed(value)
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Value for Duration {
    const EXPECTS: &'static str = "a duration in quotes, like \"500ms\" or \"15s\"";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        if let Some(millis) = text.strip_suffix("ms") {
            let digits = !millis.is_empty() && millis.bytes().all(|b| b.is_ascii_digit());
            return match millis.parse() {
                Ok(millis) if digits => Ok(Self::from_millis(millis)),
                _ => Err(format!(
                    "is `{}`: write a duration like 500ms, 15s or 2m",
                    excerpt(text)
                )),
            };
        }
        match text.parse::<Ttl>() {
            Ok(ttl) => Ok(ttl.duration()),
            Err(_) => Err(format!(
                "is `{}`: write a duration like 500ms, 15s or 2m",
                excerpt(text)
            )),
        }
    }

    fn show(&self) -> String {
        let millis = self.as_millis();
        match Ttl::from_seconds(self.as_secs()) {
            Ok(ttl) if self.subsec_millis() == 0 => format!("\"{ttl}\""),
            _ => format!("\"{millis}ms\""),
        }
    }
}

macro_rules! parsed_text {
    ($($type:ty: $expects:literal),* $(,)?) => {$(
        impl Value for $type {
            const EXPECTS: &'static str = $expects;

            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                parsed(value)
            }

            fn show(&self) -> String {
                format!("\"{self}\"")
            }
        }
    )*};
}

parsed_text! {
    TrustDomain: "the name of a trust domain in quotes, like \"acme.test\"",
    AgentName: "a short name in quotes",
}

impl Value for SocketAddr {
    const EXPECTS: &'static str = "an address with port in quotes, like \"127.0.0.1:7443\"";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        text.parse().map_err(|_unfit| {
            format!(
                "is `{}`: write an IP address and a port, like 127.0.0.1:7443 or [::]:7443",
                excerpt(text)
            )
        })
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Value for PathBuf {
    const EXPECTS: &'static str = "a path in quotes";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        if text.is_empty() || text.contains('\0') {
            return Err("is empty or has a zero byte: write a path".to_owned());
        }
        Ok(Self::from(text))
    }

    fn show(&self) -> String {
        format!("\"{}\"", self.display())
    }
}

/// Reads a text with the type's own parser, whose message names the value.
pub(crate) fn parsed<T>(value: &DeValue<'_>) -> Result<T, String>
where
    T: Value + std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text = value.as_str().ok_or_else(|| wrong_type::<T>(value))?;
    text.parse().map_err(|e| format!("is wrong: {e}"))
}

pub(crate) fn wrong_type<T: Value>(value: &DeValue<'_>) -> String {
    format!("takes {}, not {}", T::EXPECTS, kind(value))
}

/// The type of a value in TOML's words.
pub(crate) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Result<Duration, String> {
        let text = format!("{text:?}");
        Duration::read(DeValue::parse(&text).unwrap().get_ref())
    }

    #[test]
    fn durations_read_and_show_the_same() {
        for (text, millis) in [
            ("500ms", 500),
            ("1ms", 1),
            ("15s", 15_000),
            ("1m30s", 90_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(Duration::from_millis(millis).show(), format!("\"{text}\""));
        }
        for bad in [
            "",
            "ms",
            "+5ms",
            "-5ms",
            "1.5s",
            "5",
            "1s500ms",
            "99999999999999999999ms",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
