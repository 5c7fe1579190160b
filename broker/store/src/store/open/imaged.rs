//! The state from an image, where one fits the ledger and the index.

use taskpass_core::Digest;

use super::{Config, LedgerKey};
use crate::{
    image::{Image, ImageError, Standing},
    imager::{EVERY_ENTRIES, FILE},
    log::Entries,
    state::{Change, State},
};

/// The state from the image, which may be some entries behind the index at `indexed`. `None` when
/// there is none that fits: the rows of the index are read then.
pub(super) fn state(
    config: &Config,
    key: &LedgerKey,
    ledger: &dyn Entries,
    indexed: u64,
) -> Option<State> {
    let path = config.dir.join(FILE);
    match read(config, key, ledger, indexed) {
        Ok(state) => state,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the image of the live records is not used; the index has them, too");
            None
        }
    }
}

fn read(
    config: &Config,
    key: &LedgerKey,
    ledger: &dyn Entries,
    indexed: u64,
) -> Result<Option<State>, ImageError> {
    let Some(image) = Image::open(&config.dir.join(FILE), &key.image)? else {
        return Ok(None);
    };
    let standing = image.standing();
    if !fits(standing, key, ledger, indexed) {
        return Ok(None);
    }
    let mut state = State::default();
    state.set(&Change::Position(standing.position, standing.time));
    state.set(&Change::TrustDomain(standing.trust_domain.clone()));
    image.each_part(|records| {
        for record in &records {
            state.set(record);
        }
    })?;
    Ok(Some(state))
}

fn fits(standing: &Standing, key: &LedgerKey, ledger: &dyn Entries, indexed: u64) -> bool {
    // Ahead of the index, the entries between would be missing in it.
    let Some(behind) = indexed.checked_sub(standing.position) else {
        return false;
    };
    let last = standing.position.checked_sub(1);
    let last = last.and_then(|last| ledger.entry(last).ok());
    standing.origin == key.origin
        && behind <= EVERY_ENTRIES.max(standing.records).saturating_mul(2)
        && last.is_some_and(|entry| Digest::of(&entry).to_string() == standing.entry_sha256)
}
