//! The inside for the fuzz targets in `tests/fuzz`: the services without the network before them.

use std::{net::SocketAddr, sync::Arc};

use taskpass_ca::PeerIdentity;
use taskpass_engine::Engine;
use tonic::service::Routes;

use crate::{
    api,
    transport::{ConnectionId, Limits, Peer},
};

/// The services as the transport gets them.
pub fn services(engine: Arc<Engine>, message_bytes_max: usize) -> Option<Routes> {
    let limits = Limits {
        request_bytes: message_bytes_max,
        ..Limits::default()
    };
    let services = api::routes(engine, limits, false);
    services.ok().map(|(routes, _)| routes)
}

/// The peer that the transport puts on every request.
pub fn peer(identity: Option<PeerIdentity>, remote_addr: SocketAddr) -> Peer {
    Peer {
        identity,
        remote_addr,
        connection_id: ConnectionId::default(),
    }
}
