//! The handle by which a provider finds a credential or an anchor.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{InvalidValue, is_hidden, limits};

/// The handle by which a provider finds a credential or an anchor; never a secret. It is JSON that
/// only the provider understands. The broker keeps it as text: each live credential has one, and a
/// parsed value takes far more memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Handle(Box<str>);

impl Handle {
    /// As the provider gave it.
    pub fn to_json(&self) -> Value {
        // INVARIANT: the text was made from a JSON value.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// How many bytes it takes as JSON.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The handle that a provider gave just now, if it can go on record: of at most
    /// [`limits::HANDLE_BYTES_MAX`] bytes, without hidden characters, which a lying back end could
    /// use to change how an auditor's terminal shows an export.
    pub fn recordable(given: Value) -> Result<Self, InvalidValue> {
        let handle = Self::from(given);
        let why = match &handle.0 {
            _ if handle.bytes() > limits::HANDLE_BYTES_MAX => "is too long to be recorded",
            text if text.contains(is_hidden) => "has invisible characters",
            _ => return Ok(handle),
        };
        Err(InvalidValue(format!("the provider's handle {why}")))
    }
}

impl From<Value> for Handle {
    fn from(value: Value) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.to_json().serialize(serializer)
        } else {
            serializer.serialize_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Value::deserialize(deserializer).map(Self::from)
        } else {
            // INVARIANT: only a handle is written like this.
            Box::<str>::deserialize(deserializer).map(Self)
        }
    }
}
