//! Callers by their X.509-SVID. The transport has checked the chain; the engine checks that the
//! SVID still counts.

use std::{net::IpAddr, sync::Arc};

use taskpass_ca::PeerIdentity;
use taskpass_core::{AgentName, AgentState, Identity, OperatorName, SvidState, TaskId, TaskState};
use taskpass_store::SvidRecord;

use crate::{Call, Caller, Engine, Error};

impl Engine {
    /// The caller behind a connection, as of now. The next request is refused, also on a connection
    /// that has long been open, once the certificate is superseded or not on record, its task has
    /// ended, or its agent is frozen, retired or not registered. `identity` comes from the
    /// certificate that the transport checked; `ip` is the far end's address.
    pub async fn authenticate(
        &self,
        identity: Option<&PeerIdentity>,
        ip: IpAddr,
    ) -> Result<Call, Error> {
        let Some(identity) = identity else {
            return Err(Error::Unauthenticated(
                "this needs a client certificate; get one with `taskpass login --join-token-file FILE`"
                    .to_owned(),
            ));
        };
        let caller = match &identity.identity {
            Identity::Agent(name) => agent(self, (identity, ip), name, None).await?,
            Identity::AgentTask(name, task) => {
                agent(self, (identity, ip), name, Some(*task)).await?
            }
            Identity::Operator(name) => operator(self, (identity, ip), name).await?,
            Identity::Broker(_) => {
                return Err(Error::Unauthenticated(
                    "a broker's own certificate is not a caller's identity".to_owned(),
                ));
            }
        };
        Ok(Call {
            caller,
            ip: Some(ip),
            snapshot: self.snapshot(),
        })
    }
}

async fn agent(
    engine: &Engine,
    (peer, ip): (&PeerIdentity, IpAddr),
    name: &AgentName,
    task: Option<TaskId>,
) -> Result<Caller, Error> {
    require_active(engine, name).await?;
    let svid = on_record(
        engine,
        (peer, ip),
        "it was replaced by a newer one, has expired, or its task has ended; log in again with a join token",
    )
    .await?;
    let agent = engine
        .store()
        .agent(name)
        .await?
        .ok_or_else(|| no_longer(peer, "its agent is not registered"))?;
    let bound_to = match task {
        None => None,
        Some(id) => {
            let task = engine.store().task(id).await?;
            Some(
                task.filter(|t| t.state == TaskState::Open)
                    .ok_or_else(|| no_longer(peer, "its task has ended"))?,
            )
        }
    };
    note_use(engine, &svid).await?;
    Ok(Caller::Agent {
        agent,
        id: peer.spiffe_id.clone(),
        serial: peer.serial.clone(),
        bound_to,
    })
}

/// Refuses a frozen or retired agent. Its SVIDs count no longer, and this tells it why. An agent
/// that is not registered is refused by its SVID.
async fn require_active(engine: &Engine, name: &AgentName) -> Result<(), Error> {
    match engine.store().agent(name).await? {
        Some(agent) if agent.state != AgentState::Active => Err(Error::AgentNotActive {
            agent: name.clone(),
            state: agent.state,
        }),
        Some(_) | None => Ok(()),
    }
}

async fn operator(
    engine: &Engine,
    (peer, ip): (&PeerIdentity, IpAddr),
    name: &OperatorName,
) -> Result<Caller, Error> {
    let svid = on_record(
        engine,
        (peer, ip),
        "it was replaced by a newer one, has expired, or is not in the ledger; use the one that `taskpass svid renew` wrote last, and if that was not you or there is none, have a new one made on the broker's machine with `taskpassd operator issue`",
    )
    .await?;
    note_use(engine, &svid).await?;
    Ok(Caller::Operator {
        name: name.clone(),
        id: peer.spiffe_id.clone(),
        serial: peer.serial.clone(),
    })
}

/// The record of the peer's certificate. A good signature alone does not make a certificate count.
async fn on_record(
    engine: &Engine,
    (peer, ip): (&PeerIdentity, IpAddr),
    otherwise: &str,
) -> Result<Arc<SvidRecord>, Error> {
    let Some(svid) = engine.store().svid(&peer.serial).await? else {
        engine.note_superseded(peer, ip).await;
        return Err(no_longer(peer, otherwise));
    };
    // The certificate names the caller; the record must agree, down to the key.
    if svid.holder != peer.identity || svid.key_sha256 != peer.key_sha256 {
        return Err(no_longer(
            peer,
            "it is not the one that was issued under this serial",
        ));
    }
    Ok(svid)
}

/// The first use of a renewed SVID ends the one before.
async fn note_use(engine: &Engine, svid: &SvidRecord) -> Result<(), Error> {
    match svid.state {
        SvidState::Active => Ok(()),
        SvidState::Pending => engine.activate_svid(svid).await,
    }
}

fn no_longer(peer: &PeerIdentity, why: &str) -> Error {
    Error::Unauthenticated(format!(
        "the identity `{}` does not count: {why}",
        peer.spiffe_id
    ))
}
