//! Events in, current state out: the store of the broker.
//!
//! A [`Batch`] of events and the [`Guard`]s under which they may happen is committed atomically,
//! durably and in the order of the log. This crate alone decides which event may follow which, so
//! that two requests that race have one winner. The engine sees a [`Store`]. [`LogStore`] is its
//! only implementation. It keeps the truth in a log (the ledger's files, or memory), live records
//! in memory, and history in an index, which it builds again from the log when the index is damaged
//! or does not fit.
//!
//! Nothing here talks to providers, decides policy or knows a secret.
//!
//! ```
//! # use std::sync::Arc;
//! # use taskpass_core::{Event, ManualClock, Timestamp};
//! use taskpass_store::{Batch, LogStore, MemoryLog, Store};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
//! let store = LogStore::in_memory(&MemoryLog::default(), clock).unwrap();
//! let made = Event::Initialized {
//!     trust_domain: "acme.test".parse().unwrap(),
//!     version: "0.1.0".to_owned(),
//!     root: None,
//! };
//! let committed = store.commit(Batch::new([made])).await.unwrap();
//! assert_eq!(committed.first_index, 0);
//! # });
//! ```

// An event, or a step in the life of a record, that is added later must be thought of in every
// match here.
#![deny(clippy::wildcard_enum_match_arm)]

mod api;
mod applier;
mod batch;
mod decider;
mod entry;
mod error;
mod history;
mod idempotency;
mod image;
mod imager;
mod index;
mod log;
mod past;
mod portion;
mod sequencer;
mod shared;
mod state;
mod store;
#[cfg(test)]
mod testing;
mod writer;

pub use api::{
    AgentCounts, CredentialFilter, DueRevocation, JoinTokenRecord, JoinTokenState, Listing, Page,
    ProviderUsage, Revocations, RootUse, Store, SupersededSvid, SvidRecord, TaskFilter, Usage,
    Work,
};
pub use batch::{BATCH_EVENTS_MAX, Batch, Committed, Guard, InOrder, Priority};
pub use entry::Entry;
pub use error::{CommitError, Conflict, GuardFailure, OpenError, StoreError, Wider};
pub use idempotency::{IdempotencyRecord, Subject};
pub use log::MemoryLog;
pub use store::{Config, IndexReport, LogStore, OpenReport, Opened, indexes_set_aside};
