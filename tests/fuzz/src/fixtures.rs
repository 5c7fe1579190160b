//! The authorities and the small ledger that targets check inputs against. They are the same in
//! every run.
//!
//! Every key comes from a fixed seed and signs with Ed25519, so that signatures are the same, too.
//! These keys protect nothing.

use std::{path::Path, sync::OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use taskpass_core::{Entropy, SeededEntropy, Timestamp, TrustDomain};
use taskpass_ledger::{Checkpoint, Ledger, Options, Priority, SigningKey, VerifyingKey, export};

/// The name in the only SVID.
pub(crate) const BUILDER: &str = "spiffe://acme.test/agent/builder";
/// The origin of the ledger.
pub(crate) const ORIGIN: &str = "taskpass/acme.test";
/// Entries of the ledger.
pub(crate) const ENTRIES: u64 = 12;

const LEDGER_SEED: u64 = 7;

pub(crate) fn trust_domain() -> TrustDomain {
    "acme.test".parse().expect("a trust domain")
}

/// The time at which all fixtures are valid.
pub(crate) fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().expect("a time")
}

/// An Ed25519 key from a seed (RFC 8410, section 7).
pub(crate) fn key(seed: u8) -> KeyPair {
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8(seed))).expect("a key")
}

/// The same key as a PKCS #8 document.
pub(crate) fn pkcs8(seed: u8) -> Vec<u8> {
    const BEFORE_SEED: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    [BEFORE_SEED.as_slice(), &[seed; 32]].concat()
}

/// Root, issuing authority and one SVID, with the key of each.
pub(crate) struct Authorities {
    pub(crate) root: CertificateDer<'static>,
    pub(crate) issuing: CertificateDer<'static>,
    pub(crate) leaf: CertificateDer<'static>,
    pub(crate) issuing_key: KeyPair,
    pub(crate) leaf_key: KeyPair,
}

pub(crate) fn authorities() -> &'static Authorities {
    static MADE: OnceLock<Authorities> = OnceLock::new();
    MADE.get_or_init(|| {
        let (root_key, issuing_key, leaf_key) = (key(1), key(2), key(3));
        let root_params = authority("root", 1, BasicConstraints::Unconstrained);
        let root = root_params
            .self_signed(&root_key)
            .expect("a root")
            .der()
            .clone();
        let above = Issuer::from_params(&root_params, &root_key);
        let issuing_params = authority("issuing", 2, BasicConstraints::Constrained(0));
        let issuing = issuing_params
            .signed_by(&issuing_key, &above)
            .expect("an authority");
        let issuer = Issuer::from_params(&issuing_params, &issuing_key);
        let leaf = leaf().signed_by(&leaf_key, &issuer).expect("an SVID");
        Authorities {
            root,
            issuing: issuing.der().clone(),
            leaf: leaf.der().clone(),
            issuing_key,
            leaf_key,
        }
    })
}

fn dated(serial: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&[serial; 16]));
    params.not_before = "2026-11-22T00:00:00Z"
        .parse::<Timestamp>()
        .expect("a time")
        .to_offset_date_time();
    params.not_after = "2026-11-23T00:00:00Z"
        .parse::<Timestamp>()
        .expect("a time")
        .to_offset_date_time();
    params.use_authority_key_identifier_extension = true;
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn authority(name: &str, serial: u8, below: BasicConstraints) -> CertificateParams {
    let mut params = dated(serial);
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri("spiffe://acme.test")];
    params.is_ca = IsCa::Ca(below);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf() -> CertificateParams {
    let mut params = dated(3);
    params.subject_alt_names = vec![uri(BUILDER)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// A small ledger, and the files that an auditor gets of it.
pub(crate) struct History {
    pub(crate) key: VerifyingKey,
    pub(crate) entries: Vec<Vec<u8>>,
    /// Over all entries.
    pub(crate) checkpoint: Checkpoint,
    /// Over the first few entries.
    pub(crate) older: Checkpoint,
    pub(crate) export: Vec<u8>,
    pub(crate) selection: Vec<u8>,
    /// Of the entry with index 5.
    pub(crate) proof: String,
    pub(crate) segment: Vec<u8>,
}

pub(crate) fn history() -> &'static History {
    static MADE: OnceLock<History> = OnceLock::new();
    MADE.get_or_init(|| write_history().expect("a ledger"))
}

/// The ledger's key; the same each time.
pub(crate) fn ledger_key(directory: &Path) -> SigningKey {
    let path = directory.join("ledger.key");
    SigningKey::generate(ORIGIN, &path, &SeededEntropy::new(LEDGER_SEED)).expect("a key")
}

/// A signature by the ledger's key.
pub(crate) fn ledger_signature(text: &[u8]) -> Vec<u8> {
    let mut seed = [0; 32];
    SeededEntropy::new(LEDGER_SEED)
        .fill(&mut seed)
        .expect("never fails");
    let mut document = pkcs8(0);
    document.truncate(16);
    document.extend_from_slice(&seed);
    let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(document)).expect("a key");
    rcgen::SigningKey::sign(&pair, text).expect("a signature")
}

fn write_history() -> Result<History, Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let key = ledger_key(scratch.path());
    let verifying = key.verifying_key().clone();
    let directory = scratch.path().join("ledger");
    let (mut ledger, _) = Ledger::open(&directory, Options::new(key))?;
    let entries: Vec<Vec<u8>> = (0..ENTRIES).map(entry).collect();
    let (first, others) = entries.split_at(4);
    append(&mut ledger, first)?;
    let older = ledger.checkpoint_now()?.as_ref().clone();
    append(&mut ledger, others)?;
    let checkpoint = ledger.checkpoint_now()?.as_ref().clone();
    let reader = ledger.reader();
    let (mut full, mut selection) = (Vec::new(), Vec::new());
    export::write_full(&reader, &checkpoint, &mut full)?;
    let mut odd = |index: u64, _: &[u8]| index % 2 == 1;
    export::write_selection(
        &reader,
        &checkpoint,
        0..ENTRIES,
        &mut odd,
        Some(older.size()),
        &mut selection,
    )?;
    Ok(History {
        key: verifying,
        entries,
        older,
        export: full,
        selection,
        proof: taskpass_ledger::ProofFile::new(&reader, &checkpoint, 5)?.to_string(),
        segment: std::fs::read(directory.join("segments/00000000000000000000.seg"))?,
        checkpoint,
    })
}

fn append(ledger: &mut Ledger, entries: &[Vec<u8>]) -> Result<(), taskpass_ledger::Error> {
    let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    ledger.append_batch(&entries, Priority::Normal).map(drop)
}

/// Mostly JSON; some entries are other bytes.
fn entry(index: u64) -> Vec<u8> {
    match index % 4 {
        3 => vec![0xff, 0, u8::try_from(index).unwrap_or(0)],
        _ => format!(
            r#"{{"time":"2026-11-22T10:00:{index:02}.000Z","event":{{"type":"broker_stopped"}}}}"#
        )
        .into_bytes(),
    }
}
