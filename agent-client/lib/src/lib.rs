//! Credentials that live exactly as long as the task: the client side of Taskpass.
//!
//! A [`Client`] keeps the agent's SPIFFE identity fresh and talks to the broker over mutual TLS. A
//! [`TaskGuard`] is one piece of work: it sends heartbeats, asks for [`Credential`]s that refresh
//! themselves, and ends the task, with everything that was issued for it, when the work is over.
//! Secrets are [`taskpass_core::Secret`]s and are never returned after their expiry.
//!
//! ```no_run
//! use taskpass_client::{Client, ClientConfig, TaskOptions};
//!
//! # async fn work() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ClientConfig::new("127.0.0.1:7443".parse()?, "/var/lib/agent/identity");
//! let client = Client::connect(config).await?;
//! let task = client
//!     .start_task(TaskOptions::new("migrate the orders table").role("vault-main/ci-db".parse()?))
//!     .await?;
//! let database = task.credential("vault-main/ci-db".parse()?).issue().await?;
//! let login = database.current().await?;
//! if let Some(password) = login.field("password") {
//!     // … connect with password.expose()
//! }
//! for receipt in task.end().await? {
//!     println!("{} is {}", receipt.credential_id, receipt.state);
//! }
//! # Ok(())
//! # }
//! ```

mod attest;
#[cfg(feature = "aws")]
mod aws;
mod bound;
mod channel;
mod client;
mod config;
mod credential;
mod directory;
mod error;
mod guard;
mod issue;
mod join_token;
mod keeper;
mod ledger_pin;
mod link;
mod live_task;
mod pem;
mod receipt;
mod renew_lock;
mod renewal;
mod retry;
mod svid;
mod task;
mod task_options;
mod tls;
mod wire;
mod words;

pub use attest::{Login, Predecessor};
#[cfg(feature = "aws")]
pub use aws::AwsCredentials;
pub use channel::BrokerAddr;
pub use client::{Client, WhoAmI};
pub use config::{ClientConfig, RPC_TIMEOUT, Renewal, WAIT_TIMEOUT};
pub use credential::{Credential, CredentialRequest};
pub use directory::IdentityDirectory;
pub use error::{Error, Refusal};
pub use guard::TaskGuard;
pub use issue::IssuedCredential;
pub use join_token::JoinToken;
pub use ledger_pin::Pinned;
pub use receipt::{EndedTask, Receipt};
pub use svid::Leaf;
pub use task::{Anchor, EndMode, Heartbeat, Task, TaskDetails, TaskFilter, TaskPage};
pub use task_options::TaskOptions;
pub use words::{
    AgentState, CallerKind, CircuitState, CredentialState, EndCause, JoinTokenState, ProviderState,
    RevocationClass, RevokeCause, TaskState,
};
