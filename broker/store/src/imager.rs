//! Makes images of the live records now and then, and when the store closes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use taskpass_core::Digest;
use taskpass_files::unfinished;

use crate::{
    history::has_room,
    image::{self, ImageError, ImageKey, Standing},
    index::{FORMAT, Index},
    log::Entries,
    shared::Shared,
};

/// The image, in the directory of the store.
pub(crate) const FILE: &str = "live.image";
/// An image is made again after so many entries, or after as many as it has records. Replaying an
/// entry takes about as long as reading a few records.
pub(crate) const EVERY_ENTRIES: u64 = 32_768;
/// With fewer records, the index is read as fast.
const RECORDS_MIN: usize = 1000;
/// More than a record takes in an image.
const RECORD_BYTES: u64 = 1024;

/// The parts that an image is made of.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) key: ImageKey,
    pub(crate) origin: String,
    pub(crate) index: Arc<Index>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) entries: Arc<dyn Entries>,
}

/// Makes images.
#[derive(Debug)]
pub(crate) struct Imager {
    source: Arc<Source>,
    /// Where the last image stands, and how many records it has.
    last: (u64, u64),
    making: Option<JoinHandle<Option<Standing>>>,
}

impl Imager {
    /// `position` is how far the state is that the start made.
    pub(crate) fn new(source: Source, position: u64) -> Self {
        Self {
            source: Arc::new(source),
            last: (position, 0),
            making: None,
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.source.shared)
    }

    /// Makes an image on a thread of its own, if one is due with the index at `position`.
    pub(crate) fn make_when_due(&mut self, position: u64) {
        if self.making.as_ref().is_some_and(JoinHandle::is_finished) {
            self.wait();
        }
        let (last, records) = self.last;
        let is_due = position.saturating_sub(last) >= EVERY_ENTRIES.max(records);
        if !is_due || self.making.is_some() {
            return;
        }
        let source = Arc::clone(&self.source);
        let thread = thread::Builder::new().name("store-image".to_owned());
        self.making = thread.spawn(move || source.make()).ok();
        self.last = (position, records);
    }

    /// Makes the last image.
    pub(crate) fn close(mut self) {
        self.wait();
        self.source.make();
    }

    /// Makes no more, and removes the last one: the next start reads the index.
    pub(crate) fn discard(mut self) {
        self.wait();
        if let Err(error) = remove(&self.source.path) {
            tracing::warn!(%error, path = %self.source.path.display(), "the image of the live records could not be removed");
        }
    }

    /// Waits for the image that is being made.
    pub(crate) fn wait(&mut self) {
        let made = self.making.take().and_then(|making| making.join().ok());
        if let Some(Some(standing)) = made {
            self.last = (standing.position, standing.records);
        }
    }
}

impl Drop for Imager {
    fn drop(&mut self) {
        self.wait();
    }
}

/// Removes an image, and one that was not finished, durably.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let mut found = false;
    for file in [path.to_owned(), unfinished(path)] {
        match fs::remove_file(file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => {
                removed?;
                found = true;
            }
        }
    }
    match path.parent().filter(|_| found) {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl Source {
    /// Makes an image of the records as they are now. Returns where it stands.
    fn make(&self) -> Option<Standing> {
        match self.try_to_make() {
            Ok(made) => made,
            Err(error) => {
                let path = self.path.display();
                tracing::debug!(%error, %path, "no image of the live records was made; the next start reads the index");
                None
            }
        }
    }

    fn try_to_make(&self) -> Result<Option<Standing>, ImageError> {
        // The lock is held only until every record is named: commits wait for it.
        let (records, position, time, trust_domain) = {
            let state = self.shared.state.read();
            let domain = state.trust_domain().cloned();
            (state.records(), state.next(), state.last_time(), domain)
        };
        let bytes = records.len() as u64 * RECORD_BYTES;
        if records.len() >= RECORDS_MIN && !has_room(&self.path, bytes) {
            // The ledger needs the rest of the disk more than the next start needs an image.
            return Ok(None);
        }
        let Some(last) = position
            .checked_sub(1)
            .filter(|_| records.len() >= RECORDS_MIN)
        else {
            remove(&self.path)?;
            return Ok(None);
        };
        let entry = self.entries.entry(last).map_err(io::Error::other)?;
        let standing = Standing {
            origin: self.origin.clone(),
            index: (FORMAT, self.index.begun_at()),
            position,
            entry_sha256: Digest::of(&entry).to_string(),
            time,
            trust_domain,
            records: records.len() as u64,
        };
        image::write(&self.path, &self.key, &standing, &records)?;
        Ok(Some(standing))
    }
}
