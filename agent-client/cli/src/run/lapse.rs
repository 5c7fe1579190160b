//! Credentials that expire while the command runs. Its environment cannot be given fresh ones.

use std::{cmp::Reverse, time::Duration};

use taskpass_client::IssuedCredential;
use taskpass_core::{RoleName, Timestamp};
use tokio::time::{Instant, sleep_until};

use crate::output::note;

/// A credential that expires less than this before its task's deadline is not worth a word. Back
/// ends count lifetimes in whole seconds, and issuing takes a moment after the start of the task.
const ROUNDING_MAX: Duration = Duration::from_secs(5);

/// The credentials that end before the task, the next one last.
pub(super) struct Lapses(Vec<(Instant, RoleName)>);

impl Lapses {
    pub(super) fn of(issued: &[IssuedCredential], deadline: Timestamp) -> Self {
        let early = issued
            .iter()
            .filter(|credential| credential.expires_at.plus(ROUNDING_MAX) < deadline);
        let lapse = |credential: &IssuedCredential| {
            let life = credential.expires_at.since(credential.received_at);
            (Instant::now() + life, credential.role.clone())
        };
        let mut lapses: Vec<_> = early.map(lapse).collect();
        lapses.sort_by_key(|(when, _)| Reverse(*when));
        Self(lapses)
    }

    /// Says so before the command starts: a person who gave the task a life expects the credentials
    /// to last as long.
    pub(super) fn warn(&self, deadline: Timestamp) {
        for (_, role) in &self.0 {
            note(&format!(
                "warning: the credential of `{role}` expires before the task does at {deadline}; the command cannot get a fresh one"
            ));
        }
    }

    /// Waits until a credential has expired, and says so. Never returns when none will.
    pub(super) async fn next(&mut self) {
        let Some((when, role)) = self.0.last() else {
            return std::future::pending().await;
        };
        sleep_until(*when).await;
        note(&format!(
            "warning: the credential of `{role}` has expired; the command runs on without it (a --ttl within what the role allows ends the task in time)"
        ));
        self.0.pop();
    }
}
