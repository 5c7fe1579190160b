//! Join tokens as text: `tp1.<id>.<secret>.<root fingerprint>`.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use taskpass_core::{InvalidValue, JoinTokenId};
use zeroize::Zeroizing;

/// Bytes of a token's text; a longer one is not looked at.
const TEXT_BYTES_MAX: usize = 256;

/// The parts of a join token that the broker needs. The fingerprint is for the agent, which has
/// checked it already.
pub struct JoinTokenText {
    /// Which token it is.
    pub id: JoinTokenId,
    /// The secret half, which proves that the agent holds the token.
    pub secret: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokenText")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl JoinTokenText {
    /// Reads a token. The error names no part of it, since that would help a caller that guesses.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let bad = || {
            InvalidValue::new(
                "this is not a join token; give the whole text that `taskpass agent token` printed, it begins with `tp1.`",
            )
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(bad());
        }
        let mut parts = text.trim().split('.');
        let (Some("tp1"), Some(id), Some(secret), Some(_fingerprint), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(bad());
        };
        match (id.parse(), URL_SAFE_NO_PAD.decode(secret)) {
            (Ok(id), Ok(secret)) => Ok(Self {
                id,
                secret: Zeroizing::new(secret),
            }),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tokens_are_read() {
        let good = "tp1.j0123456789abcdef.AAAA.BBBB";
        assert_eq!(
            JoinTokenText::parse(good).ok().map(|t| t.secret.to_vec()),
            Some(vec![0, 0, 0])
        );
        for bad in [
            "",
            "tp1",
            "tp2.j0123456789abcdef.AAAA.BBBB",
            "tp1.j0123456789abcdef.AAAA",
            "tp1.j0123456789abcdef.AAAA.BBBB.C",
            "tp1.t0123456789abcdef.AAAA.BBBB",
            "tp1.j0123456789abcdef.A*AA.BBBB",
            &"x".repeat(300),
        ] {
            assert!(JoinTokenText::parse(bad).is_err(), "{bad}");
        }
    }
}
