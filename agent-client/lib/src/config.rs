//! How a client reaches the broker: address, identity directory, clock, randomness and patience.

use std::{path::PathBuf, sync::Arc, time::Duration};

use taskpass_core::{Clock, Entropy, SystemClock, SystemEntropy};

use crate::{BrokerAddr, IdentityDirectory};

/// How long one attempt of an ordinary call may take.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one attempt of a call may take that waits for providers to revoke.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a replaced credential stays usable beside its successor.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(10);

/// Which side renews the SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The client, at two thirds of the SVID's life, as long as a [`crate::Client`] exists.
    Background,
    /// The caller, with [`crate::Client::renew_svid`].
    OnDemand,
}

/// How to reach the broker, and with which identity.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where the broker listens.
    pub addr: BrokerAddr,
    /// Where the identity is kept.
    pub directory: IdentityDirectory,
    /// Judges certificates and expiries.
    pub clock: Arc<dyn Clock>,
    /// Makes idempotency keys and jitter. Private keys never depend on it.
    pub entropy: Arc<dyn Entropy>,
    /// Which side renews the SVID.
    pub renewal: Renewal,
    /// How long a replaced credential is not revoked yet, for requests that already carry it.
    pub overlap: Duration,
}

impl ClientConfig {
    /// The broker at `addr`, the identity in `directory`, the machine's clock and randomness,
    /// renewal in the background.
    pub fn new(addr: BrokerAddr, directory: impl Into<PathBuf>) -> Self {
        Self {
            addr,
            directory: IdentityDirectory::new(directory),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy::new()),
            renewal: Renewal::Background,
            overlap: OVERLAP_DEFAULT,
        }
    }
}
