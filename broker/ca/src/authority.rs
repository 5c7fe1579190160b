//! The authority itself: opens the keys, signs, rotates.
//!
//! Signing reads one snapshot without a lock. Rotation holds a lock of its own. It changes the disk
//! first and then replaces the snapshot, so an authority never signs unless it would be known after
//! a restart.

mod loaded;
mod replacement;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, ServerName};
use taskpass_core::{
    Clock, Digest, Entropy, Identity, OperatorName, RootNumber, RootStage, Timestamp, TrustDomain,
    Ttl, limits, sha256_hex,
};
use taskpass_seal::KeyFiles;

use crate::{
    Bundle, CaRecord, CaStep, Error, NewKey, PeerVerifier, PublicKey, Stage,
    custody::Custody,
    pem,
    rotation::{self, Move},
    state::{STATE, State},
    template::{self, LeafOrder, Serial, Tier, Validity},
};
use loaded::{ROOT_CERTIFICATE, Root, Signer, Snapshot, adopt_first_root, issuer};

pub use replacement::RootActivated;

/// More moves than rotation ever needs at once. Reaching it means that rotation goes in circles.
const MOVES_AT_ONCE_MAX: usize = 64;

/// Lifetimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The longest, and usual, life of an X.509-SVID; 1 h. At most a sixth of `ca_ttl`.
    pub svid_ttl: Ttl,
    /// The life of an issuing authority; 24 h.
    pub ca_ttl: Ttl,
    /// The life of a root; 3,650 days. Used when one is made.
    pub root_ttl: Duration,
    /// The life of an operator's X.509-SVID; 30 days.
    pub operator_ttl: Ttl,
}

impl Config {
    /// Checks that the lifetimes fit together.
    pub fn new(svid_ttl: Ttl, ca_ttl: Ttl, root_ttl: Duration) -> Result<Self, Error> {
        let config = Self {
            svid_ttl,
            ca_ttl,
            root_ttl,
            ..Self::default()
        };
        config.check().map(|()| config)
    }

    /// The same with another life of an operator's X.509-SVID.
    #[must_use]
    pub const fn with_operator_ttl(self, operator_ttl: Ttl) -> Self {
        Self {
            operator_ttl,
            ..self
        }
    }

    fn check(&self) -> Result<(), Error> {
        // An authority signs until a sixth of its life is left. An SVID that may live longer would
        // be cut short.
        let longest = self.ca_ttl.seconds() / 6;
        if self.svid_ttl.seconds() > longest {
            return Err(Error::Config(format!(
                "svid_ttl `{}` is more than a sixth of ca_ttl `{}`; use at most {longest}s, or a longer ca_ttl",
                self.svid_ttl, self.ca_ttl
            )));
        }
        if self.root_ttl <= self.ca_ttl.duration() {
            return Err(Error::Config(format!(
                "the root's life of {}s is not longer than ca_ttl `{}`",
                self.root_ttl.as_secs(),
                self.ca_ttl
            )));
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        let ttl = |seconds| Ttl::from_seconds(seconds).unwrap_or(Ttl::MAX);
        Self {
            svid_ttl: ttl(3600),
            ca_ttl: ttl(24 * 3600),
            root_ttl: Duration::from_secs(3650 * 24 * 3600),
            operator_ttl: ttl(limits::OPERATOR_SVID_SECONDS_DEFAULT),
        }
    }
}

/// The parts that may differ from one X.509-SVID to the next.
#[derive(Debug, Clone, Default)]
pub struct IssueOptions {
    /// The lifetime; at most `svid_ttl`, which is also the default.
    pub ttl: Option<Ttl>,
    /// DNS names and IP addresses; for a broker's own certificate only.
    pub server_names: Vec<ServerName<'static>>,
}

/// A signed X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The leaf and, unless the root signed it, the issuing authority, in the order that TLS wants.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// The leaf's serial number as 32 hex digits.
    pub serial: String,
    /// From when it is valid: a little before it was made.
    pub not_before: Timestamp,
    /// Until when it is valid; it may be sooner than was asked for.
    pub not_after: Timestamp,
    /// SHA-256 of the certified public key (SubjectPublicKeyInfo), in hex.
    pub key_sha256: String,
    /// The number of the root that it hangs on.
    pub root: RootNumber,
}

