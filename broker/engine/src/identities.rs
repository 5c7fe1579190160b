//! Identities: agents and how they attest, SVIDs, and the authority that signs them.

mod agents;
mod attest;
mod authenticate;
mod authorities;
mod conflict;
mod join_tokens;
mod operators;
mod owner;
mod renew;
mod roots;
mod stop;

pub use agents::{AgentView, RegisterAgent};
pub(crate) use attest::RefusalLog;
pub use attest::{
    Attest, Attestor, Attestors, Claims, Evidence, IssuedSvid, JoinTokenAttestor, JoinTokenText,
    Refusal,
};
pub use join_tokens::{CreateJoinToken, CreatedJoinToken, JoinTokenView};
pub use owner::{ChangeOwner, OwnerDeparted};
pub use roots::{RetireRoot, RetiredRoot, RootView, RootsDiffer, compare_roots};
pub use stop::{ReleaseAgent, StopAgent, StoppedAgent};
