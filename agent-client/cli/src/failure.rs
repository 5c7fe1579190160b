//! From an error to the message for the person and to the exit code, which scripts rely on.

use std::process::ExitCode;

use taskpass_client::Error;

use super::{context::Context, output::note};

/// The command failed.
pub(crate) const FAILED: u8 = 1;
/// The arguments cannot be right; clap uses the same code.
const USAGE: u8 = 2;
/// The broker said no.
const DENIED: u8 = 3;
/// The broker did not answer.
const UNREACHABLE: u8 = 5;
/// The broker shows another ledger than the one this identity knows.
const OTHER_LEDGER: u8 = 6;

/// Arguments that are wrong together, which clap cannot know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Prints the error, each field with its mistake, the id of the request, and the next step.
pub(crate) fn report(error: &anyhow::Error, context: &Context) -> ExitCode {
    note(&format!("error: {}", in_one_line(error)));
    let cause = error.downcast_ref::<Error>();
    if let Some(refusal) = cause.and_then(Error::refusal) {
        for (field, description) in &refusal.violations {
            if *description == refusal.message {
                note(&format!("  field: {field}"));
            } else {
                note(&format!("  {field}: {description}"));
            }
        }
    }
    if let Some(id) = cause.and_then(Error::request_id) {
        note(&format!("request {id} in the broker's log"));
    }
    if let Some(next) = cause.and_then(|cause| next_step(cause, context)) {
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
        Some(cause) if cause.is_other_ledger() => OTHER_LEDGER,
        _ => FAILED,
    }
}

/// The error and its causes, without repetitions.
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

/// The next command when the broker shows another ledger. A person decides first: adopting the key
/// that the broker shows would make pinning it useless.
pub(crate) const ACCEPT_KEY: &str = "taskpass ledger accept-key VKEY, after a person has compared the key with `operator/ledger.vkey` on the broker's machine and knows why the history changed; until then keep `ledger.checkpoint` for an auditor";

/// The next command for this caller. Agents may see neither policies nor providers.
fn next_step(error: &Error, context: &Context) -> Option<String> {
    const LOGIN: &str = "taskpass login --join-token-file FILE (an operator makes it with `taskpass agent token NAME`)";
    const FIRST_LOGIN: &str = "taskpass login --join-token-file FILE (an operator makes it with `taskpass agent token NAME`); as an operator, set TASKPASS_IDENTITY to your own directory, such as the `operator` that `taskpassd init` made";
    const OPERATOR_LOGIN: &str =
        "taskpassd operator issue NAME on the broker's machine, with the broker stopped";
    let by_kind = |operator: &str, agent: &str| {
        let step = if context.is_operator() {
            operator
        } else {
            agent
        };
        Some(step.to_owned())
    };
    match error {
        Error::NoIdentity { .. } => Some(FIRST_LOGIN.to_owned()),
        Error::IdentityExpired { .. } | Error::Rejected { .. } => by_kind(OPERATOR_LOGIN, LOGIN),
        Error::OtherIdentity { holder, .. } => Some(format!(
            "taskpass login --identity DIR … for a directory of its own (TASKPASS_IDENTITY names one too), or --replace to give up `{holder}`"
        )),
        Error::OtherInstallation { holder, .. } => Some(format!(
            "taskpass login --identity DIR … for a directory of its own, or --replace to give up `{holder}` and the ledger it knows"
        )),
        Error::LedgerKeyChanged { .. } | Error::LedgerRewritten { .. } => {
            Some(ACCEPT_KEY.to_owned())
        }
        Error::Untrusted { .. } => {
            let login = if context.is_operator() {
                OPERATOR_LOGIN
            } else {
                LOGIN
            };
            Some(format!(
                "compare the address (--addr, TASKPASS_ADDR) and ask an operator whether the root was replaced; if it was: {login}"
            ))
        }
        Error::Unreachable { .. } | Error::Timeout { .. } => Some("taskpass doctor".to_owned()),
        Error::TaskEnded { .. } => Some("taskpass task list".to_owned()),
        // The broker has named the next command itself.
        Error::Refused(refusal) if refusal.message.contains("`taskpass ") => None,
        Error::Refused(refusal) => match refusal.reason.as_str() {
            "UNAUTHENTICATED" => by_kind(OPERATOR_LOGIN, LOGIN),
            "DENIED" => by_kind(
                "taskpass policy show",
                "ask an operator, who sees the policies and changes them",
            ),
            "TASK_ENDED" | "LIMIT_EXCEEDED" => Some("taskpass task list --state open".to_owned()),
            "BUDGET_EXCEEDED" => Some(
                "wait until there is room, and look for a loop in the agent; an operator can raise the limit in `taskpass.toml` and run `taskpassd reload`"
                    .to_owned(),
            ),
            reason if reason.starts_with("PROVIDER_") => {
                let provider = refusal.metadata.get("provider")?;
                by_kind(
                    &format!("taskpass provider check {provider}"),
                    &format!(
                        "ask an operator, who sees more with `taskpass provider check {provider}`"
                    ),
                )
            }
            _ => None,
        },
        _ => None,
    }
}
