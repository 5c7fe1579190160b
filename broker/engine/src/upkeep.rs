//! What the broker does on its own account: it takes no input, only looks at what is and does what is due.
//! Every step is idempotent and is found again after a crash.

use std::time::Duration;

use taskpass_ca::CaStep;
use taskpass_core::{
    Actor, CredentialId, CredentialState, EndCause, Event, RevocationClass, RevokeCause, Timestamp,
};
use taskpass_store::Revocations;

use crate::failpoint;

use super::{Engine, Error};

/// Rows of each kind that are looked at in one round; what is over comes in the next.
const WORK_ROWS_MAX: usize = 1024;

impl Engine {
    /// What is to be taken back now.
    ///
    /// Where only one of them may try, chance decides whether it is the one that is due longest or one that failed
    /// least: what fails for ever keeps nobody waiting, and who fails anew each time jumps no queue.
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

    /// Ends tasks whose time is over or that fell silent, takes up interrupted intents, notes what has expired and
    /// what is done. Returns when to look again at the latest. One thing that cannot be done holds up no other.
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
            note(&mut failed, self.take_up(*credential).await)?;
        }
        for credential in &work.expired_credentials {
            note(&mut failed, self.expire(*credential).await)?;
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
        Ok([work.next.map(until), next_silent]
            .into_iter()
            .flatten()
            .min())
    }

    /// An intent without outcome and without a running call: the broker was killed in between, or the ledger could
    /// not take the outcome. Whether the provider minted it is unknown, so it is revoked.
    async fn take_up(&self, credential: CredentialId) -> Result<(), Error> {
        if self.in_flight.contains(credential) {
            return Ok(());
        }
        // The call may have left with its outcome recorded since the work was listed.
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

    /// Its end came. Where the provider gave more than was asked for, or may yet carry out a renewal that failed here,
    /// it is told to end it now. A static secret has no end: it is taken back as far as that goes, and the receipt says so.
    async fn expire(&self, id: CredentialId) -> Result<(), Error> {
        let Some(credential) = self.context.store.credential(id).await? else {
            return Ok(());
        };
        if credential.state != CredentialState::Active {
            return Ok(());
        }
        let lives_on = credential.expires_at > self.now() || credential.renewals_unanswered > 0;
        let event = if lives_on || credential.revocation_class == RevocationClass::None {
            Event::CredentialRevoking {
                credential: id,
                cause: RevokeCause::Expired,
                by: Actor::Broker,
            }
        } else {
            Event::CredentialExpired { credential: id }
        };
        self.commit_reserved(vec![event], Vec::new())
            .await
            .map(|_| ())
    }

    /// Ends when something changed that reconcilers may have to act on.
    pub(crate) async fn changed(&self, changes: &mut tokio::sync::watch::Receiver<u64>) {
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = self.in_flight.one_left() => {}
        }
    }

    /// Moves the certificate authority's keys one step where that is due, and records it.
    pub async fn rotate_authority(&self) -> Result<Timestamp, Error> {
        let authority = std::sync::Arc::clone(&self.context.authority);
        // Key generation and file syncs: off the async threads.
        let steps = tokio::task::spawn_blocking(move || authority.rotate())
            .await
            .map_err(|e| Error::Authority(e.to_string()))?
            .map_err(|e| Error::Authority(e.to_string()))?;
        if !steps.is_empty() {
            failpoint::reached("rotate.moved");
            let events = steps.into_iter().map(ca_changed).collect();
            self.commit_reserved(events, Vec::new()).await?;
        }
        Ok(self.context.authority.next_rotation_at())
    }

    /// Records where every authority stands. At each start, since a broker that was killed between a step and its
    /// record left the ledger one step behind.
    pub async fn record_authorities(&self) -> Result<(), Error> {
        let events = self
            .context
            .authority
            .authorities()
            .into_iter()
            .map(ca_changed)
            .collect();
        self.commit_reserved(events, Vec::new()).await.map(|_| ())
    }
}

/// Keeps the first failure for later. Only a full disk, which everything else would meet as well, is returned at once.
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

fn ca_changed(step: CaStep) -> Event {
    Event::CaChanged {
        serial: step.serial,
        stage: step.stage.as_str().to_owned(),
        not_after: step.not_after,
        certificate_sha256: step.certificate_sha256,
    }
}
