//! Replacement of the root, in three moves that a person orders: prepare, activate, retire.
//!
//! A *prepared* root is in the bundle beside the active one. Once it is *active*, it signs the
//! issuing authorities and the operators, and the key of the root before it is erased. The
//! *outgoing* root stays in the bundle until it is *retired*, and what it signed is accepted so
//! long.
//!
//! An overlap of the bundles alone would serve only peers that fetched the bundle between the first
//! two moves; a person may be away for weeks. The old root therefore signs the new root's name and
//! key. The broker sends this cross certificate along, so that a peer that knows only the old root,
//! from its bundle or from a join token, verifies it until the old root is retired.

use rustls_pki_types::CertificateDer;
use taskpass_core::{RootNumber, RootStage, Timestamp, sha256_hex};

use super::{Authority, Deps, Directory, loaded::Root, validity};
use crate::{
    CaRecord, CaStep, Error, NewKey, PublicKey, RootRecord, Stage,
    custody::Custody,
    pem,
    template::{self, Serial, Tier, Validity},
};

/// The changes by an activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootActivated {
    /// The root that signs from now on.
    pub active: RootRecord,
    /// The root that signed until now.
    pub outgoing: RootRecord,
    /// The issuing authorities that changed stage, oldest first.
    pub authorities: Vec<CaStep>,
}

/// A new root that is on no disk yet.
pub(super) struct MadeRoot {
    record: RootRecord,
    key: NewKey,
    certificate: CertificateDer<'static>,
    serial: Serial,
    validity: Validity,
}

