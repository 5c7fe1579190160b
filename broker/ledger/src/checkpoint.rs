//! The file of a ledger's newest checkpoint.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use taskpass_ledger_verify::note::NOTE_BYTES_MAX;

use crate::{
    Checkpoint, Error, VerifyingKey,
    disk::{Disk, write_all_at},
};

/// Room for the next checkpoint: it can be written on a full disk.
const SPARE_BYTES: u64 = 4096;

/// Where a ledger keeps its checkpoint.
pub(crate) fn checkpoint_path(ledger: &Path) -> PathBuf {
    ledger.join("checkpoint")
}

/// Replaces the checkpoint file atomically. It is written to the file that the call before this one
/// made and set room aside for.
pub(crate) fn store(disk: &dyn Disk, ledger: &Path, checkpoint: &Checkpoint) -> Result<(), Error> {
    let spare = ledger.join("checkpoint.next");
    let file = match disk.open(&spare) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => disk.create(&spare),
        result => result,
    };
    let file = file.map_err(Error::io("create", &spare))?;
    let note = checkpoint.note().as_bytes();
    write_all_at(file.as_ref(), note, 0).map_err(Error::io("write", &spare))?;
    file.set_len(note.len() as u64)
        .map_err(Error::io("cut", &spare))?;
    file.sync_data().map_err(Error::io("sync", &spare))?;
    let path = checkpoint_path(ledger);
    disk.rename(&spare, &path)
        .map_err(Error::io("replace", &path))?;
    disk.sync_dir(ledger).map_err(Error::io("sync", ledger))?;
    let next = disk
        .create(&spare)
        .and_then(|file| file.allocate(SPARE_BYTES));
    if let Err(error) = next {
        tracing::debug!(%error, "no room was set aside for the next checkpoint");
    }
    Ok(())
}

/// Reads and verifies the checkpoint file of a ledger that has entries.
pub(crate) fn read(path: &Path, key: &VerifyingKey) -> Result<Checkpoint, Error> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Damaged {
                segment: path.to_owned(),
                offset: 0,
                index: 0,
                reason: "the checkpoint is missing".to_owned(),
            });
        }
        file => file.map_err(Error::io("open", path))?,
    };
    let mut note = String::new();
    match file
        .take(NOTE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut note)
    {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => note.clear(),
        result => {
            result.map_err(Error::io("read", path))?;
        }
    }
    Checkpoint::open(&note, key).map_err(|source| Error::Checkpoint {
        path: path.to_owned(),
        source,
    })
}