impl Issued {
    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain_der.iter().map(pem::certificate).collect()
    }
}

/// The parts that an authority works with, besides its directory.
#[derive(Clone)]
pub struct Deps {
    /// Names everything that is signed.
    pub trust_domain: TrustDomain,
    /// Lifetimes.
    pub config: Config,
    /// The time of signatures and rotations.
    pub clock: Arc<dyn Clock>,
    /// Serial numbers.
    pub entropy: Arc<dyn Entropy>,
    /// How private keys lie on the disk.
    pub keys: KeyFiles,
}

/// The state that rotation believes in, and how far the directory agrees with it.
struct Rotation {
    state: State,
    directory: Directory,
    /// The state of the write that failed.
    attempted: Option<State>,
}

/// How far the directory agrees with the state in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directory {
    /// It holds this state and the files that the state names.
    Swept,
    /// It holds this state, and maybe files that the state does not name: old keys, and leftovers.
    Unswept,
    /// A write of the next state failed: the disk may have the one or the other. Read it again.
    Unsure,
}

/// The certificate authority of one installation. Cheap to share: put it in an `Arc`.
pub struct Authority {
    deps: Deps,
    custody: Custody,
    snapshot: ArcSwap<Snapshot>,
    rotation: Mutex<Rotation>,
}

impl Authority {
    /// Makes a new installation's root in `dir`, which is created with mode 0700.
    ///
    /// Fails when there is an authority already, and replaces the leftovers of an interrupted
    /// attempt. No issuing authority exists before [`Self::rotate`].
    pub fn create(dir: &Path, deps: Deps) -> Result<Self, Error> {
        deps.config.check()?;
        let custody = Custody::create(dir, deps.keys.clone())?;
        // After a replacement the first root's certificate is gone, and the state is there.
        if custody.read(ROOT_CERTIFICATE)?.is_some() || custody.read(STATE)?.is_some() {
            return Err(Error::Exists(dir.into()));
        }
        let made = replacement::make_root(RootNumber::FIRST, &deps)?;
        // The certificate comes last: without it there is no installation, and a key alone has
        // signed nothing.
        made.write(&custody)?;
        Self::with_custody(custody, deps)
    }

    /// Opens the installation in `dir`. Call [`Self::rotate`] before the first signature: after a
    /// long downtime there may be no valid issuing authority.
    pub fn open(dir: &Path, deps: Deps) -> Result<Self, Error> {
        deps.config.check()?;
        let custody = Custody::open(dir, deps.keys.clone())?;
        Self::with_custody(custody, deps)
    }

    fn with_custody(custody: Custody, deps: Deps) -> Result<Self, Error> {
        let mut state = State::load(&custody)?;
        adopt_first_root(&custody, &deps.trust_domain, &mut state)?;
        let snapshot = Snapshot::build(&state, &custody, &deps.trust_domain)?;
        // The keys are read now so that a lost or exposed one is found at the start and not half a
        // day later.
        let signs = |root: &&Root| root.record.stage != RootStage::Outgoing;
        for root in snapshot.roots.iter().filter(signs) {
            root.private_key(&custody)?;
        }
        Ok(Self {
            deps,
            custody,
            snapshot: ArcSwap::from_pointee(snapshot),
            rotation: Mutex::new(Rotation {
                state,
                directory: Directory::Unswept,
                attempted: None,
            }),
        })
    }

