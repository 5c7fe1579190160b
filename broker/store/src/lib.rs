//! Events in, current state out: the store of the broker.
//!
//! A [`Batch`] of events and the [`Guard`]s under which they may happen is committed atomically, durably and in
//! ledger order. What may follow what is decided here and nowhere else, so that two requests that race have one
//! winner. [`Store`] is what the engine sees; [`EmbeddedStore`] keeps it in the ledger (the truth), in memory (what
//! is alive) and in an index (history), which is built again from the ledger whenever in doubt.
//!
//! Nothing here talks to providers, decides policy or knows a secret.

mod api;
mod applier;
mod batch;
mod decider;
mod embedded;
mod entry;
mod error;
mod index;
mod memory;
mod past;
mod state;
#[cfg(test)]
mod testing;
mod writer;

pub use api::{
    CredentialFilter, DueRevocation, IdempotencyRecord, JoinTokenRecord, Listing, Page,
    ProviderUsage, Revocations, Store, Subject, SvidRecord, TaskFilter, Usage, Work,
};
pub use batch::{BATCH_EVENTS_MAX, Batch, Committed, Guard, Priority};
pub use embedded::{Config, EmbeddedStore, IndexReport, OpenReport};
pub use entry::Entry;
pub use error::{CommitError, Conflict, GuardFailure, OpenError, StoreError, Wider};
pub use memory::MemoryStore;
