//! A complete provider to copy from: accounts of a directory that live as long as their task.
//!
//! The directory is in the memory of this process ([`Directory`]), so that the provider works, and
//! passes the conformance suite, without anything installed. Everything else is as in a provider
//! for a real back end. `docs/adding-a-provider.md` walks through the files in this order:
//!
//! * `directory.rs`: the back end. Replace it with calls over the network.
//! * `config.rs`: the keys of `[[provider]]`, with their checks, defaults and texts.
//! * `factory.rs`: the broker's entry to this package.
//! * `provider.rs`: issue, renew, revoke, probe.
//! * `tests/conformance.rs`: the suite that every provider must pass.
//!
//! **Issue.** An account is named after the credential's id, so that the broker can find it even if
//! the answer of the directory is lost. The directory ends it by itself at `valid_until`.
//!
//! **Revoke.** The account is deleted, and then looked up: only when the directory says that it
//! does not exist is the revocation called verified.

mod config;
mod directory;
mod factory;
mod provider;

pub use config::{RoleConfig, TemplateConfig, TemplateKind};
pub use directory::{BROKER_PASSWORD, Directory};
pub use factory::factory;
pub use provider::TemplateProvider;
