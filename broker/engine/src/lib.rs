//! The broker's use cases, in plain Rust: no gRPC, HTTP or TLS is linked in. [`Engine`] carries
//! them out for callers, and the loops in [`reconcile`] carry out the same use cases when a
//! deadline passes or a call has to be repeated.
//!
//! Every use case goes the same way: look up, `authorize`, commit the intent, call the provider or
//! the authority, commit the outcome. A refused use case ends with an [`Error`] that names the
//! remedy.
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

mod authorize;
mod budgets;
mod call;
mod connections;
mod context;
mod credentials;
mod engine;
mod error;
pub mod failpoint;
mod folds;
mod idempotency;
mod identities;
mod ledger;
mod policy;
mod providers;
pub mod rate;
mod rate_limits;
mod reap;
pub mod reconcile;
mod reload;
mod settings;
#[cfg(test)]
mod simulation;
mod snapshot;
mod tasks;
#[cfg(test)]
mod testing;
mod timer;
mod wait;

pub use call::{Call, Caller};
pub use connections::{Connections, NoConnections};
pub use context::Context;
pub use credentials::{
    CredentialView, Delivery, IssueCredential, IssuedCredential, RenewCredential,
    RenewedCredential, RevokeCredential,
};
pub use engine::{CLOCK_LAG_MAX, Engine, LastRun};
pub use error::{Error, Field};
pub use idempotency::RequestKey;
pub use identities::{
    AgentView, Attest, Attestor, Attestors, ChangeOwner, Claims, CreateJoinToken, CreatedJoinToken,
    Evidence, IssuedSvid, JoinTokenAttestor, JoinTokenText, JoinTokenView, OwnerDeparted, Refusal,
    RegisterAgent, ReleaseAgent, RetireRoot, RetiredRoot, RootView, RootsDiffer, StopAgent,
    StoppedAgent, compare_roots,
};
pub use ledger::{AllowedExport, Consistency, ExportFilter, ExportPlan, ProvenEntry};
pub use policy::{AccessDecisions, AccessQuestion, AgentAccess};
pub use providers::{
    BackendStatus, CallCounts, ConfiguredProvider, ProviderChange, ProviderState, ProviderView,
};
pub use reload::ReloadedFiles;
pub use settings::{
    Agents, Budgets, Credentials, OnIdentityConflict, ProviderSettings, Rate, Requests, Settings,
    Tasks,
};
pub use snapshot::{Change, Configuration, Snapshot};
pub use tasks::{
    EndTask, Ended, Ending, Heartbeat, Receipt, StartTask, StartedTask, TaskRoles, TaskView,
};
pub use timer::{SystemTimer, Timer};
