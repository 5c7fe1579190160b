//! Identities: agents and how they attest, SVIDs, and the authority that signs them.

mod agents;
mod attest;
mod authenticate;
mod authorities;
mod renew;

pub use agents::{AgentView, CreateJoinToken, CreatedJoinToken, RegisterAgent};
pub use attest::{
    Attest, Attestor, Attestors, Claims, Evidence, IssuedSvid, JoinTokenAttestor, JoinTokenText,
    Refusal,
};
