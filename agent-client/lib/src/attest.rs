//! The first login: a join token becomes an identity directory.
//!
//! The client sends the token only if the fingerprint in it is the fingerprint of the server's
//! root. A server in between learns nothing and cannot plant a bundle of its own.

use rustls_pki_types::CertificateDer;
use taskpass_core::{Identity, SpiffeId, Timestamp, TrustDomain};
use taskpass_proto::v1::{
    AttestRequest, Bundle, X509Svid, attest_request::Evidence,
    identity_service_client::IdentityServiceClient,
};
use taskpass_spiffe_verify::PeerVerifier;

use crate::{
    ClientConfig, Error, JoinToken, Leaf, RPC_TIMEOUT, channel, link,
    svid::{PrivateKey, Svid, new_key_and_csr},
    tls::{self, Trust},
    wire,
};

/// Which stored identity the new one may overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predecessor {
    /// Only an identity with the same SPIFFE ID, or an expired one.
    Same,
    /// Any identity.
    Any,
}

/// Exchanges `token` for an identity and stores it. The request is sent once: a token counts once,
/// and only the broker knows whether this one has.
pub(crate) async fn attest(
    config: &ClientConfig,
    token: &JoinToken,
    predecessor: Predecessor,
) -> Result<Leaf, Error> {
    let holder = match predecessor {
        Predecessor::Same => holder(config).await?,
        Predecessor::Any => None,
    };
    let tls = tls::client_config(Trust::Pin(*token.root_pin()), None, config.clock.clone())?;
    let channel = channel::connect(&config.addr, tls).await?;
    let (key, csr) = new_key_and_csr()?;
    let request = AttestRequest {
        evidence: Some(Evidence::JoinToken(token.expose().to_owned())),
        csr,
        in_place_of: holder.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let addr = config.addr.as_str();
    let mut service = IdentityServiceClient::new(channel);
    let reply = link::attempt(addr, RPC_TIMEOUT, service.attest(request))
        .await
        .map_err(|error| match &holder {
            Some(holder) if error.reason() == Some("FAILED_PRECONDITION") => {
                other_identity(config, holder)
            }
            _ => error,
        })?;
    let bundle = wire::required(reply.bundle, "bundle")?;
    let svid = wire::required(reply.svid, "svid")?;
    let (svid, roots) = accept(key, svid, &bundle, config.clock.now())?;
    if holder.is_some_and(|holder| holder != svid.leaf.spiffe_id) {
        return Err(Error::Reply(format!(
            "the new identity is `{}`, which was not asked for; it is not stored",
            svid.leaf.spiffe_id
        )));
    }
    if !pinned_is_among(&roots, token.root_pin())? {
        return Err(Error::Reply(
            "the trust bundle does not have the root that the join token names".to_owned(),
        ));
    }
    let leaf = svid.leaf.clone();
    let (directory, vkey) = (config.directory.clone(), bundle.ledger_vkey);
    link::blocking(move || {
        // An identity without a bundle is useless, since it verifies no broker. So the bundle goes
        // first.
        directory.save_bundle(&roots, &vkey)?;
        directory.stage(&svid)?;
        directory.promote()
    })
    .await?;
    Ok(leaf)
}

/// The agent of a stored identity that has not expired. Join tokens are for agents only, so an
/// operator's identity is refused before the token is sent.
async fn holder(config: &ClientConfig) -> Result<Option<SpiffeId>, Error> {
    let directory = config.directory.clone();
    let stored = link::blocking(move || Ok(directory.holder())).await?;
    let Some(leaf) = stored.filter(|leaf| leaf.not_after > config.clock.now()) else {
        return Ok(None);
    };
    match Identity::parse(leaf.spiffe_id.as_str(), &leaf.trust_domain) {
        Ok(Identity::Agent(_)) => Ok(Some(leaf.spiffe_id)),
        _ => Err(other_identity(config, &leaf.spiffe_id)),
    }
}

fn other_identity(config: &ClientConfig, holder: &SpiffeId) -> Error {
    Error::OtherIdentity {
        dir: config.directory.path().to_owned(),
        holder: holder.to_string(),
    }
}

/// Checks an SVID from the broker: it is for our key, its SPIFFE ID is in the bundle's trust
/// domain, and its chain ends at a root of the bundle.
pub(crate) fn accept(
    key: PrivateKey,
    svid: X509Svid,
    bundle: &Bundle,
    now: Timestamp,
) -> Result<(Svid, Vec<CertificateDer<'static>>), Error> {
    let roots: Vec<CertificateDer<'static>> = bundle
        .x509_authorities
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let domain: TrustDomain = wire::parsed(&bundle.trust_domain)?;
    let svid = verified(key, svid, &domain, &roots, now)?;
    Ok((svid, roots))
}

/// The same against roots that this side knows already.
pub(crate) fn verified(
    key: PrivateKey,
    svid: X509Svid,
    domain: &TrustDomain,
    roots: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<Svid, Error> {
    let chain = svid.chain.into_iter().map(CertificateDer::from).collect();
    let svid = Svid::new(key, chain)?;
    PeerVerifier::for_bundle(domain, roots)
        .and_then(|verifier| verifier.verify_client(&svid.chain, now))
        .map_err(|e| Error::Reply(format!("the new identity does not verify: {e}")))?;
    Ok(svid)
}

fn pinned_is_among(roots: &[CertificateDer<'_>], pin: &[u8; 32]) -> Result<bool, Error> {
    for root in roots {
        if tls::root_pin(root)? == *pin {
            return Ok(true);
        }
    }
    Ok(false)
}
