//! The readers' side of the sequencer: the durable state, and a signal when it changes.

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::state::State;

/// The state that readers see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    /// Whether the log has refused an append for good, or an index that failed has room again.
    pub(crate) broken: watch::Sender<bool>,
    listeners: Mutex<Vec<watch::Sender<u64>>>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state: RwLock::new(state),
            broken: watch::Sender::new(false),
            listeners: Mutex::default(),
        }
    }

    /// Tells listeners the number of durable entries.
    pub(crate) fn tell(&self, size: u64) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| !listener.is_closed());
        for listener in &*listeners {
            listener.send_replace(size);
        }
    }

    /// Listens to the number of durable entries. Each listener has a channel of its own, so that
    /// they wake in the order in which they began to listen: a shared channel leaves that to
    /// chance, and a simulation repeats itself exactly.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        let mut listeners = self.listeners.lock();
        let listener = watch::Sender::new(self.state.read().next());
        let receiver = listener.subscribe();
        listeners.push(listener);
        receiver
    }
}
