//! Handing a secret over. Whoever drops it on the way has its credential revoked: nobody holds what nobody was given.
//!
//! It counts as handed over once the transport has taken the whole reply. What is lost after that, in the kernel's
//! buffers or on the wire, nobody here can see; such a credential ends with its task, or when the caller repeats the
//! request and is told its id.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use taskpass_core::CredentialId;
use tokio::runtime::Handle;

use super::Engine;

/// Goes with a secret to the transport. Dropped without [`Handover::done`], it takes the credential back.
pub struct Handover {
    engine: Arc<Engine>,
    credential: CredentialId,
    /// Where to work when dropped: connections are dropped anywhere.
    runtime: Handle,
    done: AtomicBool,
}

impl Handover {
    /// For a credential that was just issued. Must be called on the runtime.
    pub(super) fn new(engine: &Arc<Engine>, credential: CredentialId) -> Self {
        Self {
            engine: Arc::clone(engine),
            credential,
            runtime: Handle::current(),
            done: AtomicBool::new(false),
        }
    }

    /// The transport has the whole reply.
    pub fn done(&self) {
        self.done.store(true, Ordering::Release);
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if self.done.load(Ordering::Acquire) {
            return;
        }
        let (engine, credential) = (Arc::clone(&self.engine), self.credential);
        let taking_back = async move { engine.take_back(credential).await };
        self.engine
            .context
            .tasks
            .spawn_on(taking_back, &self.runtime);
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handover").field(&self.credential).finish()
    }
}
