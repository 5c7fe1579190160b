//! The meaning of AWS's refusals for the broker: try again, give up, or have a person change the
//! configuration.
//!
//! Only the service's error code decides. Its message is shown to people on one line; STS and IAM
//! never repeat secrets in it.

use taskpass_core::is_hidden;
use taskpass_provider::ProviderError;

/// Characters of AWS's own message that are passed on.
const MESSAGE_CHARS_MAX: usize = 300;
/// Longer error codes are not AWS's.
const CODE_BYTES_MAX: usize = 80;

/// The error for a refusal of `action`, such as "AssumeRole of `arn`", with AWS's status, code
/// and message.
pub(crate) fn refused(action: &str, status: u16, code: &str, message: &str) -> ProviderError {
    let said = one_line(message);
    // A code is a word. Any other text did not come from AWS and must not get into logs.
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
            "{text}; the configured credentials are not valid: replace them"
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
        // Throttling has a dozen codes, an overloaded service any 5xx. An unknown code does not
        // promise that nothing was minted.
        _ => ProviderError::retryable(text),
    }
}

/// No connection, or no answer at all, which no role or agent is to blame for. AWS may have carried
/// out the call.
pub(crate) fn not_reached(action: &str, reason: &str) -> ProviderError {
    ProviderError::Unreachable(format!("{action} got no usable answer: {reason}"))
}

/// No answer, or an unreadable one: AWS may have carried out the call.
pub(crate) fn no_answer(action: &str, reason: &str) -> ProviderError {
    ProviderError::retryable(format!("{action} got no usable answer: {reason}"))
}

/// The call was not sent, because the broker's own credentials are missing.
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

/// An error and its causes, on one line.
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
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if is_hidden(c) { ' ' } else { c })
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
