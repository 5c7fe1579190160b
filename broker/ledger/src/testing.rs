//! Shared by the tests of this crate: small ledgers in temporary directories.

use std::{path::PathBuf, sync::Arc};

use crate::{
    Checkpoint, Damage, Error, Ledger, OpenReport, Options, Priority, SigningKey, VerifyingKey,
    disk::FaultyDisk,
};

pub(crate) const ORIGIN: &str = "taskpass/acme.test";

pub(crate) fn key() -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap()
}

pub(crate) fn verifying() -> VerifyingKey {
    key().verifying_key().clone()
}

pub(crate) fn entry(n: u64) -> Vec<u8> {
    format!("{{\"time\":\"2026-11-22T10:00:00.000Z\",\"event\":{{\"n\":{n}}}}}").into_bytes()
}

/// A directory for one ledger.
pub(crate) struct Scratch {
    _dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) disk: FaultyDisk,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        Self {
            _dir: dir,
            path,
            disk: FaultyDisk::default(),
        }
    }

    pub(crate) fn open_with(&self, damage: Damage) -> Result<(Ledger, OpenReport), Error> {
        let options = Options {
            damage,
            disk: Arc::new(self.disk.clone()),
            ..Options::new(key())
        };
        Ledger::open(&self.path, options)
    }

    pub(crate) fn open(&self) -> Ledger {
        self.open_with(Damage::Refuse).unwrap().0
    }

    /// A ledger of `size` entries in batches of `batch`, with a checkpoint over all of them.
    pub(crate) fn filled(&self, size: u64, batch: u64) -> (Ledger, Arc<Checkpoint>) {
        let mut ledger = self.open();
        append(&mut ledger, 0..size, batch);
        let checkpoint = ledger.checkpoint_now().unwrap();
        (ledger, checkpoint)
    }

    pub(crate) fn first_segment(&self) -> PathBuf {
        self.path.join("segments/00000000000000000000.seg")
    }
}

pub(crate) fn append(ledger: &mut Ledger, range: std::ops::Range<u64>, batch: u64) {
    let mut next = range.start;
    while next < range.end {
        let end = (next + batch).min(range.end);
        let entries: Vec<Vec<u8>> = (next..end).map(entry).collect();
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let indexes = ledger.append_batch(&entries, Priority::Normal).unwrap();
        assert_eq!(indexes, next..end);
        next = end;
    }
}
