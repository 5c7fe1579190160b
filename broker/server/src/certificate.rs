//! The broker's own certificate: made at the start, and replaced while connections stay open: at
//! half of its life, and when the roots of the bundle have changed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use taskpass_ca::{Authority, IssueOptions, NewKey};
use taskpass_core::{Clock, Identity, Timestamp};
use taskpass_engine::reconcile::{Reconciler, Round};

use crate::{app::AppError, config::Config, transport::ServerTls};

/// How often it is looked at: the clock may have been put right.
const PAUSE: Duration = Duration::from_secs(10);

/// A certificate of the broker with its key.
pub(crate) struct ServerCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
    roots: Vec<CertificateDer<'static>>,
}

impl ServerCertificate {
    /// A fresh key and certificate. The roots go along in the chain: an agent that attests knows
    /// only the fingerprint of one, and a client that has an older bundle learns that there is a
    /// newer one.
    pub(crate) fn new(authority: &Authority, config: &Config) -> Result<Self, AppError> {
        let key = NewKey::generate().map_err(AppError::setup("making the broker's key"))?;
        let identity = Identity::Broker(config.identity.node.clone());
        let issued = authority
            .issue(&identity, key.public_key(), &IssueOptions::default())
            .map_err(AppError::setup("signing the broker's certificate"))?;
        let roots = authority.served_roots();
        let mut chain = issued.chain_der;
        chain.extend(roots.iter().cloned());
        Ok(Self {
            chain,
            key: key.private_key_der(),
            not_before: issued.not_before,
            not_after: issued.not_after,
            roots,
        })
    }
}

/// The certificate that the transport shows.
#[derive(Debug)]
pub(crate) struct ShownCertificate {
    authority: Arc<Authority>,
    tls: Arc<ServerTls>,
    config: Config,
    in_order: Mutex<InOrder>,
}

/// When the shown certificate needs no renewal.
#[derive(Debug)]
struct InOrder {
    from: Timestamp,
    until: Timestamp,
    /// The roots that it is shown with.
    roots: Vec<CertificateDer<'static>>,
}

impl ShownCertificate {
    pub(crate) fn new(authority: Arc<Authority>, tls: Arc<ServerTls>, config: Config) -> Self {
        Self {
            authority,
            tls,
            config,
            in_order: Mutex::new(InOrder {
                from: Timestamp::MAX,
                until: Timestamp::EPOCH,
                roots: Vec::new(),
            }),
        }
    }

    /// Renews it unless it is in order at `now`.
    pub(crate) fn renew_if_due(&self, now: Timestamp) -> Result<(), AppError> {
        let mut in_order = self.in_order.lock();
        // A certificate that begins in the future was made while the clock was ahead, and no peer
        // takes it before then.
        let timely = (in_order.from..in_order.until).contains(&now);
        if timely && in_order.roots == self.authority.served_roots() {
            return Ok(());
        }
        let new = ServerCertificate::new(&self.authority, &self.config)?;
        let life = new.not_after.since(new.not_before);
        self.tls
            .replace(new.chain, new.key)
            .map_err(AppError::setup("replacing the certificate"))?;
        *in_order = InOrder {
            from: new.not_before,
            until: new.not_before.plus(life / 2),
            roots: new.roots,
        };
        Ok(())
    }
}

/// Renews the certificate that the transport shows.
pub(crate) struct CertificateRenewal {
    shown: Arc<ShownCertificate>,
    clock: Arc<dyn Clock>,
}

impl CertificateRenewal {
    pub(crate) const fn new(shown: Arc<ShownCertificate>, clock: Arc<dyn Clock>) -> Self {
        Self { shown, clock }
    }
}

#[async_trait]
impl Reconciler for CertificateRenewal {
    fn name(&self) -> &'static str {
        "certificate"
    }

    async fn round(&mut self) -> Round {
        match self.shown.renew_if_due(self.clock.now()) {
            Ok(()) => Round::Done(PAUSE),
            Err(error) => {
                tracing::error!(%error, "the broker's certificate could not be renewed; trying again");
                Round::Failed {
                    pause: PAUSE,
                    message: error.to_string(),
                }
            }
        }
    }
}
