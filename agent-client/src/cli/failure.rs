//! From an error to what the person sees and to the exit code, which scripts rely on.

use std::process::ExitCode;

use taskpass_client::Error;

use super::output::note;

/// It did not work.
pub(crate) const FAILED: u8 = 1;
/// The arguments cannot be right; clap uses the same code.
const USAGE: u8 = 2;
/// The broker said no.
const DENIED: u8 = 3;
/// No answer from the broker.
const UNREACHABLE: u8 = 5;

/// Arguments that are wrong together, which clap cannot know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Prints the error, what was wrong with which field, and what to do next.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    note(&format!("error: {}", in_one_line(error)));
    let cause = error.downcast_ref::<Error>();
    for (field, description) in cause
        .and_then(Error::refusal)
        .map(|refusal| refusal.violations.as_slice())
        .unwrap_or_default()
    {
        note(&format!("  {field}: {description}"));
    }
    if let Some(next) = cause.and_then(next_step) {
        note(&format!("try: {next}"));
    }
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return USAGE;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Invalid(_)) => USAGE,
        Some(cause) if cause.is_denied() => DENIED,
        Some(cause) if cause.is_unavailable() => UNREACHABLE,
        _ => FAILED,
    }
}

/// The error and its causes; no cause is repeated.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

fn next_step(error: &Error) -> Option<&'static str> {
    match error {
        Error::NoIdentity { .. } | Error::IdentityExpired { .. } | Error::Rejected { .. } => Some(
            "taskpass login --join-token-file FILE (an operator makes it with `taskpass agent token NAME`)",
        ),
        Error::Unreachable { .. } | Error::Timeout { .. } | Error::Untrusted { .. } => {
            Some("taskpass doctor")
        }
        Error::TaskEnded { .. } => Some("taskpass task list"),
        Error::Refused(refusal) => {
            let begins = |prefix: &str| refusal.reason.starts_with(prefix);
            if begins("TASK_") {
                Some("taskpass task list")
            } else if begins("CREDENTIAL_") {
                Some("taskpass credential list")
            } else if begins("ROLE_") || begins("PROVIDER_") {
                Some("taskpass provider list")
            } else if begins("AGENT_") {
                Some("taskpass agent list")
            } else if refusal.reason == "DENIED" || begins("POLICY_") {
                Some("taskpass policy show")
            } else {
                None
            }
        }
        _ => None,
    }
}
