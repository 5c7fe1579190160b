//! The types a key of a section can have: their schemas, and how each is read and written.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use taskpass_core::{AgentName, TrustDomain, Ttl};

use crate::format::{PATH, duration};

/// A type that a key of a section can have.
pub trait Setting: Sized {
    /// The schema of the written form, without default and range.
    fn schema() -> Value;

    /// Reads a value that fits the schema. A type may refuse more than its schema says; the message
    /// goes behind the name of the key.
    fn read(value: &Value) -> Result<Self, String>;

    /// As it is written in the file.
    fn write(&self) -> Value;
}

/// A value of another type was complained about when the file was compared with the schema.
fn unfit() -> String {
    "has the wrong type".to_owned()
}

impl Setting for bool {
    fn schema() -> Value {
        json!({ "type": "boolean" })
    }

    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(unfit)
    }

    fn write(&self) -> Value {
        Value::from(*self)
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn schema() -> Value {
                json!({ "type": "integer", "minimum": 0, "maximum": Self::MAX })
            }

            fn read(value: &Value) -> Result<Self, String> {
                value.as_u64().and_then(|number| number.try_into().ok()).ok_or_else(unfit)
            }

            fn write(&self) -> Value {
                Value::from(*self)
            }
        }
    )*};
}

number!(u32, usize);

/// Makes a key of a type that is read from a text and shown as one; behind the type, the format of
/// the text.
#[macro_export]
macro_rules! text_setting {
    ($type:ty $(, $format:literal)?) => {
        impl $crate::Setting for $type {
            fn schema() -> $crate::serde_json::Value {
                $crate::serde_json::json!({ "type": "string" $(, "format": $format)? })
            }

            fn read(value: &$crate::serde_json::Value) -> Result<Self, String> {
                let text = value.as_str().ok_or("has the wrong type")?;
                text.parse().map_err(|e| format!("is wrong: {e}"))
            }

            fn write(&self) -> $crate::serde_json::Value {
                self.to_string().into()
            }
        }
    };
}

text_setting!(Ttl, "lifetime");
text_setting!(TrustDomain, "trust-domain");
text_setting!(AgentName, "agent-name");
text_setting!(SocketAddr, "socket-address");

impl Setting for Duration {
    fn schema() -> Value {
        json!({ "type": "string", "format": "duration" })
    }

    fn read(value: &Value) -> Result<Self, String> {
        duration(value.as_str().ok_or_else(unfit)?)
    }

    fn write(&self) -> Value {
        match Ttl::from_seconds(self.as_secs()) {
            Ok(ttl) if self.subsec_millis() == 0 => Value::from(ttl.to_string()),
            _ => Value::from(format!("{}ms", self.as_millis())),
        }
    }
}

impl Setting for PathBuf {
    fn schema() -> Value {
        json!({ "type": "string", "format": PATH })
    }

    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().map(Self::from).ok_or_else(unfit)
    }

    fn write(&self) -> Value {
        Value::from(self.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show_the_same() {
        for (text, millis) in [
            ("500ms", 500),
            ("1ms", 1),
            ("15s", 15_000),
            ("1m30s", 90_000),
        ] {
            let length = Duration::from_millis(millis);
            assert_eq!(Duration::read(&Value::from(text)), Ok(length), "{text}");
            assert_eq!(length.write(), Value::from(text));
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
            assert!(Duration::read(&Value::from(bad)).is_err(), "{bad}");
        }
    }
}
