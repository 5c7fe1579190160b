//! Renewal of the SVID: at two thirds of its life, when the broker's roots differ from the roots of
//! the bundle, or when a caller asks.
//!
//! The answer brings the trust bundle. It came over a connection to a broker that proved itself by
//! a root which this client trusts already, and that is the only way by which a root gets into an
//! identity directory that has one.
//!
//! The order makes every crash harmless. The new pair is durable before its first use, since the
//! broker stops counting the old certificate at that moment. One successful use proves the new pair
//! before it replaces the old one here.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;
use taskpass_proto::v1::{
    RenewSvidRequest, WhoAmIRequest, identity_service_client::IdentityServiceClient,
};

use crate::{
    Error, Leaf, RPC_TIMEOUT,
    attest::accept,
    directory::StoredIdentity,
    link::{Connection, Link, blocking},
    retry::jitter,
    svid::new_key_and_csr,
    wire,
};

/// How often the loop reads the wall clock, which may jump while the machine sleeps.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// An SVID that ends less than this before its task is not renewed: the next one would end there
/// too. Lifetimes are whole seconds.
const TASK_END_ROUNDING: Duration = Duration::from_secs(5);
/// The pause after a failure; it doubles from the first to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whether the age of the SVID matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Renew only past two thirds of its life, or after a change of the roots.
    Due,
    /// Renew at any age.
    Always,
}

/// Renews until the last client is dropped.
pub(crate) async fn run(connection: Arc<Connection>) {
    let (mut failures, mut floor) = (0_u32, Duration::ZERO);
    loop {
        let pause = if failures == 0 {
            connection.until_due().clamp(floor, LOOK_INTERVAL)
        } else {
            connection.jittered((PAUSE_FIRST * (1 << failures.min(6))).min(PAUSE_MAX))
        };
        tokio::select! {
            () = connection.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if !connection.until_due().is_zero() {
            continue;
        }
        // A certificate that lives very briefly must not turn this into a loop without a pause.
        floor = PAUSE_FIRST;
        match connection.renew(When::Due).await {
            Ok(leaf) => {
                failures = 0;
                tracing::debug!(serial = leaf.serial, until = %leaf.not_after, "identity renewed");
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if error.is_other_ledger() {
                    tracing::error!(%error, reason = error.reason(), "the identity is not renewed: a person must compare the ledger's key with the broker's");
                    continue;
                }
                tracing::warn!(%error, failures, "the identity could not be renewed; trying again");
            }
        }
    }
}

/// Refuses a bundle without any root that is trusted already. A replacement of the root keeps the
/// root before it in the bundle, so such a bundle is no step of one.
fn check_continuity(
    trusted: &[CertificateDer<'_>],
    shown: &[CertificateDer<'_>],
) -> Result<(), Error> {
    if shown.iter().any(|root| trusted.contains(root)) {
        return Ok(());
    }
    Err(Error::Reply(
        "its trust bundle has none of the roots that this identity trusts; nothing was stored, and only a new login takes up another bundle".to_owned(),
    ))
}

impl Connection {
    /// Replaces the SVID, and proves the new one before the old one is dropped.
    pub(crate) async fn renew(&self, when: When) -> Result<Leaf, Error> {
        let _here = self.renewing.lock().await;
        // What another process renewed meanwhile is adopted, and is not renewed again.
        let _elsewhere = self.keeper.lock().await?;
        if let Err(error) = self.adopt_stored(&self.link.load_full()).await {
            tracing::debug!(%error, "the stored identity is not used; renewing the one in use");
        }
        let present = self.link.load_full();
        if when == When::Due && !self.until_due().is_zero() {
            return Ok(present.svid.leaf.clone());
        }
        let (key, csr) = new_key_and_csr()?;
        let directory = self.config.directory.clone();
        let pinned = blocking(move || directory.pinned()).await?;
        let reply = self
            .call(RPC_TIMEOUT, |channel| {
                let request = RenewSvidRequest {
                    csr: csr.clone(),
                    consistent_with: pinned.size(),
                };
                async move {
                    IdentityServiceClient::new(channel)
                        .renew_svid(request)
                        .await
                }
            })
            .await?;
        let bundle = wire::required(reply.bundle, "bundle")?;
        let svid = wire::required(reply.svid, "svid")?;
        // Before anything is stored: the new identity of a broker with another history is not used.
        let seen = pinned.check(&bundle, reply.ledger, &self.config.directory)?;
        let (svid, roots) = accept(key, svid, &bundle, self.config.clock.now())?;
        check_continuity(&present.roots, &roots)?;
        if svid.leaf.spiffe_id != present.svid.leaf.spiffe_id {
            return Err(Error::Reply(format!(
                "the renewed identity is `{}`, not `{}`",
                svid.leaf.spiffe_id, present.svid.leaf.spiffe_id
            )));
        }
        let leaf = svid.leaf.clone();
        let fresh = StoredIdentity {
            svid,
            bundle: roots,
        };
        self.keeper.stage(&fresh, seen).await?;
        let fresh = match self.prove(fresh).await {
            Ok(link) => link,
            Err(error) => {
                // After any other failure the pair stays staged: the broker may have seen it, and
                // then it counts only the new certificate.
                if error.is_unknown_identity() {
                    self.keeper.discard(&leaf.serial).await?;
                }
                return Err(error);
            }
        };
        self.keeper.promote(&leaf.serial).await?;
        self.link.store(Arc::new(fresh));
        Ok(leaf)
    }

    /// Connects with a new identity and has the broker confirm it.
    async fn prove(&self, identity: StoredIdentity) -> Result<Link, Error> {
        let expected = identity.svid.leaf.spiffe_id.to_string();
        let link = Link::open(&self.config, identity).await?;
        let mut service = IdentityServiceClient::new(link.channel.clone());
        let reply = self
            .attempt(RPC_TIMEOUT, service.who_am_i(WhoAmIRequest {}))
            .await?;
        if reply.spiffe_id != expected {
            return Err(Error::Reply(format!(
                "the broker takes `{expected}` for `{}`",
                reply.spiffe_id
            )));
        }
        link.renewed();
        Ok(link)
    }

    /// How long until the SVID is renewed; zero when it is due. Clients spread over a twentieth of
    /// its life.
    fn until_due(&self) -> Duration {
        let link = self.link.load();
        let leaf = &link.svid.leaf;
        if link.is_behind() {
            return Duration::ZERO;
        }
        if self
            .task_end
            .is_some_and(|end| leaf.not_after.plus(TASK_END_ROUNDING) >= end)
        {
            return Duration::MAX;
        }
        let spread = leaf.not_after.since(leaf.not_before) / 20;
        // The serial is random and stays the same for one certificate; a fresh random number would
        // move the moment on every look.
        let share = u32::from_str_radix(leaf.serial.get(24..).unwrap_or_default(), 16).unwrap_or(0);
        let lead = spread.mul_f64(f64::from(share) / f64::from(u32::MAX));
        leaf.renew_at().minus(lead).since(self.config.clock.now())
    }

    fn jittered(&self, span: Duration) -> Duration {
        jitter(span, &*self.config.entropy).unwrap_or(span)
    }
}
