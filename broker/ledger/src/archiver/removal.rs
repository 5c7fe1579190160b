//! Deleting segments of the ledger that have a compared copy in an archive.

use std::{mem, path::Path};

use taskpass_files::sync_dir;

use super::{
    ArchiveError, Archiver, Copied,
    place::{FileId, Place},
};
use crate::{
    base::Base,
    scan,
    segment::{self, Segment},
};

/// A copy that was compared with the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) id: FileId,
}

/// What became of segments that are in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// How many files were deleted.
    pub deleted: u64,
    /// How many stay until a later run: an export that began before still reads them.
    pub held: u64,
}

impl Archiver {
    /// Lets the ledger begin behind the copied segments, and deletes them here.
    pub fn forget(&self, copied: &Copied) -> Result<Forgotten, ArchiveError> {
        let _open = self.lock.upgrade().ok_or(ArchiveError::Closed)?;
        let ledger = self.shared.ledger.as_path();
        let place = self.place(&copied.archive)?;
        for copy in &copied.copies {
            is_apart(&place, copy, ledger)?;
        }
        if copied.next > self.shared.state().first {
            let base = Base::sign(self.shared.edge_at(copied.next)?, &self.key);
            base.store(ledger)?;
            let mut state = self.shared.state_mut();
            state.first = copied.next;
            let segments = mem::take(&mut state.segments);
            let (gone, kept) = segments.into_iter().partition(|it| it.first < copied.next);
            state.segments = kept;
            let gone: Vec<Segment> = gone;
            // A pin is made under the same lock, so none comes before these any more.
            if let Some(pinned) = self.shared.pinned() {
                let needed = gone.into_iter().filter(|it| it.next() > pinned);
                state.leaving.extend(needed);
            }
        }
        self.delete(&place, &copied.copies)
    }

    /// Deletes segments from before the ledger's first entry: a run was killed or an export held
    /// them, or a person put them back. Each copy is compared with the tree again. A segment
    /// without a copy in this archive stays.
    pub fn clean_up(&self, archive: &Path) -> Result<Forgotten, ArchiveError> {
        let _open = self.lock.upgrade().ok_or(ArchiveError::Closed)?;
        let ledger = self.shared.ledger.as_path();
        let first = self.shared.state().first;
        let mut left = scan::list(ledger)?;
        left.retain(|it| *it < first);
        if left.is_empty() {
            return Ok(Forgotten::default());
        }
        let place = self.place(archive)?;
        let there = scan::list(archive)?;
        let mut copies = Vec::new();
        for old in left {
            let path = place.path_of(old);
            let Some(copy) = place.segment(old)? else {
                tracing::warn!(
                    segment = %Segment::empty(old).path(ledger).display(),
                    "the segment is from before the ledger's first entry and stays: this archive has no copy of it"
                );
                continue;
            };
            let behind = there.iter().find(|it| **it > old).copied();
            let next = behind.map_or(first, |it| it.min(first));
            let expected = Segment::unread(old, next, 0);
            let compared = self.compare(copy, &expected, archive)?;
            copies.push(compared.map_err(|source| ArchiveError::Foreign { path, source })?);
        }
        self.delete(&place, &copies)
    }

    fn place(&self, archive: &Path) -> Result<Place, ArchiveError> {
        let path = archive.to_owned();
        Place::open(archive, &self.shared.ledger)?.ok_or(ArchiveError::NotBegun { path })
    }

    fn delete(&self, place: &Place, copies: &[Copy]) -> Result<Forgotten, ArchiveError> {
        let ledger = self.shared.ledger.as_path();
        let pinned = self.shared.pinned();
        let mut forgotten = Forgotten::default();
        for copy in copies {
            if pinned.is_some_and(|pinned| copy.next > pinned) {
                forgotten.held += 1;
            } else if is_apart(place, copy, ledger)? {
                taskpass_files::remove(&Segment::empty(copy.first).path(ledger))?;
                let mut state = self.shared.state_mut();
                state.leaving.retain(|it| it.first != copy.first);
                forgotten.deleted += 1;
            }
        }
        if forgotten.deleted > 0 {
            sync_dir(&segment::directory(ledger))?;
        }
        Ok(forgotten)
    }
}

/// Whether the original is there and the copy is still the file that was compared, and another one
/// than the original. Fails if the copy is not.
fn is_apart(place: &Place, copy: &Copy, ledger: &Path) -> Result<bool, ArchiveError> {
    let path = place.path_of(copy.first);
    let id = match place.segment(copy.first)? {
        Some(file) => FileId::of_open(&file, &path)?,
        None => return Err(ArchiveError::Exchanged { path }),
    };
    if id != copy.id {
        return Err(ArchiveError::Exchanged { path });
    }
    match FileId::of_original(ledger, copy.first)? {
        Some(original) if original == id => Err(ArchiveError::Original { path }),
        original => Ok(original.is_some()),
    }
}
