//! What an answer of AWS means for the broker: try again, give up, or call a person.
//!
//! Only the service's code decides. Its message is shown for people, on one line; STS and IAM never echo secrets in
//! theirs.

use taskpass_core::breaks_line;
use taskpass_provider::ProviderError;

/// Characters of AWS's own message that are passed on.
const MESSAGE_CHARS_MAX: usize = 300;
/// Bytes of the longest error code that is believed to be one.
const CODE_BYTES_MAX: usize = 80;

/// Maps a refusal of `action` (what was tried, to what) with AWS's status, code and message.
pub(crate) fn refused(action: &str, status: u16, code: &str, message: &str) -> ProviderError {
    let said: String = message
        .chars()
        .map(|c| if breaks_line(c) { ' ' } else { c })
        .take(MESSAGE_CHARS_MAX)
        .collect();
    // A code is a word. What is anything else was not sent by AWS, and must not get into logs as it is.
    let is_word = !code.is_empty()
        && code.len() <= CODE_BYTES_MAX
        && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    let code = if is_word { code } else { "no code" };
    let text = format!("{action} was refused ({status} {code}): {said}");
    match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "OptInRequired" => {
            ProviderError::Denied(format!(
                "{text}; check the trust policy and the permissions of the broker's principal"
            ))
        }
        "PackedPolicyTooLarge" => ProviderError::Misconfigured(format!(
            "{text}; the session policy and tags together exceed STS's packed limit, which counts apart from the 2,048 characters: shorten the role's template"
        )),
        "RegionDisabledException" => ProviderError::Misconfigured(format!(
            "{text}; activate STS in this region or configure another"
        )),
        "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException"
        | "AuthFailure" => ProviderError::Misconfigured(format!(
            "{text}; the configured credentials are not valid"
        )),
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => ProviderError::retryable(
            format!("{text}; the configured credentials have expired and are read again"),
        ),
        "LimitExceeded"
        | "MalformedPolicyDocument"
        | "ValidationError"
        | "NoSuchEntity"
        | "InvalidParameterValue"
        | "UnmodifiableEntity"
        | "InvalidAction"
        | "InvalidInput" => ProviderError::Misconfigured(text),
        "RequestTimeTooSkewed" => {
            ProviderError::retryable(format!("{text}; set this machine's clock"))
        }
        // Throttling has a dozen codes, an overloaded service any 5xx; and a code nobody knows promises nothing
        // about what was minted.
        _ => ProviderError::retryable(text),
    }
}

/// No answer, or none that could be understood: anything may have happened.
pub(crate) fn unanswered(action: &str, reason: &str) -> ProviderError {
    ProviderError::retryable(format!("{action} got no usable answer: {reason}"))
}

/// Nothing was sent, for want of credentials of our own.
pub(crate) fn no_credentials(
    action: &str,
    error: &aws_credential_types::provider::error::CredentialsError,
) -> ProviderError {
    use aws_credential_types::provider::error::CredentialsError as E;
    let reason = reason(error);
    let text = format!("{action} could not be signed: {reason}");
    match error {
        E::InvalidConfiguration(_) => ProviderError::Misconfigured(text),
        _ => ProviderError::retryable(text),
    }
}

/// An error and what it came from, on one line.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = inner.source();
    }
    text.chars()
        .map(|c| if breaks_line(c) { ' ' } else { c })
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_that_promises_it_means_that_nothing_was_minted() {
        for (code, kind) in [
            ("AccessDenied", "denied"),
            ("RegionDisabledException", "misconfigured"),
            ("MalformedPolicyDocument", "misconfigured"),
            ("PackedPolicyTooLarge", "misconfigured"),
            ("ValidationError", "misconfigured"),
            ("Throttling", "retryable"),
            ("ServiceUnavailable", "retryable"),
            ("InternalFailure", "retryable"),
            ("ExpiredToken", "retryable"),
            ("SomethingNew", "retryable"),
            ("", "retryable"),
        ] {
            let error = refused("AssumeRole of `x`", 400, code, "why\nnot");
            assert_eq!(error.kind(), kind, "{code}");
            assert!(!error.to_string().contains('\n'));
        }
        let long = "x".repeat(1000);
        for code in ["a\nb", "<a>", long.as_str()] {
            let text = refused("AssumeRole of `x`", 400, code, "").to_string();
            assert!(text.contains("(400 no code)"), "{text}");
        }
    }
}
