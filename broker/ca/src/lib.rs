//! The certificate authority of one installation: custody of its keys, X.509-SVIDs and rotation.
//!
//! A self-signed *root* is the trust bundle. It signs *issuing authorities*, each valid for a day,
//! and the identities of operators. The one active issuing authority signs everything else. While a
//! root is replaced, the bundle holds the old one and the new one. Files in, certificates out: no
//! network, no task runtime, and no rule about which caller may have which identity. Time comes
//! from [`taskpass_core::Clock`] and serial numbers from [`taskpass_core::Entropy`]; private keys
//! and signature nonces come from the system's random source inside ring, which takes no other.
//!
//! The rules X-1 … X-13 that comments and tests name are rules of the SPIFFE standards X509-SVID.md
//! and SPIFFE_Trust_Domain_and_Bundle.md, numbered in the order they appear there.
//!
//! ```
//! use std::sync::Arc;
//! use taskpass_ca::{Authority, Config, Deps, IssueOptions, KeyFiles, NewKey};
//! use taskpass_core::{Identity, ManualClock, SeededEntropy, Timestamp};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let dir = temporary.path().join("ca");
//! let deps = Deps {
//!     trust_domain: "acme.test".parse()?,
//!     config: Config::default(),
//!     clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000))),
//!     entropy: Arc::new(SeededEntropy::new(1)),
//!     keys: KeyFiles::plain(),
//! };
//! let authority = Authority::create(&dir, deps)?;
//! authority.rotate()?;
//!
//! let key = NewKey::generate()?;
//! let builder = Identity::Agent("builder".parse()?);
//! let issued = authority.issue(&builder, key.public_key(), &IssueOptions::default())?;
//! let peer = authority.peer_verifier().verify_client(&issued.chain_der, issued.not_before)?;
//! assert_eq!(peer.identity, builder);
//! # Ok(())
//! # }
//! ```

mod authority;
mod bundle;
mod custody;
mod error;
mod pem;
mod public_key;
mod rotation;
mod state;
mod template;

pub use authority::{Authority, Config, Deps, IssueOptions, Issued, RootActivated};
pub use bundle::Bundle;
pub use error::Error;
pub use public_key::{CsrError, NewKey, PublicKey};
pub use state::{CaRecord, CaStep, RootRecord, Stage};
// The type in `Deps`.
pub use taskpass_seal::KeyFiles;
// The type that `Authority::peer_verifier` returns.
pub use taskpass_spiffe_verify::{PeerError, PeerIdentity, PeerVerifier};
