//! The use of a superseded SVID. Two parties hold the identity: one renewed it or logged in, and
//! the other still shows the SVID from before. The broker cannot tell which of them is a thief. So
//! it tells a person, and freezes the agent where the configuration says so.

use std::net::IpAddr;

use taskpass_ca::PeerIdentity;
use taskpass_core::{Actor, AgentState, Event, InvalidValue, Text};
use taskpass_store::SupersededSvid;

use crate::{Engine, Error, OnIdentityConflict};

impl Engine {
    /// Records that a peer shows a superseded SVID, the first time for each SVID. The request is
    /// refused in any case, so a failure to record it is only logged.
    pub(super) async fn note_superseded(&self, peer: &PeerIdentity, ip: IpAddr) {
        let superseded = match self.context.store.superseded_svid(&peer.serial).await {
            Ok(Some(superseded)) => superseded,
            Ok(None) => return,
            Err(error) => {
                let message = Error::from(error).message();
                tracing::warn!(error = %message, "whether an SVID is superseded is not known");
                return;
            }
        };
        if superseded.noticed || !is_of(&superseded, peer) {
            return;
        }
        match self.record_conflict(peer, ip).await {
            Ok(()) => tracing::warn!(
                holder = %peer.spiffe_id, serial = %peer.serial, %ip,
                "a superseded certificate is used: two parties hold this identity; if only one should, see docs/incident-response.md"
            ),
            // Another request with the same SVID was first.
            Err(Error::Precondition(error)) => {
                tracing::debug!(error, serial = %peer.serial, "noted meanwhile");
            }
            Err(error) => tracing::warn!(
                error = %error.message(), holder = %peer.spiffe_id, serial = %peer.serial,
                "the use of a superseded certificate could not be recorded"
            ),
        }
    }

    async fn record_conflict(&self, peer: &PeerIdentity, ip: IpAddr) -> Result<(), Error> {
        let conflict = Event::IdentityConflict {
            serial: peer.serial.clone(),
            holder: peer.spiffe_id.clone(),
            ip: Some(ip),
        };
        let snapshot = self.snapshot();
        let freezes = snapshot.settings().agents.on_identity_conflict;
        let active = match (freezes, peer.identity.agent()) {
            (OnIdentityConflict::Freeze, Some(name)) => {
                let agent = self.context.store.agent(name).await?;
                agent.filter(|agent| agent.state == AgentState::Active)
            }
            (OnIdentityConflict::Record, _) | (OnIdentityConflict::Freeze, None) => None,
        };
        let Some(agent) = active else {
            self.commit_reserved(vec![conflict], Vec::new()).await?;
            return Ok(());
        };
        let frozen = Event::AgentFrozen {
            agent: agent.name.clone(),
            reason: reason(peer, ip).map_err(|e| Error::Store(e.into()))?,
            by: Actor::Broker,
        };
        // In one commit: a freeze that failed after its record would never be tried again.
        self.commit_stop(&agent.name, vec![conflict, frozen], Vec::new())
            .await
            .map(drop)
    }
}

fn is_of(superseded: &SupersededSvid, peer: &PeerIdentity) -> bool {
    let svid = &superseded.svid;
    svid.holder == peer.identity && svid.key_sha256 == peer.key_sha256
}

fn reason(peer: &PeerIdentity, ip: IpAddr) -> Result<Text, InvalidValue> {
    format!("the superseded SVID {} was used from {ip}", peer.serial).parse()
}
