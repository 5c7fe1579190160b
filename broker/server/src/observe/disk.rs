//! The ledger's disk, with its syncs measured.

use std::{io, path::Path, sync::Arc};

use taskpass_core::Clock;
use taskpass_ledger::disk::{Disk, DiskFile};
use taskpass_metrics::Metrics;

/// Another disk, measured.
#[derive(Debug)]
pub(crate) struct ObservedDisk {
    inner: Arc<dyn Disk>,
    gauge: Gauge,
}

#[derive(Debug, Clone)]
struct Gauge {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl ObservedDisk {
    pub(crate) fn new(inner: Arc<dyn Disk>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner,
            gauge: Gauge { metrics, clock },
        }
    }

    fn observed(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(ObservedFile {
            inner,
            gauge: self.gauge.clone(),
        })
    }
}

impl Disk for ObservedDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.create(path).map(|file| self.observed(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open(path).map(|file| self.observed(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
}

#[derive(Debug)]
struct ObservedFile {
    inner: Box<dyn DiskFile>,
    gauge: Gauge,
}

impl DiskFile for ObservedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let taken = self.inner.write_at(bytes, offset)?;
        self.gauge.metrics.ledger.wrote(taken);
        Ok(taken)
    }

    fn sync_data(&self) -> io::Result<()> {
        let Gauge { metrics, clock } = &self.gauge;
        let began = clock.monotonic();
        let synced = self.inner.sync_data();
        metrics
            .ledger
            .synced(clock.monotonic().saturating_sub(began));
        synced
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, end: u64) -> io::Result<()> {
        self.inner.allocate(end)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }
}
