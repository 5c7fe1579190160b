//! Join tokens as people pass them on: `tp1.<id>.<secret>.<root fingerprint>`.
//!
//! The fingerprint, SHA-256 of the root certificate's SubjectPublicKeyInfo, pins the broker before
//! the secret is sent. Only the broker checks the secret.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use taskpass_core::{InvalidValue, JoinTokenId, Secret};

const VERSION: &str = "tp1";
/// Bytes of a join token's text; far more than any real one.
const TEXT_BYTES_MAX: usize = 512;

/// A single-use proof for the first identity of an agent.
pub struct JoinToken {
    id: JoinTokenId,
    root_pin: [u8; 32],
    text: Secret,
}

impl JoinToken {
    /// The name of the token, which is no secret.
    pub const fn id(&self) -> JoinTokenId {
        self.id
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the root that the broker's chain must end in.
    pub const fn root_pin(&self) -> &[u8; 32] {
        &self.root_pin
    }

    /// The whole token. Send it only to the broker that it pins.
    pub(crate) fn expose(&self) -> &str {
        self.text.expose()
    }
}

impl FromStr for JoinToken {
    type Err = InvalidValue;

    /// The message never repeats the input, which is a secret.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = |why: &str| {
            InvalidValue::new(format!(
                "this is not a join token ({why}); paste the whole text that `taskpass agent token` printed, beginning with `{VERSION}.`"
            ))
        };
        let s = s.trim();
        if s.len() > TEXT_BYTES_MAX {
            return Err(bad("it is too long"));
        }
        let parts: Vec<&str> = s.split('.').collect();
        let [version, id, secret, pin] = parts.as_slice() else {
            return Err(bad("it does not have four parts"));
        };
        if *version != VERSION {
            return Err(bad("it has another version"));
        }
        let id = id
            .parse()
            .map_err(|_secret: InvalidValue| bad("its id is damaged"))?;
        if secret.is_empty() || URL_SAFE_NO_PAD.decode(secret).is_err() {
            return Err(bad("its secret is damaged"));
        }
        let root_pin = URL_SAFE_NO_PAD
            .decode(pin)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| bad("its fingerprint is damaged"))?;
        Ok(Self {
            id,
            root_pin,
            text: Secret::new(s.to_owned()),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, …)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_tokens_are_read_and_damaged_ones_named_without_being_shown() {
        let pin = URL_SAFE_NO_PAD.encode([7_u8; 32]);
        let good = format!("tp1.j0123456789abcdef.c2VjcmV0.{pin}");
        let token: JoinToken = format!(" {good}\n").parse().unwrap();
        assert_eq!(token.id().to_string(), "j0123456789abcdef");
        assert_eq!(token.root_pin(), &[7_u8; 32]);
        assert_eq!(token.expose(), good);
        assert!(!format!("{token:?}").contains("c2Vj"));
        for bad in [
            String::new(),
            "c2VjcmV0".to_owned(),
            format!("tp2.j0123456789abcdef.c2VjcmV0.{pin}"),
            format!("tp1.t0123456789abcdef.c2VjcmV0.{pin}"),
            format!("tp1.j0123456789abcdef..{pin}"),
            format!("tp1.j0123456789abcdef.c2VjcmV0!.{pin}"),
            "tp1.j0123456789abcdef.c2VjcmV0.AAAA".to_owned(),
            format!("{good}.x"),
            "x".repeat(600),
        ] {
            let message = bad.parse::<JoinToken>().unwrap_err().to_string();
            assert!(!message.contains("c2VjcmV0"), "{message}");
        }
    }
}
