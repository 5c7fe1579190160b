//! The ledger: an append-only, Merkle-tree record of opaque entries that auditors can verify
//! offline.
//!
//! Entries are bytes; their meaning is the caller's affair. They are kept in checksummed segment
//! files and are the leaves of an RFC 6962 tree; the tree's head is signed as a C2SP checkpoint.
//! [`Ledger`] is the one writer, [`Reader`]s see durable entries, [`export`] and [`verify`] are for
//! auditors with only a file and a key.
//!
//! ```
//! use taskpass_core::SystemEntropy;
//! use taskpass_ledger::{Ledger, Options, Priority, SigningKey, export, verify};
//!
//! # let scratch = tempfile::tempdir()?;
//! # let data = scratch.path();
//! let (file, entropy) = (data.join("ledger.key"), SystemEntropy::new());
//! let key = SigningKey::generate("taskpass/acme.test", &file, &entropy)?;
//! let verifying = key.verifying_key().clone();
//!
//! let (mut ledger, _) = Ledger::open(&data.join("ledger"), Options::new(key))?;
//! ledger.append_batch(&[br#"{"event":"one"}"#, br#"{"event":"two"}"#], Priority::Normal)?;
//! let checkpoint = ledger.checkpoint_now()?;
//!
//! let mut export = Vec::new();
//! export::write_full(&ledger.reader(), &checkpoint, &mut export)?;
//! let verified = verify::verify_export(export.as_slice(), &verifying, None, &mut |_| ())?;
//! assert_eq!(verified.entries, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archiver;
mod attached;
mod base;
mod checkpoint;
mod cursor;
pub mod disk;
mod error;
pub mod export;
mod forest;
mod genuine;
mod key;
mod ledger;
mod line;
mod open;
mod proof_file;
mod reader;
mod recent;
mod resume;
mod roots;
mod scan;
mod segment;
mod shared;
mod survey;
mod tail;
#[cfg(test)]
mod testing;
mod tiles;
pub mod verify;

pub use archiver::{ArchiveError, Archiver, Begun, Copied, Copying, Forgotten};
pub use error::Error;
pub use genuine::{GenuineEntries, Unhashed};
pub use key::{KeyError, SigningKey};
pub use ledger::Ledger;
pub use open::{Accepted, Damage, OpenReport, Options};
pub use proof_file::ProofFile;
pub use reader::{Entries, Reader};
pub use recent::recent_entries;
pub use roots::RootsSigner;
pub use scan::{DamageAt, Torn};
pub use segment::ENTRY_BYTES_MAX;
pub use shared::Pin;
pub use tail::{Priority, SEGMENT_BYTES};
pub use taskpass_ledger_verify::{Checkpoint, Hash, NoteError, SignedRoots, VerifyingKey, tree};
