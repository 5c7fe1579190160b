//! Delivery of a secret: if the secret does not reach the transport, the broker revokes the
//! credential.
//!
//! A secret counts as delivered once the transport has taken the whole reply. The broker cannot see
//! a loss after that, in the kernel's buffers or on the wire. Such a credential is revoked with its
//! task, or by the caller, who learns its id by repeating the request.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use taskpass_core::CredentialId;
use tokio::runtime::Handle;

use crate::Engine;

/// Travels with a secret to the transport. Dropped without [`Delivery::confirm`], it revokes the
/// credential.
pub struct Delivery {
    engine: Arc<Engine>,
    credential: CredentialId,
    /// The runtime to work on: a connection, and this with it, is dropped on any thread.
    runtime: Handle,
    is_confirmed: AtomicBool,
}

impl Delivery {
    /// For a credential that was just issued. Must be called on the runtime.
    pub(crate) fn new(engine: &Arc<Engine>, credential: CredentialId) -> Self {
        Self {
            engine: Arc::clone(engine),
            credential,
            runtime: Handle::current(),
            is_confirmed: AtomicBool::new(false),
        }
    }

    /// The transport has the whole reply.
    pub fn confirm(&self) {
        self.is_confirmed.store(true, Ordering::Release);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.is_confirmed.load(Ordering::Acquire) {
            return;
        }
        let (engine, credential) = (Arc::clone(&self.engine), self.credential);
        let revoking = async move { engine.revoke_undelivered(credential).await };
        self.engine.context.tasks.spawn_on(revoking, &self.runtime);
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.credential).finish()
    }
}
