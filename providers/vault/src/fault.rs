//! How one call can fail, and the meaning of each failure for the broker.

use std::time::Duration;

use serde::Deserialize;
use taskpass_core::is_hidden;
use taskpass_provider::ProviderError;

/// Characters of Vault's own words that are passed on.
const WORDS_CHARS_MAX: usize = 160;
/// A longer run of letters and digits is more likely a token, a password or a key than a word.
const WORD_CHARS_MAX: usize = 15;
/// A shorter run with digits and letters of both cases is more likely a password than a word.
const PASSWORD_CHARS_MIN: usize = 8;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Vault answered and refused.
    #[error("{message}")]
    Refused {
        status: u16,
        message: String,
        retry_after: Option<Duration>,
        says: Says,
    },
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
    /// No answer; Vault may have carried out the call.
    #[error("{0}")]
    Silent(String),
    /// An unreadable answer; Vault may have carried out the call.
    #[error("{0}")]
    Garbled(String),
    /// The broker's own token is not available.
    #[error("{0}")]
    Token(ProviderError),
}

/// The statement of a refusal about the thing in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// It does not exist, in Vault's own words and no others.
    Gone,
    /// The list is empty: Vault's form of a refusal, without a message.
    Empty,
    /// Nothing that proves anything.
    Nothing,
}

/// The words with which Vault says that there is no such token or lease.
const GONE: [&str; 3] = ["invalid accessor", "invalid lease", "lease not found"];

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<String>,
}

impl Fault {
    pub(crate) fn refused(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let errors = serde_json::from_slice::<ErrorBody>(body).map(|body| body.errors);
        let words = match &errors {
            Ok(errors) => errors.iter().find_map(|error| own_words(error)),
            Err(_) => None,
        };
        let says = match (status, errors.as_deref(), words.as_deref()) {
            (404, Ok([]), _) => Says::Empty,
            // A 403 alone proves nothing: the broker's own token may be the one refused.
            (400 | 403 | 404, Ok([error]), Some(words))
                if GONE.contains(&words) && is_one_error(error) =>
            {
                Says::Gone
            }
            _ => Says::Nothing,
        };
        let message = words.unwrap_or_else(|| default_words(status).to_owned());
        Self::Refused {
            status,
            message,
            retry_after,
            says,
        }
    }

    /// Whether Vault says that a list is empty. A balancer that knows no `LIST` answers 404 too,
    /// with another body.
    pub(crate) fn says_empty(&self) -> bool {
        matches!(self, Self::Refused { says, .. } if *says == Says::Empty)
    }

    /// Whether Vault says that the thing does not exist: the only answers that prove it dead.
    pub(crate) fn says_gone(&self) -> bool {
        matches!(self, Self::Refused { says, .. } if *says == Says::Gone)
    }

    pub(crate) const fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The provider's error for the failed attempt at `doing`.
    pub(crate) fn while_doing(self, doing: &str) -> ProviderError {
        match self {
            Self::Token(error) => error,
            Self::Unreachable(why) => {
                ProviderError::Unreachable(format!("Vault did not answer to {doing}: {why}"))
            }
            Self::Silent(why) => {
                ProviderError::retryable(format!("Vault did not answer to {doing}: {why}"))
            }
            Self::Garbled(why) => {
                ProviderError::retryable(format!("Vault's answer to {doing} cannot be used: {why}"))
            }
            Self::Refused {
                status,
                message,
                retry_after,
                ..
            } => {
                let text = format!("Vault refused to {doing}: {message} (status {status})");
                match status {
                    401 | 403 => ProviderError::Denied(text),
                    408 | 412 | 425 | 429 | 472 | 473 | 500.. => ProviderError::Retryable {
                        message: text,
                        after: retry_after,
                    },
                    _ => ProviderError::Misconfigured(text),
                }
            }
        }
    }
}

/// Whether the text holds a single error of Vault's, without another one below it.
fn is_one_error(error: &str) -> bool {
    let lines = error.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.ends_with("occurred:"))
        .count()
        == 1
}

fn default_words(status: u16) -> &'static str {
    match status {
        300..=399 => "it answers with a redirect; set `address` to the server itself",
        403 => "permission denied",
        404 => "there is nothing at this path",
        429 => "too many requests",
        503 => "sealed or in maintenance",
        _ => "no reason given",
    }
}

/// The first sentence of Vault's error, on one line, with long words masked.
///
/// Engines put statements and connection strings into their errors, passwords included.
fn own_words(error: &str) -> Option<String> {
    let sentence = error
        .lines()
        .map(|line| line.trim().trim_start_matches("* "))
        .find(|line| !line.is_empty() && !line.ends_with("occurred:"))?;
    let mut shown = String::new();
    let mut word = String::new();
    for c in sentence.chars().filter(|c| !is_hidden(*c)).chain([' ']) {
        if c.is_alphanumeric() || matches!(c, '_' | '+' | '=' | '-' | '.') {
            word.push(c);
            continue;
        }
        // What stands before `@` in a connection string is a password.
        let is_masked = c == '@' || looks_secret(&word);
        shown.push_str(if is_masked { "…" } else { &word });
        word.clear();
        shown.push(c);
    }
    Some(shown.trim().chars().take(WORDS_CHARS_MAX).collect())
}

