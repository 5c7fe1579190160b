//! The installation: made once, by the first entry of the ledger.

use taskpass_core::{Event, InstallationStep, RecordedRoot, RootCertificate, Timestamp, Topic};

use super::{
    Change, Effects, State,
    refusal::{Refusal, exists, wrong},
};

impl State {
    /// The first entry makes the installation, and no later one does.
    pub(super) fn admit_in_place(&self, event: &Event) -> Result<(), Refusal> {
        let makes_it = matches!(
            event.topic(),
            Topic::Installation(InstallationStep::Initialized { .. })
        );
        match (makes_it, self.trust_domain.is_some()) {
            (true, true) => Err(exists("the installation", &"ledger")),
            (true, false) | (false, true) => Ok(()),
            (false, false) => wrong("the ledger".to_owned(), "empty"),
        }
    }
}

impl State {
    /// An accepted time stands in an entry of its own, which says truly from where time moved.
    pub(super) fn admit_installation(
        &self,
        step: &InstallationStep<'_>,
        time: Timestamp,
    ) -> Result<(), Refusal> {
        match *step {
            InstallationStep::ClockAccepted { previous, accepted }
                if previous != self.last_time() || accepted != time =>
            {
                wrong("the clock".to_owned(), "accepted for another moment")
            }
            InstallationStep::RootChanged {
                root,
                stage,
                serial: _,
                certificate_sha256,
                forced,
            } => self.admit_root((root, stage), certificate_sha256, forced, time),
            InstallationStep::ClockAccepted { .. }
            | InstallationStep::Initialized { .. }
            | InstallationStep::BrokerStarted
            | InstallationStep::ConfigurationReloaded
            | InstallationStep::BrokerStopped
            | InstallationStep::IndexRebuilt
            | InstallationStep::KeysSealed
            | InstallationStep::LedgerArchived
            | InstallationStep::CaChanged => Ok(()),
        }
    }

    pub(super) fn installation_effects(&self, step: &InstallationStep<'_>) -> Effects {
        match step {
            InstallationStep::Initialized { trust_domain, root } => {
                let mut changes = vec![Change::TrustDomain(Some((*trust_domain).clone()))];
                changes.extend(root.map(State::first_root));
                Effects::of(changes)
            }
            InstallationStep::ClockAccepted { accepted, .. } => {
                Effects::of(self.rebased(*accepted))
            }
            InstallationStep::RootChanged {
                root,
                stage,
                serial,
                certificate_sha256,
                forced: _,
            } => Effects::of(self.root_moved(
                *root,
                RecordedRoot {
                    stage: *stage,
                    certificate: RootCertificate {
                        serial: (*serial).to_owned(),
                        certificate_sha256: (*certificate_sha256).to_owned(),
                    },
                },
            )),
            InstallationStep::BrokerStarted
            | InstallationStep::ConfigurationReloaded
            | InstallationStep::BrokerStopped
            | InstallationStep::IndexRebuilt
            | InstallationStep::KeysSealed
            | InstallationStep::LedgerArchived
            | InstallationStep::CaChanged => Effects::default(),
        }
    }
}
