//! Secrets: readable only on purpose, never printed, never serialised, wiped when dropped.

use std::{collections::BTreeMap, fmt};

use zeroize::Zeroizing;

use crate::InvalidValue;

/// A secret text, such as a token or a password.
///
/// It has no `Clone`, no `Serialize` and no revealing `Debug`; the memory is wiped on drop. Code
/// that needs the value calls [`Secret::expose`], which is easy to search for.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of `value`.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The secret itself. The caller must not log, store or print it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A second owner, for the rare place that must hand the value to a library which keeps its own
    /// copy.
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The named parts of a credential (`username`, `password`, …), each a [`Secret`].
#[derive(Debug, Default)]
pub struct SecretFields(BTreeMap<String, Secret>);

impl SecretFields {
    /// No parts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part; a second part of the same name is an error, since one of the two would be lost.
    pub fn insert(&mut self, name: &str, value: Secret) -> Result<(), InvalidValue> {
        if self.0.insert(name.to_owned(), value).is_some() {
            return Err(InvalidValue(format!(
                "the credential has two fields named `{name}`"
            )));
        }
        Ok(())
    }

    /// The part called `name`.
    pub fn field(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// All parts by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many parts there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_value() {
        let mut fields = SecretFields::new();
        fields
            .insert("token", Secret::new("hunter2".to_owned()))
            .unwrap();
        assert!(!format!("{fields:?}").contains("hunter2"));
        assert!(fields.insert("token", Secret::new(String::new())).is_err());
    }
}
