//! The authority itself: opens the keys, signs, rotates.
//!
//! Signing reads one snapshot without a lock. Rotation holds a lock of its own. It changes the disk
//! first and then replaces the snapshot, so an authority never signs unless it would be known after
//! a restart.

mod loaded;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, ServerName};
use taskpass_core::{
    Clock, Digest, Entropy, Identity, OperatorName, Timestamp, TrustDomain, Ttl, limits, sha256_hex,
};
use taskpass_seal::KeyFiles;

use crate::{
    Bundle, CaRecord, CaStep, Error, NewKey, PeerVerifier, PublicKey, Stage,
    custody::Custody,
    pem,
    rotation::{self, Move},
    state::State,
    template::{self, LeafOrder, Serial, Tier, Validity},
};
use loaded::{
    ROOT_CERTIFICATE, ROOT_KEY, Root, Signer, Snapshot, damaged, issuer, public_half, read_key,
};

/// More moves than rotation ever needs at once. Reaching it means that rotation goes in circles.
const MOVES_AT_ONCE_MAX: usize = 64;

/// Lifetimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The longest, and usual, life of an X.509-SVID; 1 h. At most a sixth of `ca_ttl`.
    pub svid_ttl: Ttl,
    /// The life of an issuing authority; 24 h.
    pub ca_ttl: Ttl,
    /// The life of the root; 3,650 days. Used when the installation is created.
    pub root_ttl: Duration,
}

