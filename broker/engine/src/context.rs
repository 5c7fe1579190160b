//! The context: the parts that the engine works with for the whole life of the process.

use std::sync::Arc;

use taskpass_ca::Authority;
use taskpass_core::{Clock, Entropy, TrustDomain};
use taskpass_ledger::{Reader, RootsSigner};
use taskpass_metrics::Metrics;
use taskpass_store::Store;
use tokio_util::task::TaskTracker;

use crate::{Attestors, Connections, Timer};

/// The parts that the engine works with. Everything that can change at run time is in the
/// [`Snapshot`](super::Snapshot).
#[derive(Debug)]
pub struct Context {
    /// The installation's trust domain.
    pub trust_domain: TrustDomain,
    /// State and ledger.
    pub store: Arc<dyn Store>,
    /// The history, for export and proofs.
    pub ledger: Reader,
    /// Signs the roots with the ledger's key, and has its public half.
    pub roots_signer: RootsSigner,
    /// Signs SVIDs.
    pub authority: Arc<Authority>,
    /// The attestors, which verify the evidence of agents.
    pub attestors: Attestors,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Waiting.
    pub timer: Arc<dyn Timer>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The open connections of agents.
    pub connections: Arc<dyn Connections>,
    /// Counts the committed events.
    pub metrics: Arc<Metrics>,
    /// Where background work is spawned, so that draining waits for it.
    pub tasks: TaskTracker,
}