fn looks_secret(word: &str) -> bool {
    let is_token = ["hvs.", "hvb.", "hvr.", "s.", "b.", "r."]
        .iter()
        .any(|prefix| word.starts_with(prefix));
    // The name of a host that cannot be reached is shown: the reader needs it most.
    let is_host = !is_token
        && word.contains('.')
        && word
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-'));
    let has = |is: fn(char) -> bool| word.chars().any(is);
    let mixed = has(|c| c.is_ascii_digit() || c.is_uppercase());
    let is_password =
        has(|c| c.is_ascii_digit()) && has(char::is_lowercase) && has(char::is_uppercase);
    let length = word.chars().count();
    let is_long = length > WORD_CHARS_MAX && (is_token || mixed);
    (is_long || length >= PASSWORD_CHARS_MIN && is_password) && !is_host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, error: &str) -> Fault {
        let body = serde_json::json!({ "errors": [error] }).to_string();
        Fault::refused(status, body.as_bytes(), None)
    }

    #[test]
    fn statuses_become_advice() {
        let kind = |status| refused(status, "x").while_doing("try").kind();
        for (status, expected) in [
            (400, "misconfigured"),
            (403, "denied"),
            (404, "misconfigured"),
            (429, "retryable"),
            (472, "retryable"),
            (500, "retryable"),
            (503, "retryable"),
            (307, "misconfigured"),
        ] {
            assert_eq!(kind(status), expected, "{status}");
        }
        let slow = Fault::refused(429, b"", Some(Duration::from_secs(7))).while_doing("try");
        assert!(
            matches!(slow, ProviderError::Retryable { after: Some(after), .. } if after.as_secs() == 7)
        );
    }

    #[test]
    fn vaults_words_lose_their_secrets() {
        let text = "1 error occurred:\n\t* failed to run CREATE ROLE \"v-root-x\" PASSWORD 'aB3dE5fG7hI9jK1lM' for s.W4tMe5g7BBROuMXPQEcVyVkN\n\n";
        let Fault::Refused { message, .. } = refused(400, text) else {
            panic!()
        };
        assert!(
            message.starts_with("failed to run CREATE ROLE"),
            "{message}"
        );
        assert!(
            !message.contains("aB3d") && !message.contains("W4tM") && !message.contains('\n'),
            "{message}"
        );
        let short = refused(
            500,
            "dial postgres://vault:hunter@db.acme.test failed for Tr0ub4dor",
        );
        assert!(
            !short.to_string().contains("hunter") && !short.to_string().contains("Tr0ub4dor"),
            "{short}"
        );
        let host = refused(
            500,
            "dial tcp: lookup postgres-0.db.internal.acme.test: no such host",
        );
        assert!(
            host.to_string()
                .contains("postgres-0.db.internal.acme.test"),
            "{host}"
        );
        assert!(refused(500, &"long ".repeat(100)).to_string().len() <= WORDS_CHARS_MAX);
    }

    #[test]
    fn only_vaults_own_form_is_an_empty_list() {
        let answer =
            |status, body: &str| Fault::refused(status, body.as_bytes(), None).says_empty();
        assert!(answer(404, r#"{"errors":[]}"#));
        for (status, body) in [
            (404, "<html>not found</html>"),
            (404, ""),
            (404, "{}"),
            (404, r#"{"errors":["no handler for route"]}"#),
            (403, r#"{"errors":[]}"#),
        ] {
            assert!(!answer(status, body), "{status} {body}");
        }
    }

    #[test]
    fn only_vaults_own_words_prove_a_death() {
        let says_gone =
            |status, body: &str| Fault::refused(status, body.as_bytes(), None).says_gone();
        for (status, error) in [
            (400, "1 error occurred:\n\t* invalid accessor\n\n"),
            (403, "invalid accessor"),
            (404, "invalid accessor"),
            (400, "invalid lease"),
            (400, "lease not found"),
        ] {
            assert!(refused(status, error).says_gone(), "{status} {error}");
        }
        for (status, error) in [
            (403, "permission denied"),
            (404, ""),
            (404, "namespace not found"),
            (404, "no handler for route `auth/token/lookup-accessor`"),
            (500, "invalid lease"),
            (503, "invalid accessor"),
            (502, "invalid lease"),
            (307, "invalid lease"),
            (472, "invalid accessor"),
            (400, "missing lease id"),
            (400, "cannot tell an invalid lease from one of a standby"),
            (400, "invalid lease configuration"),
            (
                500,
                "1 error occurred:\n\t* cannot lookup token in different namespace\n\n",
            ),
            (
                400,
                "2 errors occurred:\n\t* invalid lease\n\t* storage is sealed\n\n",
            ),
        ] {
            assert!(!refused(status, error).says_gone(), "{status} {error}");
        }
        for (status, body) in [
            (404, "<html>invalid lease</html>"),
            (400, "invalid accessor"),
            (400, r#"{"error":"invalid lease"}"#),
            (400, r#"{"errors":"invalid lease"}"#),
            (
                400,
                r#"{"errors":["invalid lease","local node not active"]}"#,
            ),
            (404, r#"{"errors":[]}"#),
            (404, ""),
        ] {
            assert!(!says_gone(status, body), "{status} {body}");
        }
    }
}
