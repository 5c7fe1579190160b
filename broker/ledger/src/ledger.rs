//! The one writer of a ledger: appends batches durably and signs checkpoints.
//!
//! One thread owns it and gathers pending entries. An append takes these steps: room, one write,
//! one `fdatasync`, the leaves of the tree, and then readers see it. A failure before the last two
//! leaves the ledger as it was.

use std::{fs::File, ops::Range, sync::Arc};

use crate::{
    Archiver, Checkpoint, Error, Priority, Reader, RootsSigner, SigningKey, Unhashed, checkpoint,
    disk::Disk,
    segment::{self, ENTRY_BYTES_MAX, FRAME_BYTES, Segment},
    shared::Shared,
    tail::{Failure, Tail},
    tree::leaf_hash,
};

/// The largest batch on disk.
const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The size that the write buffer may keep between batches.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;

/// An open ledger that can be appended to. The directory is locked until this is dropped.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    key: Arc<SigningKey>,
    disk: Arc<dyn Disk>,
    tail: Tail,
    buffer: Vec<u8>,
    poisoned: bool,
    segment_bytes: u64,
    lock: Arc<File>,
    /// The entries that opening did not hash.
    unhashed: Range<u64>,
}

impl Ledger {
    pub(crate) fn assemble(
        shared: Shared,
        key: SigningKey,
        disk: Arc<dyn Disk>,
        tail: Tail,
        segment_bytes: u64,
        lock: File,
    ) -> Self {
        Self {
            shared: Arc::new(shared),
            key: Arc::new(key),
            disk,
            tail,
            buffer: Vec::new(),
            poisoned: false,
            segment_bytes,
            lock: Arc::new(lock),
            unhashed: 0..0,
        }
    }

    pub(crate) fn leave_unhashed(&mut self, entries: Range<u64>) {
        self.unhashed = entries;
    }

    /// The entries that opening did not hash; none of a small ledger.
    pub fn unhashed(&self) -> Unhashed {
        Unhashed::new(Arc::clone(&self.shared), self.unhashed.clone())
    }

    /// A view for reading; any number of them may be used on any thread.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Moves old segments to an archive, on any thread while this ledger is open.
    pub fn archiver(&self) -> Archiver {
        Archiver::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.key),
            Arc::downgrade(&self.lock),
        )
    }

    /// Signs roots with the key of this ledger.
    pub fn roots_signer(&self) -> RootsSigner {
        RootsSigner::new(Arc::clone(&self.key))
    }

    /// Appends entries in order and returns their indexes once all of them are durable.
    ///
    /// All or nothing: on an error none of them is in the ledger. If a failure leaves the content
    /// of the disk unknown, each further append fails with [`Error::Poisoned`] until the ledger is
    /// opened anew.
    pub fn append_batch(
        &mut self,
        entries: &[&[u8]],
        priority: Priority,
    ) -> Result<Range<u64>, Error> {
        let first = self.shared.state().edge.size();
        if self.poisoned {
            return Err(Error::Poisoned {
                path: self.shared.ledger.clone(),
            });
        }
        if entries.is_empty() {
            return Ok(first..first);
        }
        check(entries)?;
        self.roll(first, priority)?;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        for (index, entry) in (first..).zip(entries) {
            segment::encode(index, index == first, entry, &mut self.buffer);
        }
        if let Err(failure) = self.tail.append(&self.buffer, priority) {
            return Err(self.failed(failure));
        }
        self.publish(entries);
        Ok(first..first + entries.len() as u64)
    }

    /// Signs the tree of all entries and keeps the checkpoint durably. Does nothing if it is signed
    /// already.
    pub fn checkpoint_now(&mut self) -> Result<Arc<Checkpoint>, Error> {
        let (size, root) = {
            let state = self.shared.state();
            if state.checkpoint.size() == state.edge.size() {
                return Ok(Arc::clone(&state.checkpoint));
            }
            (state.edge.size(), state.edge.root())
        };
        let checkpoint = Arc::new(Checkpoint::sign(size, root, self.key.as_ref()));
        checkpoint::store(self.disk.as_ref(), &self.shared.ledger, &checkpoint)?;
        self.shared.state_mut().checkpoint = Arc::clone(&checkpoint);
        Ok(checkpoint)
    }

    /// Begins a new segment when the current one is full.
    fn roll(&mut self, next: u64, priority: Priority) -> Result<(), Error> {
        if self.tail.end() < self.segment_bytes {
            return Ok(());
        }
        match Tail::create(&self.disk, &self.shared.ledger, next) {
            Ok(tail) => {
                std::mem::replace(&mut self.tail, tail).finish();
                self.shared.state_mut().segments.push(Segment::empty(next));
                Ok(())
            }
            // The old segment still has its reserve; it may grow beyond its limit by that much.
            Err(Failure::Clean(Error::DiskFull { .. })) if priority != Priority::Normal => Ok(()),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    fn failed(&mut self, failure: Failure) -> Error {
        match failure {
            Failure::Clean(error) => error,
            Failure::Unknown(error) => {
                self.poisoned = true;
                error
            }
        }
    }

    /// Makes durable entries visible. Full tiles are kept first, since a reader may look for them
    /// at once.
    fn publish(&self, entries: &[&[u8]]) {
        let mut edge = self.shared.state().edge.clone();
        let mut full = Vec::new();
        for entry in entries {
            edge.push(leaf_hash(entry), &mut full);
        }
        self.shared.keep(full);
        let mut state = self.shared.state_mut();
        state.edge = edge;
        if let Some(segment) = state.segments.last_mut() {
            for entry in entries {
                segment.push(FRAME_BYTES + entry.len());
            }
        }
    }
}

fn check(entries: &[&[u8]]) -> Result<(), Error> {
    let mut bytes: usize = 0;
    for entry in entries {
        if entry.is_empty() {
            return Err(Error::EmptyEntry);
        }
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(Error::EntryTooLarge { bytes: entry.len() });
        }
        bytes = bytes.saturating_add(FRAME_BYTES + entry.len());
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(Error::BatchTooLarge { bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
