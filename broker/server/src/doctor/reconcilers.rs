//! The reconcilers of the broker that runs, if one does, and its open breakers.

use std::{io::ErrorKind, path::Path};

use taskpass_core::with_sources;

use super::Diagnosis;
use crate::{
    observe::reconciler::ReconcilerReport,
    reload::{AskError, look, look_at_breakers},
};

const CHECK: &str = "reconcilers";

/// No broker runs with the data directory.
#[derive(Debug)]
pub(super) struct NoBroker;

/// Asks the broker. Without one there is nothing to ask, and nothing wrong.
pub(super) async fn check(data_dir: &Path, diagnosis: &mut Diagnosis) {
    if let Err(NoBroker) = ask(data_dir, diagnosis).await {
        let message = "no broker runs with this data directory, so there are none";
        diagnosis.ok(CHECK, message);
    }
}

/// Asks the broker, if one runs.
pub(super) async fn ask(data_dir: &Path, diagnosis: &mut Diagnosis) -> Result<(), NoBroker> {
    let unknown = match look(data_dir).await {
        Ok(reports) => {
            judge(reports, diagnosis);
            breakers(data_dir, diagnosis).await;
            return Ok(());
        }
        Err(AskError::NotRunning { source, .. })
            if matches!(
                source.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(NoBroker);
        }
        Err(AskError::NoAnswer(source)) => format!("the broker does not answer: {source}"),
        Err(error @ AskError::NotRunning { .. }) => with_sources(&error),
    };
    let advice = "run `taskpassd doctor` as the user of the broker; if this is that user, look at the broker's log";
    diagnosis.warn(CHECK, unknown, advice);
    Ok(())
}

/// Open breakers close by themselves. A broker of an earlier release does not know the question.
async fn breakers(data_dir: &Path, diagnosis: &mut Diagnosis) {
    for open in look_at_breakers(data_dir).await.unwrap_or_default() {
        let check = format!("breaker {}", open.provider);
        let advice = format!(
            "find why with `taskpass provider check {}` and in the broker's log; issuing goes on by itself",
            open.provider
        );
        diagnosis.warn(&check, &open, &advice);
    }
}

/// A reconciler tries again for ever, so a failure is no more than a warning. What it has to do is
/// left undone meanwhile.
fn judge(reports: Vec<ReconcilerReport>, diagnosis: &mut Diagnosis) {
    for report in &reports {
        let check = format!("reconciler {}", report.name);
        if report.fails() {
            let advice = "mend what the error names; the broker tries again by itself, and its log has each attempt";
            diagnosis.warn(&check, report, advice);
        } else {
            diagnosis.ok(&check, report);
        }
    }
    diagnosis.reconcilers = Some(reports);
}
