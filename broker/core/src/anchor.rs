//! Anchors: the records of the things at a back end through which credentials are issued.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    AnchorId, Digest, Handle, InvalidValue, ProviderName, TaskId, Timestamp, excerpt, hex,
};

/// Whether a credential issued through the anchor may still be alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorState {
    /// It may be alive.
    Live,
    /// The provider proved that it is gone, or its life is over.
    Gone,
}

/// What a credential and its anchor have in common: a credential is issued through an anchor with
/// its own key, and through no other. Only the provider knows what the key stands for.
///
/// Two keys of one task that are the same by chance make the broker more careful and no less: it
/// then revokes an anchor that it could have kept. So eight bytes are enough, and each of many
/// thousand live credentials carries them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnchorKey([u8; AnchorKey::BYTES]);

impl AnchorKey {
    const BYTES: usize = 8;

    /// The key that stands for `parts`, in their order.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hashed = Vec::new();
        for part in parts {
            // With its length before it, no part can run into the next one.
            let bytes = u64::try_from(part.len()).unwrap_or(u64::MAX);
            hashed.extend(bytes.to_be_bytes());
            hashed.extend(part.as_bytes());
        }
        let mut key = [0; Self::BYTES];
        let digest = Digest::of(&hashed);
        key.iter_mut()
            .zip(digest.bytes())
            .for_each(|(k, d)| *k = *d);
        Self(key)
    }

    /// Whether a credential with `credential` may have been issued through an anchor with `anchor`.
    /// A record of an earlier release has no key and may belong to any other.
    pub fn may_match(credential: Option<Self>, anchor: Option<Self>) -> bool {
        match (credential, anchor) {
            (Some(credential), Some(anchor)) => credential == anchor,
            (None, _) | (_, None) => true,
        }
    }
}

impl fmt::Display for AnchorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for AnchorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AnchorKey {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(number) if digits && text.len() == 2 * Self::BYTES => Ok(Self(number.to_be_bytes())),
            _ => Err(InvalidValue::new(format!(
                "`{}` is not an anchor's key: it has 16 hex digits",
                excerpt(text)
            ))),
        }
    }
}

impl Serialize for AnchorKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AnchorKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// A thing of one task at a back end that cannot be searched for, such as a Vault token, which is
/// known by its accessor.
///
/// The provider makes it short-lived, has it recorded, and only then renews it. Revoking it revokes
/// every credential issued through it, also a credential that the broker does not know of because
/// it was killed before the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// Unique name.
    pub id: AnchorId,
    /// The task it belongs to.
    pub task: TaskId,
    /// The provider that made it.
    pub provider: ProviderName,
    /// The key of the credentials that are issued through it. Earlier releases recorded none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<AnchorKey>,
    /// How the provider finds it again; never a secret.
    pub handle: Handle,
    /// When it was recorded; where it counts, the time of the entry.
    pub recorded_at: Timestamp,
    /// Until when it can live at most.
    pub expires_at: Timestamp,
    /// Whether it may be alive.
    pub state: AnchorState,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ledgers outlive releases: a key that is counted otherwise would match no anchor on record.
    #[test]
    fn keys_are_fixed_and_have_one_form() {
        let key = AnchorKey::of(["policies", "ci-db"]);
        assert_eq!(key.to_string(), "2babc8d2fb990cad");
        assert_eq!(key.to_string().parse(), Ok(key));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<AnchorKey>(&json).unwrap(), key);
        for wrong in [
            "",
            "0",
            "ABCDEF0123456789",
            "+123456789abcdef",
            "0123456789abcdef0",
        ] {
            assert!(wrong.parse::<AnchorKey>().is_err(), "{wrong}");
        }
        assert_ne!(AnchorKey::of(["ab", "c"]), AnchorKey::of(["a", "bc"]));
        assert_ne!(AnchorKey::of(["a"]), AnchorKey::of(["a", ""]));
    }

    #[test]
    fn a_record_without_a_key_may_belong_to_any_other() {
        let [a, b] = ["a", "b"].map(|part| Some(AnchorKey::of([part])));
        assert!(AnchorKey::may_match(a, a) && !AnchorKey::may_match(a, b));
        assert!(AnchorKey::may_match(None, b) && AnchorKey::may_match(a, None));
        assert!(AnchorKey::may_match(None, None));
    }
}
