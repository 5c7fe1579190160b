//! The reconcilers of the broker that runs, if one does.

use std::{io::ErrorKind, path::Path};

use taskpass_core::with_sources;

use super::Diagnosis;
use crate::{
    observe::reconciler::ReconcilerReport,
    reload::{AskError, look},
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