impl Config {
    /// Checks that the lifetimes fit together.
    pub fn new(svid_ttl: Ttl, ca_ttl: Ttl, root_ttl: Duration) -> Result<Self, Error> {
        let config = Self {
            svid_ttl,
            ca_ttl,
            root_ttl,
        };
        config.check().map(|()| config)
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
    root: Root,
    bundle: Bundle,
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
        let domain = &deps.trust_domain;
        let custody = Custody::create(dir, deps.keys.clone())?;
        if custody.read(ROOT_CERTIFICATE)?.is_some() {
            return Err(Error::Exists(dir.into()));
        }
        let now = deps.clock.now();
        let validity = validity(now, now.plus(deps.config.root_ttl));
        let key = NewKey::generate()?;
        let serial = Serial::generate(deps.entropy.as_ref())?;
        let params = template::authority_params(Tier::Root, domain, serial, validity)?;
        let key_pem = key.private_key_pem();
        let public = key.public_key().clone();
        let certificate = params
            .self_signed(&key.into_pair())
            .map_err(|source| Error::Sign {
                action: "sign the root certificate",
                source,
            })?;
        template::check_authority(certificate.der(), domain, &public).map_err(Error::Signed)?;
        // The certificate comes last: without it there is no installation, and a key alone has
        // signed nothing.
        custody.write(ROOT_KEY, key_pem.expose().as_bytes())?;
        custody.write(
            ROOT_CERTIFICATE,
            pem::certificate(certificate.der()).as_bytes(),
        )?;
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
        let root = Root::load(&custody, &deps.trust_domain)?;
        let state = State::load(&custody)?;
        let bundle = Bundle::new(root.certificate.clone(), &root.key);
        let snapshot = Snapshot::build(&state, &custody, &deps.trust_domain, &root)?;
        Ok(Self {
            deps,
            custody,
            root,
            bundle,
            snapshot: ArcSwap::from_pointee(snapshot),
            rotation: Mutex::new(Rotation {
                state,
                directory: Directory::Unswept,
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

    /// Signs a long-lived identity for an operator with the root itself, so that it outlives the
    /// issuing authorities. For `init` and for operators without another way to log in; `ttl` is at
    /// most 366 days.
    pub fn issue_operator(
        &self,
        name: &OperatorName,
        key: &PublicKey,
        ttl: Ttl,
    ) -> Result<Issued, Error> {
        let signer = Signer {
            issuer: self.root_issuer()?,
            validity: self.root.validity,
            chain_der: None,
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
        })
    }

    /// Makes the moves that are due and returns the changes, oldest first. Idempotent: call it at
    /// the start, at [`Self::next_rotation_at`], and whenever in doubt. Blocks on the disk.
    ///
    /// If a later move fails, the changes before it are returned, and the next call returns the
    /// error.
    pub fn rotate(&self) -> Result<Vec<CaStep>, Error> {
        let mut rotation = self.rotation.lock();
        if rotation.directory == Directory::Unsure {
            rotation.state = State::load(&self.custody)?;
            rotation.directory = Directory::Unswept;
        }
        self.sweep(&mut rotation)?;
        let mut steps = Vec::new();
        match self.make_moves(&mut rotation, &mut steps) {
            Ok(()) => {}
            Err(e) if steps.is_empty() => return Err(e),
            Err(e) => tracing::warn!(error = %e, "rotation is not complete; the next run goes on"),
        }
        if let Err(e) = self.sweep(&mut rotation) {
            tracing::warn!(error = %e, "keys that sign no more could not be erased; the next run tries again");
        }
        Ok(steps)
    }

    fn make_moves(&self, rotation: &mut Rotation, steps: &mut Vec<CaStep>) -> Result<(), Error> {
        for _ in 0..MOVES_AT_ONCE_MAX {
            self.refresh(&rotation.state)?;
            let now = self.deps.clock.now();
            let root_end = self.root.validity.not_after;
            let longest_end = now.plus(self.deps.config.ca_ttl.duration()).min(root_end);
            let Some(step) = rotation::next_move(&rotation.state, now, longest_end) else {
                break;
            };
            rotation.directory = Directory::Unswept;
            let (mut after, mut changed) = rotation::apply(&rotation.state, &step);
            if step == Move::Prepare {
                let record = self.prepare(now, longest_end)?;
                after.authorities.push(record.clone());
                changed.push(record);
            }
            rotation.directory = Directory::Unsure;
            after.save(&self.custody)?;
            rotation.directory = Directory::Unswept;
            rotation.state = after;
            steps.append(&mut changed);
        }
        Ok(())
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
        rotation.directory = Directory::Unsure;
        after.save(&self.custody)?;
        rotation.directory = Directory::Unswept;
        rotation.state = after;
        self.refresh(&rotation.state)
    }

    /// Shows readers `state`, which is on the disk already.
    fn refresh(&self, state: &State) -> Result<(), Error> {
        if self.snapshot.load().generation != state.generation {
            let domain = &self.deps.trust_domain;
            let snapshot = Snapshot::build(state, &self.custody, domain, &self.root)?;
            self.snapshot.store(Arc::new(snapshot));
        }
        Ok(())
    }

    /// Makes key and certificate of a new issuing authority. Until the state names them, they are
    /// leftovers.
    fn prepare(&self, now: Timestamp, not_after: Timestamp) -> Result<CaRecord, Error> {
        if self.root.validity.not_after <= now {
            return Err(Error::RootExpired(self.root.validity.not_after));
        }
        if now < self.root.validity.not_before {
            return Err(Error::ClockWentBack {
                now,
                start: self.root.validity.not_before,
            });
        }
        let mut validity = validity(now, not_after);
        validity.not_before = validity.not_before.max(self.root.validity.not_before);
        let serial = Serial::generate(self.deps.entropy.as_ref())?;
        let params =
            template::authority_params(Tier::Issuing, &self.deps.trust_domain, serial, validity)?;
        let key = NewKey::generate()?;
        let certificate = template::sign(&params, key.public_key(), &self.root_issuer()?)?;
        template::check_authority(certificate.der(), &self.deps.trust_domain, key.public_key())
            .map_err(Error::Signed)?;
        let record = CaRecord {
            serial: serial.hex(),
            stage: Stage::Prepared,
            not_before: validity.not_before,
            not_after: validity.not_after,
            certificate_sha256: sha256_hex(certificate.der()),
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

    /// The root's key is in memory only while it signs: a few times a day.
    fn root_issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        let pair = read_key(&self.custody, ROOT_KEY)?
            .filter(|pair| public_half(pair).as_ref() == Some(&self.root.key))
            .ok_or_else(|| damaged(&self.custody, ROOT_KEY, "it is not the root's key any more"))?;
        issuer(&self.root.certificate, pair)
    }

    /// When [`Self::rotate`] will next have work to do.
    pub fn next_rotation_at(&self) -> Timestamp {
        let rotation = self.rotation.lock();
        rotation::next_at(
            &rotation.state,
            self.deps.clock.now(),
            self.root.validity.not_after,
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

    /// The certificates that may sign now: the root and every issuing authority that was published.
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

    /// The trust bundle.
    pub const fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// SHA-256 of the root's public key (SubjectPublicKeyInfo), which a join token pins.
    pub fn root_digest(&self) -> Digest {
        self.root.key.digest()
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
