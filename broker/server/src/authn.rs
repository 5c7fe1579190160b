//! Authentication: from the peer of a connection to a caller.
//!
//! Nothing in a request's body or headers ever names the caller.

use taskpass_engine::{Call, Engine, Error};

use crate::transport::Peer;

/// The caller behind a connection, as of now; see [`Engine::authenticate`].
pub(crate) async fn authenticate(engine: &Engine, peer: &Peer) -> Result<Call, Error> {
    let identity = peer.identity.as_ref();
    engine.authenticate(identity, peer.remote_addr.ip()).await
}
