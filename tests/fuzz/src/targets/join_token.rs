//! Join tokens, as the agent reads them and as the broker does.

use taskpass_client::JoinToken;
use taskpass_engine::JoinTokenText;

use crate::{input, wording::one_line};

pub(crate) fn run(data: &[u8]) {
    let Some(text) = input::text(data) else {
        return;
    };
    let at_the_broker = JoinTokenText::parse(text).ok().map(|token| token.id);
    match text.parse::<JoinToken>() {
        Ok(token) => {
            let secret = secret_of(text);
            assert!(!is_telling(secret) || !format!("{token:?}").contains(secret));
            // An agent must not connect with a token that the broker cannot read.
            if text.len() <= 256 {
                assert_eq!(at_the_broker, Some(token.id()));
            }
        }
        Err(error) => {
            let message = one_line(error, 250);
            let secret = secret_of(text);
            assert!(!is_telling(secret) || !message.contains(secret));
        }
    }
}

fn secret_of(text: &str) -> &str {
    text.split('.').nth(2).unwrap_or(text)
}

/// Whether a secret would be noticed in a message. Messages have words of their own, all in lower
/// case.
fn is_telling(secret: &str) -> bool {
    secret.len() >= 8 && secret.contains(|c: char| c.is_ascii_uppercase())
}