/// Makes key and self-signed certificate of a root.
pub(super) fn make_root(number: RootNumber, deps: &Deps) -> Result<MadeRoot, Error> {
    let domain = &deps.trust_domain;
    let now = deps.clock.now();
    let validity = validity(now, now.plus(deps.config.root_ttl));
    let key = NewKey::generate()?;
    let serial = Serial::generate(deps.entropy.as_ref())?;
    let params = template::authority_params(Tier::Root, domain, serial, validity)?;
    let certificate = template::self_sign(&params, &key)?;
    template::check_authority(&certificate, domain, key.public_key()).map_err(Error::Signed)?;
    Ok(MadeRoot {
        record: RootRecord {
            number,
            stage: RootStage::Prepared,
            serial: serial.hex(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            certificate_sha256: sha256_hex(&certificate),
        },
        key,
        certificate,
        serial,
        validity,
    })
}

impl MadeRoot {
    /// Writes the key, and then the certificate: a key alone has signed nothing.
    pub(super) fn write(&self, custody: &Custody) -> Result<(), Error> {
        let key_pem = self.key.private_key_pem();
        custody.write(&self.record.key_file(), key_pem.expose().as_bytes())?;
        custody.write(
            &self.record.certificate_file(),
            pem::certificate(&self.certificate).as_bytes(),
        )
    }
}

/// Refuses to sign with a root outside its life.
pub(super) fn require_valid(root: &Root, now: Timestamp) -> Result<(), Error> {
    let Validity {
        not_before,
        not_after,
    } = root.validity;
    if not_after <= now {
        return Err(Error::RootExpired(not_after));
    }
    if now < not_before {
        return Err(Error::ClockWentBack {
            now,
            start: not_before,
        });
    }
    Ok(())
}

impl Authority {
    /// The roots of the bundle, the active one first.
    pub fn roots(&self) -> Vec<RootRecord> {
        let snapshot = self.snapshot.load();
        snapshot.roots.iter().map(|it| it.record.clone()).collect()
    }

    /// The certificates that the broker sends after its own and its issuing authority's: the roots
    /// of the bundle, where an activated one stands in the form that the outgoing root has signed.
    /// The root that every peer knows comes last.
    pub fn served_roots(&self) -> Vec<CertificateDer<'static>> {
        self.snapshot.load().roots.served()
    }

    /// Makes another root and publishes it in the bundle. It signs nothing before
    /// [`Self::activate_root`]. Blocks on the disk.
    pub fn prepare_root(&self) -> Result<RootRecord, Error> {
        let mut rotation = self.rotation.lock();
        self.settle(&mut rotation)?;
        let snapshot = self.snapshot.load_full();
        if let Some(other) = &snapshot.roots.other {
            return Err(Error::RootStage(in_the_way(&other.record)));
        }
        let active = &snapshot.roots.active;
        require_valid(active, self.deps.clock.now())?;
        rotation.directory = Directory::Unswept;
        let made = make_root(active.record.number.next(), &self.deps)?;
        let cross = self.sign_across(&made, active)?;
        made.write(&self.custody)?;
        let cross = pem::certificate(&cross);
        self.custody
            .write(&made.record.cross_file(), cross.as_bytes())?;
        let mut after = rotation.state.clone();
        after.roots.push(made.record.clone());
        after.sequence = after.sequence.saturating_add(1);
        self.advance(&mut rotation, after)?;
        Ok(made.record)
    }

    /// The name and key of a new root, signed by the root before it.
    fn sign_across(
        &self,
        made: &MadeRoot,
        before: &Root,
    ) -> Result<CertificateDer<'static>, Error> {
        let domain = &self.deps.trust_domain;
        let within = Validity {
            not_before: made.validity.not_before.max(before.validity.not_before),
            not_after: made.validity.not_after.min(before.validity.not_after),
        };
        let params = template::authority_params(Tier::Root, domain, made.serial, within)?;
        let key: &PublicKey = made.key.public_key();
        let cross = template::sign(&params, key, &self.root_issuer(before)?)?;
        template::check_authority(cross.der(), domain, key).map_err(Error::Signed)?;
        Ok(cross.into())
    }

    /// Has the prepared root sign from now on, through an issuing authority that it signs, and
    /// erases the key of the root before it. Blocks on the disk.
    pub fn activate_root(&self) -> Result<RootActivated, Error> {
        let mut rotation = self.rotation.lock();
        self.settle(&mut rotation)?;
        let snapshot = self.snapshot.load_full();
        let prepared = |root: &&Root| root.record.stage == RootStage::Prepared;
        let Some(next) = snapshot.roots.iter().find(prepared) else {
            return Err(Error::RootStage(
                "no root is prepared; run `taskpassd root prepare` first".to_owned(),
            ));
        };
        let now = self.deps.clock.now();
        rotation.directory = Directory::Unswept;
        let issuing = self.prepare(now, self.longest_end(now, next), next)?;
        let mut after = rotation.state.clone();
        let mut authorities = Vec::new();
        for ca in &mut after.authorities {
            if ca.stage != Stage::Retired {
                ca.stage = Stage::Retired;
                authorities.push(ca.clone());
            }
        }
        let issuing = CaRecord {
            stage: Stage::Active,
            ..issuing
        };
        after.authorities.push(issuing.clone());
        authorities.push(issuing);
        for root in &mut after.roots {
            root.stage = match root.stage {
                RootStage::Prepared => RootStage::Active,
                RootStage::Active | RootStage::Outgoing => RootStage::Outgoing,
                RootStage::Retired => RootStage::Retired,
            };
        }
        self.advance(&mut rotation, after)?;
        self.sweep_or_warn(&mut rotation);
        let stands = |stage| rotation.state.root_in(stage).cloned();
        let both = stands(RootStage::Active).zip(stands(RootStage::Outgoing));
        let (active, outgoing) = both.ok_or_else(|| Error::Missing(self.custody.dir().into()))?;
        Ok(RootActivated {
            active,
            outgoing,
            authorities,
        })
    }

    /// Takes the outgoing root with this number out of the bundle. From now on nothing counts that
    /// hangs on it; the caller has made sure that nothing does that is needed. Blocks on the disk.
    pub fn retire_root(&self, number: RootNumber) -> Result<RootRecord, Error> {
        let mut rotation = self.rotation.lock();
        self.settle(&mut rotation)?;
        let outgoing = rotation.state.root_in(RootStage::Outgoing);
        let Some(outgoing) = outgoing.filter(|root| root.number == number).cloned() else {
            return Err(Error::RootStage(format!(
                "root {number} is not outgoing, so it cannot be retired; `taskpassd root status` shows the roots"
            )));
        };
        let mut after = rotation.state.clone();
        after.roots.retain(|root| root.number != outgoing.number);
        after.authorities.retain(|ca| ca.root != outgoing.number);
        after.sequence = after.sequence.saturating_add(1);
        self.advance(&mut rotation, after)?;
        self.sweep_or_warn(&mut rotation);
        Ok(outgoing)
    }
}

fn in_the_way(other: &RootRecord) -> String {
    let (number, stage) = (other.number, other.stage.as_str());
    let next = match other.stage {
        RootStage::Prepared => "activate",
        RootStage::Active | RootStage::Outgoing | RootStage::Retired => "retire",
    };
    format!(
        "root {number} is {stage} already; finish its replacement with `taskpassd root {next}` first"
    )
}