    /// Signs an X.509-SVID for `identity` with the active issuing authority. CPU only, lock-free.
    pub fn issue(
        &self,
        identity: &Identity,
        key: &PublicKey,
        options: &IssueOptions,
    ) -> Result<Issued, Error> {
        let now = self.deps.clock.now();
        let snapshot = self.snapshot.load();
        let signer = snapshot.signer.as_ref().ok_or(Error::NoActive(now))?;
        let ttl = options.ttl.unwrap_or(self.deps.config.svid_ttl);
        let ttl = ttl.min(self.deps.config.svid_ttl);
        self.sign(signer, now, identity, key, ttl, &options.server_names)
    }

    /// Signs an identity for an operator with the root itself, so that it outlives the issuing
    /// authorities.
    pub fn issue_operator(&self, name: &OperatorName, key: &PublicKey) -> Result<Issued, Error> {
        let ttl = self.deps.config.operator_ttl;
        let snapshot = self.snapshot.load();
        let root = &snapshot.roots.active;
        let signer = Signer {
            issuer: self.root_issuer(root)?,
            validity: root.validity,
            chain_der: None,
            root: root.record.number,
        };
        let operator = Identity::Operator(name.clone());
        self.sign(&signer, self.deps.clock.now(), &operator, key, ttl, &[])
    }

