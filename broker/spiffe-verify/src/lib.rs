//! Verifies X.509-SVIDs: the certificate chain of a peer, against the authorities of one trust
//! domain.
//!
//! The broker and its clients follow the same rules, and a client needs no more of an authority
//! than this. No keys, no files, no network; the caller passes the time.
//!
//! The rules X-1 … X-13 that comments and tests name are rules of the SPIFFE standards X509-SVID.md
//! and SPIFFE_Trust_Domain_and_Bundle.md, numbered in the order they appear there.
//!
//! ```
//! use taskpass_core::Timestamp;
//! use taskpass_spiffe_verify::{PeerError, PeerVerifier};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let verifier = PeerVerifier::for_bundle(&"acme.test".parse()?, &[])?;
//! let nothing = verifier.verify_server(&[], Timestamp::from_millis(1_700_000_000_000));
//! assert_eq!(nothing, Err(PeerError::NoCertificate));
//! # Ok(())
//! # }
//! ```

pub mod certificate;
mod error;
mod peer;

pub use error::PeerError;
pub use peer::{PeerIdentity, PeerVerifier};
