//! The first login: a join token becomes an identity directory.
//!
//! The token goes only to a server whose root has the fingerprint that the token carries, so a stranger in between
//! learns nothing and cannot plant a bundle of their own.

use rustls_pki_types::CertificateDer;
use taskpass_ca::PeerVerifier;
use taskpass_core::{Identity, SpiffeId, Timestamp, TrustDomain};
use taskpass_proto::v1::{
    AttestRequest, Bundle, X509Svid, identity_service_client::IdentityServiceClient,
};

use crate::{
    ClientConfig, Error, JoinToken, Leaf, RPC_TIMEOUT, channel,
    svid::{PrivateKey, Svid, new_key_and_csr},
    tls::{self, Trust},
    wire,
};

/// Whose identity may be lost to the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predecessor {
    /// Only one of the same SPIFFE ID, or one that has expired.
    Same,
    /// Whoever's it is.
    Anyone,
}

/// Exchanges `token` for an identity and stores it. Never repeated by itself once the token is sent: a token counts
/// once, and only the broker knows whether it has.
pub(crate) async fn attest(
    config: &ClientConfig,
    token: &JoinToken,
    predecessor: Predecessor,
) -> Result<Leaf, Error> {
    let holder = match predecessor {
        Predecessor::Same => holder(config).await?,
        Predecessor::Anyone => None,
    };
    let tls = tls::client_config(Trust::Pin(*token.root_pin()), None, config.clock.clone())?;
    let channel = channel::connect(&config.addr, tls).await?;
    let (key, csr) = new_key_and_csr()?;
    let request = AttestRequest {
        join_token: token.expose().to_owned(),
        csr,
        in_place_of: holder.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let addr = config.addr.as_str();
    let mut service = IdentityServiceClient::new(channel);
    let reply = tokio::time::timeout(RPC_TIMEOUT, service.attest(request))
        .await
        .map_err(|_elapsed| Error::Timeout {
            addr: addr.to_owned(),
            seconds: RPC_TIMEOUT.as_secs(),
        })?
        .map_err(|status| match (Error::from_status(addr, status), &holder) {
            (error, Some(holder)) if error.reason() == Some("FAILED_PRECONDITION") => {
                other_identity(config, holder)
            }
            (error, _) => error,
        })?
        .into_inner();
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
    crate::client::blocking(move || {
        // Without a bundle nothing can be verified, so it goes first.
        directory.save_bundle(&roots, &vkey)?;
        directory.stage(&svid)?;
        directory.promote()
    })
    .await?;
    Ok(leaf)
}

/// Who loses an identity that may still be of use. Join tokens are for agents only, so anybody else's is refused before
/// the token is sent.
async fn holder(config: &ClientConfig) -> Result<Option<SpiffeId>, Error> {
    let directory = config.directory.clone();
    let stored = crate::client::blocking(move || Ok(directory.holder())).await?;
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

/// Checks an SVID as it came: it is for our key, names somebody in the bundle's trust domain, and leads to a root of
/// the bundle.
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
    let chain = svid.chain.into_iter().map(CertificateDer::from).collect();
    let svid = Svid::new(key, chain)?;
    PeerVerifier::for_bundle(&domain, &roots)
        .and_then(|verifier| verifier.verify_client(&svid.chain, now))
        .map_err(|e| Error::Reply(format!("the new identity does not verify: {e}")))?;
    Ok((svid, roots))
}

fn pinned_is_among(roots: &[CertificateDer<'_>], pin: &[u8; 32]) -> Result<bool, Error> {
    for root in roots {
        if tls::root_pin(root)? == *pin {
            return Ok(true);
        }
    }
    Ok(false)
}
