//! The state from an image, where one fits the ledger and the index.

use std::{
    path::Path,
    thread::{self, Scope, ScopedJoinHandle},
};

use taskpass_core::Digest;

use super::LedgerKey;
use crate::{
    image::{Image, ImageError, ImageKey, Standing},
    imager::EVERY_ENTRIES,
    index::{FORMAT, Meta},
    log::Entries,
    state::{Change, State},
};

/// An image that is being read, while the ledger and the index are opened.
pub(super) struct Reading<'s>(Option<ScopedJoinHandle<'s, Option<Imaged>>>);

/// The state of an image.
struct Imaged {
    standing: Standing,
    state: State,
}

impl<'s> Reading<'s> {
    pub(super) fn begin<'e>(scope: &'s Scope<'s, 'e>, path: &'e Path, key: &'e ImageKey) -> Self {
        let thread = thread::Builder::new().name("store-image".to_owned());
        let reading = thread.spawn_scoped(scope, move || match read(path, key) {
            Ok(imaged) => imaged,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the image of the live records is not used; the index has them, too");
                None
            }
        });
        // Without a thread for it, the index is read.
        Self(reading.ok())
    }

    /// The state, which may be some entries behind the index. `None` when there is no image that
    /// fits: the rows of the index are read then.
    pub(super) fn state(
        &mut self,
        key: &LedgerKey,
        ledger: &dyn Entries,
        meta: &Meta,
    ) -> Option<State> {
        let imaged = self.0.take()?.join().ok()??;
        fits(&imaged.standing, key, ledger, meta).then_some(imaged.state)
    }
}

fn read(path: &Path, key: &ImageKey) -> Result<Option<Imaged>, ImageError> {
    let Some(image) = Image::open(path, key)? else {
        return Ok(None);
    };
    let standing = image.standing().clone();
    let mut state = State::default();
    state.set(&Change::Position(standing.position, standing.time));
    state.set(&Change::TrustDomain(standing.trust_domain.clone()));
    image.each_part(|records| {
        for record in &records {
            state.set(record);
        }
    })?;
    Ok(Some(Imaged { standing, state }))
}

fn fits(standing: &Standing, key: &LedgerKey, ledger: &dyn Entries, meta: &Meta) -> bool {
    // Ahead of the index, the entries between would be missing in it.
    let Some(behind) = meta.position.checked_sub(standing.position) else {
        return false;
    };
    let last = standing.position.checked_sub(1);
    let last = last.and_then(|last| ledger.genuine(last).ok());
    standing.origin == key.origin
        && standing.index == (FORMAT, meta.begun_at)
        && behind <= EVERY_ENTRIES.max(standing.records).saturating_mul(2)
        && last.is_some_and(|entry| Digest::of(&entry).to_string() == standing.entry_sha256)
}