    fn sign(
        &self,
        signer: &Signer,
        now: Timestamp,
        identity: &Identity,
        key: &PublicKey,
        ttl: Ttl,
        server_names: &[ServerName<'static>],
    ) -> Result<Issued, Error> {
        if now < signer.validity.not_before {
            return Err(Error::ClockWentBack {
                now,
                start: signer.validity.not_before,
            });
        }
        if signer.validity.not_after <= now {
            return Err(Error::NoActive(now));
        }
        if !server_names.is_empty() && !matches!(identity, Identity::Broker(_)) {
            let id = identity
                .spiffe_id(&self.deps.trust_domain)
                .map_err(Error::Name)?;
            return Err(Error::ServerNames(id.to_string()));
        }
        let wanted = validity(now, now.plus(ttl.duration()));
        let order = LeafOrder {
            spiffe_id: &identity
                .spiffe_id(&self.deps.trust_domain)
                .map_err(Error::Name)?,
            server_names,
            key,
            serial: Serial::generate(self.deps.entropy.as_ref())?,
            // A leaf must not be valid outside its signer's own life.
            validity: Validity {
                not_before: wanted.not_before.max(signer.validity.not_before),
                not_after: wanted.not_after.min(signer.validity.not_after),
            },
        };
        let leaf = template::sign_leaf(&order, &signer.issuer)?;
        Ok(Issued {
            chain_der: std::iter::once(leaf)
                .chain(signer.chain_der.clone())
                .collect(),
            serial: order.serial.hex(),
            not_before: order.validity.not_before,
            not_after: order.validity.not_after,
            key_sha256: key.key_sha256(),
            root: signer.root,
        })
    }

    /// Makes the moves that are due and returns the changes, oldest first. Idempotent: call it at
    /// the start, at [`Self::next_rotation_at`], and whenever in doubt. Blocks on the disk.
    ///
    /// If a later move fails, the changes before it are returned, and the next call returns the
    /// error.
    pub fn rotate(&self) -> Result<Vec<CaStep>, Error> {
        let mut rotation = self.rotation.lock();
        self.settle(&mut rotation)?;
        let mut steps = Vec::new();
        match self.make_moves(&mut rotation, &mut steps) {
            Ok(()) => {}
            Err(e) if steps.is_empty() => return Err(e),
            Err(e) => tracing::warn!(error = %e, "rotation is not complete; the next run goes on"),
        }
        self.sweep_or_warn(&mut rotation);
        Ok(steps)
    }

    /// Reads the directory again if it may have another state than memory, and sweeps it.
    fn settle(&self, rotation: &mut Rotation) -> Result<(), Error> {
        if rotation.directory == Directory::Unsure {
            let mut state = State::load(&self.custody)?;
            adopt_first_root(&self.custody, &self.deps.trust_domain, &mut state)?;
            // Nothing else can be there, unless another program wrote it; a start would compare
            // that with the ledger.
            if state != rotation.state && Some(&state) != rotation.attempted.as_ref() {
                let why = "another program has written it since the broker started";
                return Err(loaded::damaged(&self.custody, STATE, why));
            }
            rotation.state = state;
            rotation.directory = Directory::Unswept;
            self.refresh(&rotation.state)?;
        }
        self.sweep(rotation)
    }

    /// Makes `after` durable, and then the state that readers see.
    fn advance(&self, rotation: &mut Rotation, after: State) -> Result<(), Error> {
        self.save(rotation, after)?;
        self.refresh(&rotation.state)
    }

    /// Makes `after` durable.
    fn save(&self, rotation: &mut Rotation, mut after: State) -> Result<(), Error> {
        rotation.directory = Directory::Unsure;
        if let Err(error) = after.save(&self.custody) {
            rotation.attempted = Some(after);
            return Err(error);
        }
        rotation.directory = Directory::Unswept;
        rotation.attempted = None;
        rotation.state = after;
        Ok(())
    }

    fn sweep_or_warn(&self, rotation: &mut Rotation) {
        if let Err(e) = self.sweep(rotation) {
            tracing::warn!(error = %e, "keys that sign no more could not be erased; the next run tries again");
        }
    }

    fn make_moves(&self, rotation: &mut Rotation, steps: &mut Vec<CaStep>) -> Result<(), Error> {
        for _ in 0..MOVES_AT_ONCE_MAX {
            self.refresh(&rotation.state)?;
            let now = self.deps.clock.now();
            let root = self.snapshot.load().roots.active.clone();
            let longest_end = self.longest_end(now, &root);
            let Some(step) = rotation::next_move(&rotation.state, now, longest_end) else {
                break;
            };
            rotation.directory = Directory::Unswept;
            let (mut after, mut changed) = rotation::apply(&rotation.state, &step);
            if step == Move::Prepare {
                let record = self.prepare(now, longest_end, &root)?;
                after.authorities.push(record.clone());
                changed.push(record);
            }
            self.save(rotation, after)?;
            steps.append(&mut changed);
        }
        Ok(())
    }

    /// The latest end that an authority made at `now` under `root` can have.
    fn longest_end(&self, now: Timestamp, root: &Root) -> Timestamp {
        let own = now.plus(self.deps.config.ca_ttl.duration());
        own.min(root.validity.not_after)
    }

    /// Retires every issuing authority that begins after now, for a person who has set the clock
    /// right: no peer takes what such an authority signs. The next [`Self::rotate`] makes another.
    /// A clock that is merely behind must not do this, since it would retire good authorities.
    pub fn retire_future(&self) -> Result<(), Error> {
        let mut rotation = self.rotation.lock();
        let now = self.deps.clock.now();
        let mut after = rotation.state.clone();
        let early = after.authorities.iter_mut();
        for ca in early.filter(|ca| ca.not_before > now) {
            ca.stage = Stage::Retired;
        }
        if after == rotation.state {
            return Ok(());
        }
        self.advance(&mut rotation, after)
    }

    /// Shows readers `state`, which is on the disk already.
    fn refresh(&self, state: &State) -> Result<(), Error> {
        if self.snapshot.load().generation != state.generation {
            let domain = &self.deps.trust_domain;
            let snapshot = Snapshot::build(state, &self.custody, domain)?;
            self.snapshot.store(Arc::new(snapshot));
        }
        Ok(())
    }

    /// Makes key and certificate of a new issuing authority under `root`. Until the state names
    /// them, they are leftovers.
    fn prepare(
        &self,
        now: Timestamp,
        not_after: Timestamp,
        root: &Root,
    ) -> Result<CaRecord, Error> {
        replacement::require_valid(root, now)?;
        let mut validity = validity(now, not_after);
        validity.not_before = validity.not_before.max(root.validity.not_before);
        let serial = Serial::generate(self.deps.entropy.as_ref())?;
        let params =
            template::authority_params(Tier::Issuing, &self.deps.trust_domain, serial, validity)?;
        let key = NewKey::generate()?;
        let certificate = template::sign(&params, key.public_key(), &self.root_issuer(root)?)?;
        template::check_authority(certificate.der(), &self.deps.trust_domain, key.public_key())
            .map_err(Error::Signed)?;
        let record = CaRecord {
            serial: serial.hex(),
            stage: Stage::Prepared,
            not_before: validity.not_before,
            not_after: validity.not_after,
            certificate_sha256: sha256_hex(certificate.der()),
            root: root.record.number,
        };
        let key_pem = key.private_key_pem();
        self.custody
            .write(&record.key_file(), key_pem.expose().as_bytes())?;
        self.custody.write(
            &record.certificate_file(),
            pem::certificate(certificate.der()).as_bytes(),
        )?;
        Ok(record)
    }

    /// Erases keys that sign no more, certificates that have expired, and leftovers of interrupted
    /// writes.
    fn sweep(&self, rotation: &mut Rotation) -> Result<(), Error> {
        if rotation.directory == Directory::Swept {
            return Ok(());
        }
        let state = &rotation.state;
        self.custody
            .sweep(State::is_ours, |name| state.needs(name))?;
        rotation.directory = Directory::Swept;
        Ok(())
    }

    /// A root's key is in memory only while it signs: a few times a day.
    fn root_issuer(&self, root: &Root) -> Result<Issuer<'static, KeyPair>, Error> {
        issuer(&root.certificate, root.private_key(&self.custody)?)
    }

