//! Work of the broker itself: the reaper takes no input, looks at the state, and takes the steps
//! that are due. Every step is idempotent and is found again after a crash.

#[cfg(test)]
mod tests;

use std::time::Duration;

use taskpass_core::{
    Actor, CredentialId, CredentialState, EndCause, Event, RevokeCause, Timestamp,
};
use taskpass_store::Revocations;

use crate::{
    Engine, Error,
    credentials::{AtEnd, at_end},
    failpoint,
};

/// Rows of each kind that one round looks at; the rest comes in the next.
const WORK_ROWS_MAX: usize = 1024;

impl Engine {
    /// The revocations that are due now.
    ///
    /// In an outage only one revocation may try. Chance decides between the longest due and the
    /// fewest failures: a revocation that always fails then blocks no other, and a stream of new
    /// failures does not block the oldest.
    pub(crate) async fn revocations(&self) -> Result<Revocations, Error> {
        let mut revocations = self
            .context
            .store
            .revocations(self.now(), WORK_ROWS_MAX)
            .await?;
        if self.context.entropy.next_u64()? & 1 == 0 {
            revocations.due.sort_by_key(|due| due.attempts);
        }
        Ok(revocations)
    }

    /// Ends tasks past their deadline or without heartbeat, revokes interrupted credentials, and
    /// records which credentials have expired and which tasks have ended. Returns when to look
    /// again at the latest. One failure does not hold up the rest.
    pub(crate) async fn reap(&self) -> Result<Option<Duration>, Error> {
        let work = self.context.store.work(self.now(), WORK_ROWS_MAX).await?;
        let mut failed = None;
        for task in &work.overdue_tasks {
            let ended = self.end_by_broker(*task, EndCause::Deadline).await;
            note(&mut failed, ended)?;
        }
        let (silent, next_silent) = self.silent_tasks();
        for task in silent {
            tracing::info!(%task, "no heartbeat came in time; the task ends");
            let ended = self.end_by_broker(task, EndCause::HeartbeatLost).await;
            note(&mut failed, ended)?;
        }
        for credential in &work.interrupted {
            note(&mut failed, self.revoke_interrupted(*credential).await)?;
        }
        let mut ends_in = None;
        for credential in &work.expired_credentials {
            match self.expire(*credential).await {
                Ok(None) => {}
                Ok(Some(left)) => ends_in = Some(ends_in.map_or(left, |least| left.min(least))),
                Err(error) => note(&mut failed, Err(error))?,
            }
        }
        for task in &work.ending_tasks {
            let ended = self
                .commit_reserved(vec![Event::TaskEnded { task: *task }], Vec::new())
                .await;
            failpoint::reached("end.recorded");
            note(&mut failed, ended.map(drop))?;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let until = |at: Timestamp| at.since(self.now());
        Ok([work.next.map(until), next_silent, ends_in]
            .into_iter()
            .flatten()
            .min())
    }

    /// Revokes a credential that has an intent, no outcome and no running call: the broker was
    /// killed in between, or the ledger could not take the outcome. Whether the provider minted it
    /// is unknown.
    async fn revoke_interrupted(&self, credential: CredentialId) -> Result<(), Error> {
        if self.in_flight.contains(credential) {
            return Ok(());
        }
        // The call may have ended, with its outcome on record, since the work was listed.
        let recorded = self.context.store.credential(credential).await?;
        if recorded.is_none_or(|c| c.state != CredentialState::Intended) {
            return Ok(());
        }
        let event = Event::CredentialRevoking {
            credential,
            cause: RevokeCause::OutcomeUnknown,
            by: Actor::Broker,
        };
        self.commit_reserved(vec![event], Vec::new())
            .await
            .map(|_| ())
    }

    /// Ends a credential at its end by the wall clock: calls it expired if the monotonic clock
    /// agrees, and else has the provider revoke it as far as possible. Returns how long to wait if
    /// the monotonic clock is about to agree.
    async fn expire(&self, id: CredentialId) -> Result<Option<Duration>, Error> {
        let Some(credential) = self.context.store.credential(id).await? else {
            return Ok(None);
        };
        if credential.state != CredentialState::Active {
            return Ok(None);
        }
        let left = self.lives.left(id, self.context.clock.monotonic());
        let event = match at_end(&credential, self.now(), left) {
            AtEnd::Wait(left) => return Ok(Some(left)),
            AtEnd::CallExpired => Event::CredentialExpired { credential: id },
            AtEnd::Revoke => Event::CredentialRevoking {
                credential: id,
                cause: RevokeCause::Expired,
                by: Actor::Broker,
            },
        };
        self.commit_reserved(vec![event], Vec::new()).await?;
        Ok(None)
    }

    /// Ends when something changed that reconcilers may have to act on.
    pub(crate) async fn changed(&self, changes: &mut tokio::sync::watch::Receiver<u64>) {
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = self.in_flight.one_ended() => {}
        }
    }
}

/// Keeps the first failure for later. A full disk would stop everything else as well, and is
/// returned at once.
fn note(failed: &mut Option<Error>, done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::DiskFull) => Err(Error::DiskFull),
        Err(error) => {
            failed.get_or_insert(error);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
