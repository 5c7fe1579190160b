//! Credentials: issue, renew, revoke, read, and their anchors at the providers.

mod ahead;
mod anchors;
mod delivery;
mod in_flight;
mod issue;
mod lives;
#[cfg(test)]
mod races;
mod read;
mod renew;
mod renewals;
mod revocation;
mod revoke;
mod told;
mod wanted;

pub(crate) use ahead::{Ahead, IntentRecord};
pub use delivery::Delivery;
pub(crate) use in_flight::InFlight;
pub use issue::{IssueCredential, IssuedCredential};
pub(crate) use lives::{AtEnd, Lives, at_end};
pub use read::CredentialView;
pub use renew::{RenewCredential, RenewedCredential};
pub(crate) use renewals::Renewals;
pub(crate) use revocation::GroupOutcome;
pub use revoke::RevokeCredential;
pub(crate) use told::Reader;
pub(crate) use wanted::lifetime;