    /// When [`Self::rotate`] will next have work to do.
    pub fn next_rotation_at(&self) -> Timestamp {
        let rotation = self.rotation.lock();
        rotation::next_at(
            &rotation.state,
            self.deps.clock.now(),
            self.snapshot.load().roots.active.validity.not_after,
        )
    }

    /// All issuing authorities that have not expired, oldest first. A reader that records each new
    /// pair of serial and stage misses none, even after a crash.
    pub fn authorities(&self) -> Vec<CaRecord> {
        self.rotation.lock().state.authorities.clone()
    }

    /// Changes whenever the active or the accepted authorities do.
    pub fn generation(&self) -> u64 {
        self.snapshot.load().generation
    }

    /// The certificates that may sign now: each root that has signed, and every issuing authority
    /// that was published.
    pub fn accepted_issuers(&self) -> Vec<CertificateDer<'static>> {
        let now = self.deps.clock.now();
        let snapshot = self.snapshot.load();
        let current = snapshot.accepted.iter().filter(|(end, _)| now < *end);
        current
            .map(|(_, certificate)| certificate.clone())
            .collect()
    }

    /// Checks peers against [`Self::accepted_issuers`]. Rotation replaces it: take it anew for each
    /// peer.
    pub fn peer_verifier(&self) -> Arc<PeerVerifier> {
        Arc::clone(&self.snapshot.load().verifier)
    }

    /// The trust bundle. A replacement of the root changes it: take it anew for each answer.
    pub fn bundle(&self) -> Arc<Bundle> {
        Arc::clone(&self.snapshot.load().bundle)
    }

    /// SHA-256 of the active root's public key (SubjectPublicKeyInfo), which a join token pins, and
    /// the root's number.
    pub fn pinned_root(&self) -> (Digest, RootNumber) {
        let root = &self.snapshot.load().roots.active;
        (root.key.digest(), root.record.number)
    }

    /// The trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.deps.trust_domain
    }
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps")
            .field("trust_domain", &self.trust_domain)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.deps.trust_domain)
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// From a little before `now`, for machines with a clock that lags, to `end`; in whole seconds.
fn validity(now: Timestamp, end: Timestamp) -> Validity {
    Validity {
        not_before: now.minus(limits::SVID_BACKDATE).floor_to_second(),
        not_after: end.floor_to_second(),
    }
}

#[cfg(test)]
mod tests;
