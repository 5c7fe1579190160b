//! Facts in, decision out: the only crate that knows Cedar.
//!
//! Policies are Cedar files in one directory, read once and checked strictly against the schema
//! ([`schema_text`]). The engine describes a request as [`Facts`] and calls [`PolicySet::decide`].
//! A request is denied unless a policy permits it and none forbids it. Every failure on the way (a
//! policy that cannot be evaluated, facts that do not fit the schema) is a deny.
//!
//! ```
//! use taskpass_core::{ManualClock, OperatorName, Timestamp, TrustDomain};
//! use taskpass_policy::{Action, Facts, PolicyFile, PolicySet, Principal, Resource};
//!
//! let policies = PolicySet::parse(&[PolicyFile {
//!     name: "people.cedar".to_owned(),
//!     text: r#"@id("readers") permit (principal is Taskpass::Operator,
//!              action in Taskpass::Action::"read", resource);"#.to_owned(),
//! }])?;
//! let (domain, ann): (TrustDomain, OperatorName) = ("acme.test".parse()?, "ann".parse()?);
//! let clock = ManualClock::new(Timestamp::EPOCH);
//! let mut facts = Facts {
//!     trust_domain: &domain,
//!     principal: Principal::Operator(&ann),
//!     action: Action::LedgerRead,
//!     resource: Resource::Installation,
//!     now: Timestamp::EPOCH,
//!     ip: None,
//!     request: None,
//! };
//! assert_eq!(policies.decide(&facts, &clock).record().policies, ["readers"]);
//! facts.action = Action::ProviderCheck;
//! assert!(!policies.decide(&facts, &clock).is_allowed());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod conditions;
mod decide;
mod error;
mod facts;
mod files;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod index;
pub mod limits;
mod policies;
mod report;
mod schema;
mod source;
mod starter;
#[cfg(test)]
mod testing;
mod view;

pub use check::{KnownNames, check, check_files};
pub use decide::Decision;
pub use error::LoadError;
pub use facts::{Action, CredentialRequest, Facts, Principal, Resource};
pub use files::PolicyFile;
pub use policies::PolicySet;
pub use report::{Finding, Report, Severity};
pub use schema::schema_text;
pub use starter::{StarterOptions, starter_policy};
