//! The first login: a join token becomes an identity directory.
//!
//! The client sends the token only if the fingerprint in it is the fingerprint of a root above the
//! server. A server in between learns nothing and cannot plant a bundle of its own.

use rustls_pki_types::CertificateDer;
use taskpass_core::{Identity, SpiffeId, Timestamp, TrustDomain};
use taskpass_ledger_verify::{SignedRoots, VerifyingKey};
use taskpass_proto::v1::{
    AttestRequest, Bundle, GetBundleRequest, GetBundleResponse, X509Svid, attest_request::Evidence,
    identity_service_client::IdentityServiceClient,
};
use taskpass_spiffe_verify::PeerVerifier;
use tonic::transport::Channel;

use crate::{
    ClientConfig, Error, JoinToken, Leaf, Pinned, RPC_TIMEOUT, channel, link, renew_lock,
    svid::{PrivateKey, Svid, new_key_and_csr},
    tls::{self, Trust},
    wire,
};

/// Which stored identity the new one may overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Predecessor {
    /// Only an identity of the same installation: one with the same SPIFFE ID, or an expired one.
    #[default]
    Same,
    /// Any identity. With the identity of another installation its ledger key is given up, too.
    Any,
}

/// The decisions that a person made about a login beforehand.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// Which stored identity the new one may overwrite.
    pub predecessor: Predecessor,
    /// The ledger key that the person has compared with the broker's. It is pinned in place of the
    /// pinned one.
    pub accepted_ledger_key: Option<VerifyingKey>,
}

/// Exchanges `token` for an identity and stores it. The request is sent once: a token counts once,
/// and only the broker knows whether this one has.
pub(crate) async fn attest(
    config: &ClientConfig,
    token: &JoinToken,
    login: &Login,
) -> Result<Leaf, Error> {
    let _lock = renew_lock::acquire(&config.directory).await?;
    let holder = match login.predecessor {
        Predecessor::Same => holder(config).await?,
        Predecessor::Any => None,
    };
    let tls = tls::client_config(Trust::Pin(*token.root_pin()), None, config.clock.clone())?;
    let channel = channel::connect(&config.addr, tls.config).await?;
    let installation = installation(config, token, login, &channel).await?;
    let (pinned, pin) = pinned(config, login, installation, &channel).await?;
    let (key, csr) = new_key_and_csr()?;
    let request = AttestRequest {
        evidence: Some(Evidence::JoinToken(token.expose().to_owned())),
        csr,
        in_place_of: holder.as_ref().map(ToString::to_string).unwrap_or_default(),
        consistent_with: pinned.size(),
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
    let seen = pinned.check(&bundle, reply.ledger, &config.directory)?;
    let leaf = svid.leaf.clone();
    let directory = config.directory.clone();
    link::blocking(move || {
        if let (Pin::Replace, Some(key)) = (pin, &seen.key) {
            directory.accept_ledger_key(key)?;
        }
        // An identity without a bundle is useless, since it verifies no broker. So the bundle goes
        // first.
        directory.save_trust(&roots, &seen)?;
        directory.stage(&svid)?;
        directory.promote(&svid.leaf.serial)
    })
    .await?;
    Ok(leaf)
}

/// Whether the directory belongs to the installation of the join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Installation {
    /// It does, or it belongs to none.
    Same,
    /// It belongs to another one.
    Other,
}

/// What happens to the pinned ledger key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pin {
    Keep,
    Replace,
}

