//! The broker's use cases, in plain Rust: no gRPC, HTTP or TLS is linked in. [`Engine`] carries them out for callers,
//! and the loops in [`reconcile`] carry out the same use cases when a deadline passes or a call has to be repeated.
//!
//! Every use case goes the same way: look up, `authorize`, commit the intent, call the provider or the
//! authority, commit the outcome. A use case that is refused ends with an [`Error`] that says what to do.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use taskpass_core::TaskId;
//! # use taskpass_engine::{Call, EndTask, Ending, Engine, Error};
//! # async fn end(engine: &Arc<Engine>, call: &Call, task: TaskId) -> Result<(), Error> {
//! let request = EndTask { task, how: Ending::Complete, wait: None };
//! let ended = engine.end_task(call, &request).await?;
//! println!("{:?}", ended.receipts);
//! # Ok(())
//! # }
//! ```

mod agents;
mod anchors;
mod attest;
mod authenticate;
mod authorize;
mod backend;
mod backends;
mod caller;
mod context;
mod end_task;
mod engine;
mod error;
pub mod failpoint;
mod handover;
mod heartbeat;
mod history;
mod idempotency;
mod in_flight;
mod issue;
mod outage;
mod providers;
mod queries;
#[cfg(test)]
mod races;
pub mod rate;
mod rate_limits;
pub mod reconcile;
mod renew;
mod renew_svid;
mod revocation;
mod revoke;
mod settings;
#[cfg(test)]
mod simulation;
mod snapshot;
mod start_task;
#[cfg(test)]
mod testing;
mod timer;
mod upkeep;
mod wait;

pub use agents::{CreateJoinToken, CreatedJoinToken, RegisterAgent};
pub use attest::{
    Attest, Attestor, Attestors, Claims, Evidence, IssuedSvid, JoinTokenAttestor, JoinTokenText,
    Refusal,
};
pub use backend::BackendStatus;
pub(crate) use backend::RevokeSlot;
pub use caller::{Call, Caller};
pub use context::Context;
pub use end_task::{EndTask, Ended, Ending, Receipt};
pub use engine::{CLOCK_LAG_MAX, Engine};
pub use error::{Error, Field};
pub use handover::Handover;
pub use heartbeat::Heartbeat;
pub use history::{Consistency, ExportFilter, ExportPlan, ProvenEntry};
pub use idempotency::RequestKey;
pub use issue::{IssueCredential, IssuedCredential};
pub use providers::ProviderView;
pub use queries::{AgentView, CredentialView, TaskView};
pub use renew::{RenewCredential, RenewedCredential};
pub(crate) use revocation::Progress;
pub use revoke::RevokeCredential;
pub use settings::{Credentials, ProviderSettings, Rate, Requests, Settings, Tasks};
pub use snapshot::{Change, Configuration, ConfiguredProvider, ProviderChange, Snapshot};
pub use start_task::{StartTask, StartedTask, TaskRoles};
pub use timer::{SystemTimer, Timer};
