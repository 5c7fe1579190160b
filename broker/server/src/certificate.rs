//! The broker's own certificate: made at the start, and replaced at half of its life while
//! connections stay open.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
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
}

impl ServerCertificate {
    /// A fresh key and certificate. The root goes along in the chain, so that an agent that
    /// attests, and knows only the root's fingerprint, can check it.
    pub(crate) fn new(authority: &Authority, config: &Config) -> Result<Self, AppError> {
        let key = NewKey::generate().map_err(AppError::setup("making the broker's key"))?;
        let identity = Identity::Broker(config.identity.node.clone());
        let issued = authority
            .issue(&identity, key.public_key(), &IssueOptions::default())
            .map_err(AppError::setup("signing the broker's certificate"))?;
        let mut chain = issued.chain_der;
        chain.extend(authority.bundle().roots_der.iter().cloned());
        Ok(Self {
            chain,
            key: key.private_key_der(),
            not_before: issued.not_before,
            not_after: issued.not_after,
        })
    }
}

/// Renews the certificate that the transport shows.
pub(crate) struct CertificateRenewal {
    authority: Arc<Authority>,
    tls: Arc<ServerTls>,
    config: Config,
    clock: Arc<dyn Clock>,
    /// From when until when the present one needs no renewal.
    in_order: (Timestamp, Timestamp),
}

impl CertificateRenewal {
    pub(crate) fn new(
        authority: Arc<Authority>,
        tls: Arc<ServerTls>,
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            authority,
            tls,
            config,
            clock,
            in_order: (Timestamp::MAX, Timestamp::EPOCH),
        }
    }

    fn renew(&mut self) -> Result<(), AppError> {
        let new = ServerCertificate::new(&self.authority, &self.config)?;
        let life = new.not_after.since(new.not_before);
        self.tls
            .replace(new.chain, new.key)
            .map_err(AppError::setup("replacing the certificate"))?;
        self.in_order = (new.not_before, new.not_before.plus(life / 2));
        Ok(())
    }
}

#[async_trait]
impl Reconciler for CertificateRenewal {
    fn name(&self) -> &'static str {
        "certificate"
    }

    async fn round(&mut self) -> Round {
        // A certificate that begins in the future was made while the clock was ahead, and no peer
        // takes it before then.
        let (now, (from, until)) = (self.clock.now(), self.in_order);
        if (from..until).contains(&now) {
            return Round::Done(PAUSE);
        }
        match self.renew() {
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
