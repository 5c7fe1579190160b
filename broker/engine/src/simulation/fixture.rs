//! Keys, policy and a ledger to point at: slow to make and never changed, so all histories of one
//! test share them.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_ca::{Authority, NewKey, PublicKey};
use taskpass_core::{
    Clock, ClockDoubt, Entropy, EntropyError, SeededEntropy, Timestamp, TrustDomain,
};
use taskpass_ledger::{Ledger, Options, Reader, RootsSigner, SigningKey};
use taskpass_policy::{PolicySet, StarterOptions, starter_policy};

use super::time::SimTime;
use crate::testing::grants;

#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) domain: TrustDomain,
    pub(super) authority: Arc<Authority>,
    pub(super) policy: Arc<PolicySet>,
    pub(super) reader: Reader,
    pub(super) roots_signer: RootsSigner,
    pub(super) csr: Vec<u8>,
    pub(super) current: Arc<Current>,
    _dir: tempfile::TempDir,
}

/// Time and randomness of the history that runs.
#[derive(Debug)]
pub(super) struct Current(Mutex<(Arc<SimTime>, Arc<SeededEntropy>)>);

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let begin = (Arc::default(), Arc::new(SeededEntropy::new(0)));
        let current = Arc::new(Current(Mutex::new(begin)));
        let domain: TrustDomain = "acme.test".parse().unwrap();
        let authority = Authority::create(
            &dir.path().join("ca"),
            taskpass_ca::Deps {
                trust_domain: domain.clone(),
                config: taskpass_ca::Config::default(),
                clock: Arc::<Current>::clone(&current),
                entropy: Arc::<Current>::clone(&current),
                keys: taskpass_ca::KeyFiles::plain(),
            },
        )
        .unwrap();
        authority.rotate().unwrap();
        let key_path = dir.path().join("ledger.key");
        let key = SigningKey::generate("taskpass/acme.test", &key_path, current.as_ref()).unwrap();
        let (ledger, _) = Ledger::open(&dir.path().join("ledger"), Options::new(key)).unwrap();
        let admin = "admin".parse().unwrap();
        let starter = starter_policy(&StarterOptions { admin: &admin });
        Self {
            domain,
            authority: Arc::new(authority),
            policy: Arc::new(PolicySet::parse(&[starter, grants()]).unwrap()),
            reader: ledger.reader(),
            roots_signer: ledger.roots_signer(),
            csr: NewKey::generate().unwrap().csr_der().unwrap(),
            current,
            _dir: dir,
        }
    }
}

impl Fixture {
    /// The key in [`Fixture::csr`].
    pub(super) fn key(&self) -> PublicKey {
        PublicKey::from_csr(&self.csr).unwrap()
    }
}

impl Current {
    pub(super) fn is_now(&self, time: &Arc<SimTime>, entropy: &Arc<SeededEntropy>) {
        *self.0.lock() = (Arc::clone(time), Arc::clone(entropy));
    }
}

impl Clock for Current {
    fn now(&self) -> Timestamp {
        Clock::now(self.0.lock().0.as_ref())
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().0.monotonic()
    }

    fn doubt(&self) -> Option<ClockDoubt> {
        self.0.lock().0.doubt()
    }
}

impl Entropy for Current {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        self.0.lock().1.fill(bytes)
    }
}
