//! The handle by which a provider finds a credential or an anchor.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

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
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}
