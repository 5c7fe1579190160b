//! Callers by their X.509-SVID. The transport has checked the chain; here it is checked that the SVID still counts.

use std::sync::Arc;

use taskpass_ca::PeerIdentity;
use taskpass_core::{Identity, SvidState, TaskState};

use crate::{
    engine::{Call, Caller, Engine, Error},
    transport::Peer,
};

/// The caller behind a connection, as of now: a certificate that was replaced, whose task ended, or whose agent is
/// not registered is refused on the next request, also on a connection that has been open for long.
pub(crate) async fn authenticate(engine: &Engine, peer: &Peer) -> Result<Call, Error> {
    let Some(identity) = &peer.identity else {
        return Err(Error::Unauthenticated(
            "this needs a client certificate; get one with `taskpass login --join-token …`"
                .to_owned(),
        ));
    };
    let caller = match &identity.identity {
        Identity::Agent(_) | Identity::AgentTask(..) => agent(engine, identity).await?,
        Identity::Operator(name) => Caller::Operator {
            name: name.clone(),
            id: identity.spiffe_id.clone(),
            serial: identity.serial.clone(),
        },
        Identity::Broker(_) => {
            return Err(Error::Unauthenticated(
                "a broker's own certificate is not a caller's identity".to_owned(),
            ));
        }
    };
    Ok(Call {
        caller,
        ip: Some(peer.remote_addr.ip()),
    })
}

async fn agent(engine: &Engine, peer: &PeerIdentity) -> Result<Caller, Error> {
    let no_longer = |why: &str| {
        Error::Unauthenticated(format!(
            "the identity `{}` does not count: {why}",
            peer.spiffe_id
        ))
    };
    let svid = engine.store().svid(&peer.serial).await?.ok_or_else(|| {
        no_longer("it was replaced by a newer one, has expired, or its task has ended; log in again with a join token")
    })?;
    // The certificate says who; the record must agree, down to the key.
    if svid.identity() != peer.identity || svid.key_sha256 != peer.key_sha256 {
        return Err(no_longer(
            "it is not the one that was issued under this serial",
        ));
    }
    let agent = engine
        .store()
        .agent(&svid.agent)
        .await?
        .ok_or_else(|| no_longer("its agent is not registered"))?;
    let bound_to = match svid.task {
        None => None,
        Some(id) => {
            let task = engine.store().task(id).await?;
            Some(
                task.filter(|t| t.state == TaskState::Open)
                    .ok_or_else(|| no_longer("its task has ended"))?,
            )
        }
    };
    if svid.state == SvidState::Pending {
        engine.activate_svid(&svid.serial).await?;
    }
    Ok(Caller::Agent {
        agent: Arc::clone(&agent),
        id: peer.spiffe_id.clone(),
        serial: peer.serial.clone(),
        bound_to,
    })
}
