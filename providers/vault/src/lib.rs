//! Credentials from HashiCorp Vault and OpenBao.
//!
//! Every task gets one Vault token of its own, an orphan, so that its life hangs on the task and not on the broker's
//! token. It is made with a short life, recorded as an anchor, and only then extended to the task's deadline; every
//! lease of the task is drawn with it. Ending the task revokes the token, and then each lease is looked up until Vault
//! says that it is gone.
//!
//! What an answer proves depends on who gives it: an anchor keeps the cluster and the namespace that made it, an intent the
//! path below which its lease would be filed, and another server's or path's "unknown" is never taken for a death.
//!
//! Three types of roles: `dynamic` (any engine that answers with a lease), `token` (a token with exactly the role's
//! policies) and `kv` (a static secret, which nothing here can revoke, and which says so).
//!
//! Requests are built from the endpoint types of `vaultrs`, and from own ones of the same make where it has none or
//! drops the lease. They are sent by our own transport: that of `vaultrs` follows redirects with the token in the
//! header, has no bound for answers, panics on odd tokens, and logs every refusal as an error, although here "invalid
//! lease" is the proof that all is well.
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
mod config;
mod doubt;
mod fault;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod handle;
mod issue;
mod path;
mod prove;
mod provider;
mod renew;
mod revoke;
mod role;
mod secret_file;
mod server;
mod session;
mod transport;

pub use check::BROKER_POLICY;
pub use config::{
    AppRoleConfig, ConfigError, Method, RoleConfig, RoleType, VaultConfig, VaultKind,
};
pub use provider::VaultProvider;
