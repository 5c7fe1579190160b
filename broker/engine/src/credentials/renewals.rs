//! Which credentials are just being renewed.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use taskpass_core::CredentialId;
use tokio_util::sync::CancellationToken;

/// Credentials that are being renewed, one renewal of each at a time. The answers of two could be
/// recorded in another order than the provider executed them, and the ledger would let a credential
/// expire that lives on.
#[derive(Debug, Default)]
pub(crate) struct Renewals(Arc<Mutex<HashMap<CredentialId, CancellationToken>>>);

impl Renewals {
    /// Begins a renewal; `None` while another runs.
    pub(super) fn begin(&self, credential: CredentialId) -> Option<Renewing> {
        let renewals = Arc::clone(&self.0);
        {
            let mut running = renewals.lock();
            if running.contains_key(&credential) {
                return None;
            }
            running.insert(credential, CancellationToken::new());
        }
        Some(Renewing {
            renewals,
            credential,
        })
    }

    /// Ends when the renewal that runs now is over. Returns whether there was one.
    pub(super) async fn over(&self, credential: CredentialId) -> bool {
        let running = self.0.lock().get(&credential).cloned();
        match running {
            Some(running) => {
                running.cancelled().await;
                true
            }
            None => false,
        }
    }
}

/// A running renewal; it is over on drop.
#[derive(Debug)]
pub(super) struct Renewing {
    renewals: Arc<Mutex<HashMap<CredentialId, CancellationToken>>>,
    credential: CredentialId,
}

impl Drop for Renewing {
    fn drop(&mut self) {
        let over = self.renewals.lock().remove(&self.credential);
        if let Some(over) = over {
            over.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use taskpass_core::Timestamp;

    use super::*;

    #[test]
    fn one_renewal_of_a_credential_at_a_time() {
        let (renewals, id) = (
            Renewals::default(),
            CredentialId::first_at(Timestamp::EPOCH),
        );
        let running = renewals.begin(id);
        assert!(running.is_some());
        assert!(renewals.begin(id).is_none());
        let other = CredentialId::first_at(Timestamp::from_millis(1));
        assert!(renewals.begin(other).is_some());
        drop(running);
        assert!(renewals.begin(id).is_some());
    }
}
