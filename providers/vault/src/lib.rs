//! Credentials from HashiCorp Vault and OpenBao.
//!
//! Every task has a *session*: a Vault token through which its credentials are issued. It is an
//! orphan, so it ends with the task and outlives the broker's own token. The session is minted with
//! a short life, recorded as an anchor, and only then extended to the task's deadline. When the
//! task ends, the broker revokes the session, and Vault the leases with it. Then each lease is
//! looked up until Vault says that it is gone.
//!
//! An answer is a proof only if it comes from the right server and path. An anchor therefore keeps
//! the cluster and the namespace that minted the session, and an intent the path below which Vault
//! files its lease. If another server or path does not know a lease, that proves nothing.
//!
//! Three types of roles: `dynamic` (any engine that answers with a lease), `token` (a token with
//! exactly the role's policies) and `kv` (a static secret; the provider cannot revoke it, and its
//! receipts say so).
//!
//! Requests are built from the endpoint types of `vaultrs`, and from our own where it has none or
//! drops the lease. Our own transport sends them: the transport of `vaultrs` follows redirects with
//! the token in the header, reads answers of any size, panics on tokens that fit no header, and
//! logs every refusal as an error, although here "invalid lease" is the proof of success.
//!
//! [`VaultProvider`] is built on `vault.rs` (the calls and the proofs in their answers), `token.rs`
//! and `session.rs` (the tokens of a task), `in_doubt.rs` (calls without an answer) and `leases.rs`
//! (proofs).
//!
//! ```
//! use taskpass_provider_vault::VaultConfig;
//!
//! let config: VaultConfig = toml::from_str(
//!     r#"
//!     name = "vault-main"
//!     kind = "vault"
//!     address = "https://vault.acme.test:8200"
//!     token_file = "secrets/vault-token"
//!     [[role]]
//!     name = "ci-db"
//!     type = "dynamic"
//!     path = "database/creds/ci"
//!     policies = ["ci-db"]
//!     "#,
//! )?;
//! config.validate()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod api;
mod broker_token;
mod check;
mod check_roles;
mod check_token_role;
mod config;
mod consistency;
mod engine;
mod factory;
mod fault;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod handle;
mod identity;
mod in_doubt;
mod issue;
mod leases;
mod path;
mod probe;
mod provider;
mod reach;
mod renew;
mod revoke;
mod role;
mod roles;
mod secret_file;
mod session;
mod token;
mod transit;
mod transport;
mod validate;
mod vault;

pub use check::BROKER_POLICY;
pub use config::{
    AppRoleConfig, ConfigError, Method, RoleConfig, RoleType, VaultConfig, VaultKind,
};
pub use engine::EngineRevokes;
pub use factory::factory;
pub use provider::VaultProvider;
pub use transit::{TransitConfig, TransitWord};