/// Compares the directory with the root that the join token names, before the token is sent. Two
/// installations may have the same trust domain and the same agent, so names alone would let the
/// second one replace the identity of the first.
///
/// An installation with another root is the same one if the pinned ledger key says so: its root was
/// replaced while this identity was not used. That the server shows the ledger is not enough, since
/// every agent of the installation can show it.
async fn installation(
    config: &ClientConfig,
    token: &JoinToken,
    login: &Login,
    channel: &Channel,
) -> Result<Installation, Error> {
    let directory = config.directory.clone();
    let read = move || Ok((directory.roots(), directory.holder(), directory.pinned()));
    let (roots, holder, stored) = link::blocking(read).await?;
    let known = roots.map(|roots| pinned_is_among(&roots, token.root_pin()).unwrap_or(false));
    let as_roots_say = match known {
        Some(false) => Installation::Other,
        Some(true) | None => Installation::Same,
    };
    let Some(holder) = holder.filter(|_| known != Some(true)) else {
        return Ok(as_roots_say);
    };
    let same = match stored.ok().and_then(|stored| stored.key) {
        Some(key) => has_root(config, token, (&key, &holder), channel).await?,
        None => known.is_none(),
    };
    match login.predecessor {
        _ if same => Ok(Installation::Same),
        Predecessor::Any => Ok(as_roots_say),
        Predecessor::Same => Err(Error::OtherInstallation {
            dir: config.directory.path().to_owned(),
            holder: holder.spiffe_id.to_string(),
        }),
    }
}

/// Whether the ledger's key says that the root of the join token belongs to its installation. It
/// must have said so after the stored identity began: an earlier list may name a root that was
/// retired since, and its key may be in other hands.
async fn has_root(
    config: &ClientConfig,
    token: &JoinToken,
    (key, holder): (&VerifyingKey, &Leaf),
    channel: &Channel,
) -> Result<bool, Error> {
    let reply = bundle(config, channel).await?;
    Ok(SignedRoots::open(&reply.signed_roots, key)
        .is_ok_and(|roots| roots.has(token.root_pin()) && roots.time() >= holder.not_before))
}

/// The ledger that the broker's answer is compared with, and what happens to the pinned key. A
/// broker with another key is noticed here, before the token is sent, so that it still counts.
async fn pinned(
    config: &ClientConfig,
    login: &Login,
    installation: Installation,
    channel: &Channel,
) -> Result<(Pinned, Pin), Error> {
    let directory = config.directory.clone();
    let stored = link::blocking(move || Ok(directory.pinned())).await?;
    if let Some(key) = &login.accepted_ledger_key {
        let accepted = Pinned {
            key: Some(key.clone()),
            newest: None,
        };
        check_bundle(config, &accepted, channel).await?;
        return Ok((accepted, Pin::Replace));
    }
    let stored = stored?;
    if stored.key.is_none() {
        return Ok((stored, Pin::Keep));
    }
    match check_bundle(config, &stored, channel).await {
        Ok(()) => Ok((stored, Pin::Keep)),
        Err(Error::LedgerKeyChanged { .. }) if installation == Installation::Other => {
            Ok((Pinned::default(), Pin::Replace))
        }
        Err(error) => Err(error),
    }
}

async fn check_bundle(
    config: &ClientConfig,
    pinned: &Pinned,
    channel: &Channel,
) -> Result<(), Error> {
    let bundle = wire::required(bundle(config, channel).await?.bundle, "bundle")?;
    pinned.check_key(&bundle, &config.directory).map(drop)
}

async fn bundle(config: &ClientConfig, channel: &Channel) -> Result<GetBundleResponse, Error> {
    let mut service = IdentityServiceClient::new(channel.clone());
    let asked = service.get_bundle(GetBundleRequest {});
    link::attempt(config.addr.as_str(), RPC_TIMEOUT, asked).await
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

/// Whether the chain of an SVID ends at one of the roots.
pub(crate) fn verifies(
    svid: &X509Svid,
    domain: &TrustDomain,
    roots: &[CertificateDer<'_>],
    now: Timestamp,
) -> bool {
    let chain: Vec<CertificateDer<'_>> = svid
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    PeerVerifier::for_bundle(domain, roots)
        .and_then(|verifier| verifier.verify_client(&chain, now))
        .is_ok()
}

fn pinned_is_among(roots: &[CertificateDer<'_>], pin: &[u8; 32]) -> Result<bool, Error> {
    for root in roots {
        if tls::root_pin(root)? == *pin {
            return Ok(true);
        }
    }
    Ok(false)
}
